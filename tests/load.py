"""Load on a Prefect server: several processes, each with flows of many small stages that write a line of log.

The flows are as ``flows.running`` makes them: no cache, no persisted results, the quiet environment.
``python -m tests.load FLOWS STAGES`` is one of the processes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flows.server import QUIET
from tests.servers import PrefectServer, env_file, post

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Outcome:
    """What a load met."""

    wanted: int
    """Flows."""

    ok: int
    """Flows whose process saw them end well."""

    seconds: float
    slowest: float
    """Seconds of the slowest flow."""

    server_cpu: float
    """Seconds of the Prefect server's processor time."""

    locked: int
    """Times that SQLite told the server ``database is locked``, if the server logs what clients may ask again."""

    recorded: int
    """Task runs that the server knows to be completed."""

    said: tuple[str, ...]
    """First line of each lost flow's error."""


def client_settings() -> dict[str, str]:
    """The settings of ``deployments/server.env`` that the client reads."""
    return {n: v for n, v in env_file(ROOT / "deployments/server.env").items() if n.startswith("PREFECT_CLIENT_")}


def load(server: PrefectServer, processes: int, flows: int, stages: int, client: Mapping[str, str]) -> Outcome:
    """Put the load on a server and wait for its end."""
    log_begin, cpu_begin, begun = server.log.stat().st_size, server.cpu_seconds(), time.monotonic()
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    quiet = {name: value for name, value in QUIET.items() if not name.startswith("PREFECT_CLIENT_")}  # ``client`` says
    env = {**outside, **quiet, **client, "PREFECT_API_URL": server.url, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.load", str(flows), str(stages)]
    with tempfile.TemporaryDirectory() as homes:
        running = [
            subprocess.Popen(
                command, env={**env, "PREFECT_HOME": f"{homes}/{i}"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            for i in range(processes)
        ]
        printed = [process.communicate()[0] for process in running]
    seconds = time.monotonic() - begun
    found = [json.loads(line) for out in printed for line in out.splitlines() if line.startswith("{")]
    with open(server.log, "rb") as log:
        log.seek(log_begin)
        locked = sum(line.startswith(b"sqlite3.OperationalError: database is locked") for line in log)
    lost = [flow["error"] for flow in found if flow["error"]]
    return Outcome(
        wanted=processes * flows,
        ok=len(found) - len(lost),
        seconds=seconds,
        slowest=max((flow["seconds"] for flow in found), default=float("nan")),
        server_cpu=server.cpu_seconds() - cpu_begin,
        locked=locked,
        recorded=_recorded(server.url, processes * flows * stages),
        said=tuple(lost),
    )


def _recorded(url: str, wanted: int) -> int:
    """Completed task runs, once the server has caught up with the events that tell of them."""
    filtered = {"task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}, "flows": {"name": {"any_": ["load"]}}}
    most, limit = -1, time.monotonic() + 60
    while (n := post(url, "/task_runs/count", filtered)) < wanted and time.monotonic() < limit:
        if n > most:  # on a busy machine it lags behind by a minute
            most, limit = n, time.monotonic() + 60
        time.sleep(0.5)
    return n


def main(flows: int, stages: int) -> None:
    """Run flows one after the other; a line of JSON for each."""
    import prefect
    from prefect.cache_policies import NO_CACHE

    def body(i: int) -> None:
        prefect.get_run_logger().warning("stage %d: 12,345 tokens/s", i)

    @prefect.flow(name="load", persist_result=False, validate_parameters=False)
    def flow() -> None:
        for i in range(stages):
            prefect.task(name="stage", cache_policy=NO_CACHE, persist_result=False, log_prints=False)(lambda i=i: body(i))()

    for _ in range(flows):
        begun, error = time.monotonic(), None
        try:
            flow()
        except Exception as failure:  # whatever it is, it is the figure that we are after
            error = f"{type(failure).__name__}: {failure}".splitlines()[0]
        print(json.dumps({"seconds": time.monotonic() - begun, "error": error}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
