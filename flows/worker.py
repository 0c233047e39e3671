"""``saint worker``: Prefect workers of this machine, one to a GPU, each with its own card and room for one job.

A worker that dies is started again; what it was doing goes on without it, and the device guard keeps its next job waiting.

Told to stop, Prefect's own worker ends its jobs with itself, or where a shell made it deaf to Ctrl-C never ends at all. So
it is killed, which its jobs survive, and ``saint worker`` waits for those.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from artifacts.lease import process_started
from flows.server import POOLS, apply, unusable
from flows.signals import hear
from tasks.devices import cards
from tasks.spec import SpecError

_RESTART_SECONDS = 5.0
_LOOK_SECONDS = 0.2


def worker(pool: str, n: int, share: int) -> int:
    """Run workers until told to stop. ``n`` of them (0: one to a GPU, else one), ``share`` jobs at a time on each.

    SIGTERM, Ctrl-C and a terminal that closes: no job is taken any more, those that run come to their end; a second one ends those
    too.
    Raises ``SpecError`` and ``ServerFailed``.
    """
    if not os.environ.get("PREFECT_API_URL"):
        raise SpecError("saint worker, but PREFECT_API_URL names no server; export the address of yours")
    apply()
    _check(pool)
    gpus: list[str | None] = list(_visible()) if pool != "cpu" else []
    if n and gpus and n > len(gpus):
        raise SpecError(f"--n {n}, but this machine shows {len(gpus)} GPUs; use at most so many, or --share for more to one")
    devices = (gpus[: n or None]) or [None] * (n or 1)
    told: list[int] = []

    hear(told.append)
    signal.signal(signal.SIGINT, lambda number, frame: told.append(number))
    crew = [_Worker(pool, k, device, share) for k, device in enumerate(devices)]
    for one in crew:
        print(f"worker {one.name} of pool {pool}, {one.device or 'no GPU'}, {share} at a time", flush=True)
    while not told:
        for one in crew:
            one.look()
        time.sleep(_LOOK_SECONDS)
    jobs = [job for one in crew for job in one.dismiss()]
    if any(process_started(job) is not None for job in jobs):
        print(f"no job is taken any more; waiting for {len(jobs)} that run; once more ends those", file=sys.stderr, flush=True)
    while any(process_started(job) is not None for job in jobs) and len(told) == 1:
        time.sleep(_LOOK_SECONDS)
    for job in jobs:
        with suppress(ProcessLookupError):
            os.kill(job, signal.SIGTERM)  # what they committed stays, and their checkpoints
    return 0


def _check(pool: str) -> None:
    """Refuse a pool that is not there: Prefect would make one of that name, which no run uses."""
    import httpx

    from flows.checks.server import headers

    url = os.environ["PREFECT_API_URL"].rstrip("/")
    try:
        answer = httpx.get(f"{url}/work_pools/{pool}", headers=headers(os.environ), timeout=60)
        if answer.status_code == 404:
            raise SpecError(
                f"--pool {pool!r}, but the server at {url} has no such pool; use {' or '.join(POOLS)}, after: saint deploy"
            )
        answer.raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise unusable(error) from error


def _visible() -> list[str]:
    """UUIDs of the GPUs that this process may use."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return cards()
    found = []
    for name in filter(None, (v.strip() for v in allowed.split(","))):
        if not name.isdigit():
            found.append(name)
        elif int(name) < len(cards()):
            found.append(cards()[int(name)])
    return found


class _Worker:
    """One Prefect worker process."""

    def __init__(self, pool: str, number: int, device: str | None, share: int) -> None:
        self.name = f"{pool}-{socket.gethostname()}-{number}"
        self.device, self._pool, self._share = device, pool, share
        self._again = 0.0
        self._start()

    def look(self) -> None:
        """Start it again, a while after it ended."""
        if self._process.poll() is None:
            return
        if not self._again:
            print(f"worker {self.name} ended ({self._process.returncode}); starting it again", file=sys.stderr, flush=True)
            self._again = time.monotonic() + _RESTART_SECONDS
        elif time.monotonic() > self._again:
            self._start()

    def dismiss(self) -> list[int]:
        """End it without its jobs; returns their pids."""
        jobs = _children(self._process.pid)
        self._process.kill()
        self._process.wait()
        return jobs

    def _start(self) -> None:
        # The folder of this Python comes first: jobs are started as `python`, and must be this environment's.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        device = {} if self.device is None else {"CUDA_VISIBLE_DEVICES": self.device}
        self._again = 0.0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", self._pool, "--type", "process",
             "--name", self.name, "--limit", str(self._share)],
            env={"PREFECT_WORKER_QUERY_SECONDS": "2", **os.environ, "PATH": path, **device},
            start_new_session=True,  # Ctrl-C comes to us alone
        )  # fmt: skip


def _children(pid: int) -> list[int]:
    """Processes that another one started."""
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]
