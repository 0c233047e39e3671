"""Device guards: one job to a GPU, whoever started it.

A worker that dies leaves its job running; started again, it takes a second one for the same GPU. Prefect's limits count
jobs and do not know devices, so each job takes a lock of the device itself: a flock, which the kernel gives back
when its holder dies, under a name that all processes of this host agree on.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

from tasks.progress import Progress
from tasks.spec import Runtime

POLL_SECONDS = 0.5

_held: dict[str, list[Any]] = {}
"""Guards that this process holds: the open file, how many blocks hold it, and what is done before it is given back."""


def folder() -> Path:
    """Where guards of this host lie: one place for all users, so writable by all."""
    path = Path(tempfile.gettempdir()) / "saint-devices"
    path.mkdir(exist_ok=True)
    with suppress(OSError):  # somebody else's folder, who has done it
        path.chmod(0o1777)
    return path


def guard_name(runtime: Runtime) -> str | None:
    """What a job has to lock before it computes here: a GPU's UUID, or None on a CPU."""
    if runtime.guard is not None:
        return runtime.guard
    if runtime.device == "cpu" or runtime.device.startswith("mps"):
        return None
    visible = [v.strip() for v in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if v.strip()]
    if not visible and not cards():
        return None  # no driver: torch will say so, if a GPU was asked for
    index = int(runtime.device.partition(":")[2] or 0)
    if visible:
        if index >= len(visible):
            return None
        if not visible[index].isdigit():
            return visible[index]  # a UUID, as ``saint worker`` sets it
        index = int(visible[index])
    return cards()[index] if index < len(cards()) else None


@cache
def cards() -> list[str]:
    """UUIDs of this host's NVIDIA GPUs in the order of the bus; empty without a driver. Does not touch CUDA."""
    try:
        found = subprocess.run(
            ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in found.stdout.splitlines() if line.strip()] if found.returncode == 0 else []


@contextmanager
def guarded(runtime: Runtime, progress: Progress) -> Iterator[None]:
    """Hold this job's device for the time of the block; waits while another process holds it.

    A process that holds it already goes straight in. With ``runtime.gpu_share``, any number hold it at once, but
    none beside a job that does not share.
    """
    name = guard_name(runtime)
    if name is None:
        yield
        return
    if name not in _held:
        _held[name] = [_taken(name, runtime.gpu_share, progress), 0, {}]
    entry = _held[name]
    entry[1] += 1
    try:
        yield
    finally:
        entry[1] -= 1
        if entry[1] == 0:
            del _held[name]
            try:
                for forget in entry[2]:
                    forget()
            finally:
                progress.event("device freed", device=name)
                entry[0].close()


def before_freed(runtime: Runtime, forget: Callable[[], None]) -> None:
    """Have ``forget`` called, once, when the last block of this process that holds the job's device ends; whoever comes
    next finds its memory free. Never called where no guard is needed."""
    if entry := _held.get(guard_name(runtime) or ""):
        entry[2][forget] = None


def _taken(name: str, share: bool, progress: Progress) -> IO[bytes]:
    path = folder() / f"{name.replace('/', '_')}.lock"
    mask = os.umask(0)
    try:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b")
    finally:
        os.umask(mask)
    told = False
    while True:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if share else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if not told:
                told = True
                progress.note(f"{name} is used by {holder(path)}, but one job at a time may use it; waiting for it")
                progress.event("waiting", device=name)
            time.sleep(POLL_SECONDS)
    if not share:
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}).encode())
        file.flush()
    progress.event("device taken", device=name, shared=share)
    return file


def holder(path: Path) -> str:
    """Who holds a guard, for people."""
    try:
        record = json.loads(path.read_bytes())
        return f"process {record['pid']} since {record['since']}"
    except (OSError, ValueError, KeyError):
        return "another process"
