"""A lab on one machine: a Prefect server, deployments, workers of both pools, a store; and ways to break each of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from artifacts.gc import orphans
from artifacts.store import Store
from flows.runs import events, recorded
from tests.servers import ROOT, PrefectServer, post, prefect_server
from tests.small import overrides
from tests.warm import Started, start


def children(pid: int) -> list[int]:
    """Processes below one, the nearest first."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found = list(parents.get(pid, []))
    for child in list(found):
        found += children(child)
    return found


class Workplace:
    """All of it. ``run`` gives the command that a user gives; it may be given again at any time."""

    def __init__(self, folder: Path, server: PrefectServer | None = None) -> None:
        self.folder, self.server = folder, server
        self.workers: dict[str, subprocess.Popen] = {}
        self.overrides = overrides(folder)

    @property
    def env(self) -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
            "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PREFECT_API_URL": self.server.url if self.server else "",
            "PREFECT_HOME": str(self.folder / "client"), "PREFECT_CLIENT_MAX_RETRIES": "12",
        }  # fmt: skip

    def saint(self, *arguments: str, timeout: float = 280, **env: str) -> subprocess.CompletedProcess:
        """A command, to its end."""
        process = self.start(*arguments, **env)
        try:
            out, said = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, said = process.communicate()
            raise AssertionError(f"{arguments} did not end:\n{out[-2000:]}\n{said[-2000:]}") from None
        assert "Traceback" not in said, said
        return subprocess.CompletedProcess(process.args, process.returncode, out, said)

    def start(self, *arguments: str, **env: str) -> Started:
        """A command that goes on."""
        return start(*arguments, cwd=self.folder, env={**self.env, **env})

    def sweep(self, store: Path | Sequence[str], *more: str, mode: str = "pool") -> list[str]:
        """The arguments of a sweep into a store: a folder, or the overrides that name another place."""
        backend = [f"backend.root={store}"] if isinstance(store, Path) else store
        return ["run", "-m", *self.overrides, *backend, f"runtime.mode={mode}",
                "runtime.checkpoint_seconds=0.2", "runtime.lane_idle_seconds=5", *more]  # fmt: skip

    def open(self, code: Path = ROOT) -> None:
        """Start workers: two lanes at a time, and room for runs that watch over them; ``code`` is what they import."""
        self.employ("gpu", "--n", "2", code=code)
        self.employ("cpu", "--share", "6", code=code)

    def employ(self, pool: str, *how: str, code: Path = ROOT) -> None:
        """Start the workers of a pool."""
        log = open(self.folder / f"worker-{pool}.log", "ab")  # noqa: SIM115 - the process keeps it
        self.workers[pool] = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "worker", "--pool", pool, *how],
            cwd=self.folder, env={**self.env, "PYTHONPATH": str(code)}, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip

    def crew(self) -> list[int]:
        """Every process of the workers and of the jobs that they run."""
        return [pid for worker in self.workers.values() for pid in [worker.pid, *children(worker.pid)]]

    def jobs(self, store: Path) -> tuple[list[int], list[int]]:
        """Pids of the lanes, and of the processes that watch over them, of all runs of a store; dead or alive."""
        here = Store.at(store)
        found = recorded(here)
        lanes = [e["pid"] for run in found for e in events(here, run["id"]) if e["what"] == "lane began"]
        return lanes, [run["process"]["pid"] for run in found]

    def close(self) -> None:
        """End the workers and whatever they left."""
        left = self.crew()
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for worker in self.workers.values():
            worker.wait()
        self.workers.clear()


@contextmanager
def workplace(folder: Path, database: str | None = None) -> Iterator[Workplace]:
    """A lab that is set up as deployments/README.md says, without workers yet."""
    folder.mkdir(parents=True, exist_ok=True)
    with prefect_server(folder / "server", database) as server:
        place = Workplace(folder, server)
        done = place.saint("deploy")
        assert done.returncode == 0, done.stderr
        try:
            yield place
        finally:
            place.close()


def alive(pid: int) -> bool:
    """Whether a process runs: not gone, not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def kill(pids: Sequence[int], number: int = signal.SIGKILL) -> int:
    """Send a signal to those that live; how many there were."""
    n = 0
    for pid in pids:
        if alive(pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
                n += 1
    return n


def until(what: Any, seconds: float = 240, why: str = "") -> Any:
    """Wait for something to be true; returns it."""
    limit = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < limit, why or "waited in vain"
        time.sleep(0.1)
    return found


# what must hold of a store after any accident, once the same command was given again


def digests(store: Store) -> dict[str, dict[str, str]]:
    """Artifact to the digests of its files: tensors and tables, not what tells of seconds."""
    return {
        f"{a.stage}/{a.key}": {
            f.path: f.digest for f in store.find(a).files if not f.path.endswith(("log.parquet", ".html"))
        }
        for a in store.artifacts()
    }


def made(store: Store) -> dict[str, int]:
    """Artifact to how often any process of any run said that it made it."""
    found: dict[str, int] = {}
    for run in recorded(store):
        for event in events(store, run["id"]):
            if event["what"] == "made":
                found[event["artifact"]] = found.get(event["artifact"], 0) + 1
    return found


def tidy(store: Store, again: frozenset[str] = frozenset()) -> None:
    """Assert that nothing of an accident is left: no lease, no orphan, no damage, nothing made twice but ``again``."""
    left = {
        "leases": list(store.backend.paths("leases")),
        "orphans": list(orphans(store)),
        "faults": [fault for a in store.artifacts() for fault in store.verify(a)],
        "made again": {a: n for a, n in made(store).items() if n > 1 + (a in again)},
    }
    assert not any(left.values()), left


def guarded_in_turn(store: Store, guard: str) -> int:
    """Assert that no two processes held a device guard at once, by what they told; how often it was taken."""
    told = []
    for run in recorded(store):
        told += [e for e in events(store, run["id"]) if e.get("device") == guard and e["what"].startswith("device")]
    holder: int | None = None
    for event in sorted(told, key=lambda e: e["when"]):
        if event["what"] == "device taken":
            assert holder is None or not alive(holder) or holder == event["pid"], (holder, event)
            holder = event["pid"]
        elif holder == event["pid"]:
            holder = None
    return sum(e["what"] == "device taken" for e in told)


def flow_states(place: Workplace) -> list[dict[str, Any]]:
    """Flow runs that the server knows, the newest first."""
    try:
        return post(place.server.url, "/flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 50})
    except OSError as error:
        raise AssertionError(f"{error!r}; the server said:\n{place.server.log.read_text()[-5000:]}") from None


def parsed(text: str) -> dict[str, Any]:
    """JSON that a command printed."""
    return json.loads(text)
