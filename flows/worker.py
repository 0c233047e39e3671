"""``saint worker``: Prefect workers of this machine, one to a GPU, each with its own card and room for one job.

A worker that dies is started again; what it was doing goes on without it, and the device guard keeps its next job waiting.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from flows.server import apply
from tasks.devices import cards
from tasks.spec import SpecError

_RESTART_SECONDS = 5.0


def worker(pool: str, n: int, share: int) -> int:
    """Run workers until interrupted. ``n`` of them (0: one to a GPU, else one), ``share`` jobs at a time on each.

    SIGTERM and Ctrl-C stop taking jobs and wait for those that run; a second one ends those too.
    """
    if not os.environ.get("PREFECT_API_URL"):
        raise SpecError("saint worker, but PREFECT_API_URL names no server; export the address of yours")
    apply()
    gpus: list[str | None] = list(_visible()) if pool != "cpu" else []
    if n and gpus and n > len(gpus):
        raise SpecError(f"--n {n}, but this machine shows {len(gpus)} GPUs; use at most so many, or --share for more to one")
    devices = (gpus[: n or None]) or [None] * (n or 1)
    crew = [_Worker(pool, k, device, share) for k, device in enumerate(devices)]
    stopping: list[int] = []

    def stop(number: int, frame: Any) -> None:
        stopping.append(number)
        for one in crew:
            one.process.send_signal(signal.SIGTERM)  # Prefect's second one ends its children

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    for one in crew:
        print(f"worker {one.name} of pool {pool}, {one.device or 'no GPU'}, {share} at a time", flush=True)
    while not stopping or any(one.process.poll() is None for one in crew):
        for one in crew:
            if not stopping and one.process.poll() is not None:
                print(f"worker {one.name} ended ({one.process.returncode}); starting it again", file=sys.stderr, flush=True)
                time.sleep(_RESTART_SECONDS)
                one.start()
        time.sleep(0.2)
    return 0


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
        self.start()

    def start(self) -> None:
        # The folder of this Python comes first: jobs are started as `python`, and must be this environment's.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        device = {} if self.device is None else {"CUDA_VISIBLE_DEVICES": self.device}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", self._pool, "--type", "process",
             "--name", self.name, "--limit", str(self._share)],
            env={"PREFECT_WORKER_QUERY_SECONDS": "2", **os.environ, "PATH": path, **device},
            start_new_session=True,  # Ctrl-C comes to us, who tell each worker once
        )  # fmt: skip
