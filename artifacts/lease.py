"""Leases: who works on what, so that two processes do not make the same artifact and a dead one blocks nobody.

A lease is a small JSON object that its holder rewrites with a growing beat. It passes to another when the holder
is dead: seen at once on the same host (boot id, pid and process start time), elsewhere when the beat has stood
still for the TTL *on the watcher's own monotonic clock*, so that clocks need not agree. Each taking raises the
fencing number; a holder that slept through its own death finds another's id in the lease and must not commit.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from functools import cache
from pathlib import Path

from artifacts.backends.base import Backend
from artifacts.errors import ArtifactBusy, LeaseLost, StoreUnwritable
from artifacts.keys import Artifact

FOLDER = "leases"


@cache
def boot_id() -> str:
    """Identifies this boot of this machine; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def process_started(pid: int) -> str | None:
    """Start time of a process as the kernel counts it (``""`` where it does not tell); None when there is none.

    A zombie counts as dead: it holds nothing and will never release anything.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
        try:  # no /proc, such as on macOS
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return ""
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _me() -> dict[str, object]:
    return {
        "host": socket.gethostname(),
        "boot_id": boot_id(),
        "pid": os.getpid(),
        "pid_started": process_started(os.getpid()),
    }


_given_up: set[str] = set()
"""Ids of leases that this process wanted to give back, but could not write so."""


def _surely_dead(record: dict) -> bool:
    """True when the holder ran on this host and is gone."""
    if record.get("id") in _given_up:
        return True
    if record.get("host") != socket.gethostname():
        return False
    if record.get("boot_id") != boot_id():
        return bool(boot_id())
    return process_started(int(record["pid"])) != record.get("pid_started")


_seen: dict[str, tuple[bytes, float]] = {}
"""Lease path to the record last seen and when (monotonic) it was first seen to say so."""
_seen_lock = threading.Lock()


def _stands_still(path: str, raw: bytes, ttl: float, answering_since: float) -> bool:
    now = time.monotonic()
    with _seen_lock:
        known, since = _seen.get(path, (b"", now))
        if known != raw:
            _seen[path] = (raw, now)
            return False
        return now - max(since, answering_since) >= ttl  # a holder cannot be heard while the store does not answer


class Lease:
    """A lease that we hold, kept alive by a thread until ``release``."""

    def __init__(self, backend: Backend, path: str, what: str, record: dict, ttl: float) -> None:
        self._backend, self._path, self._what, self._ttl = backend, path, what, ttl
        self._record = record
        self._raw = _bytes(record)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._given_back = False
        self.lost = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"lease {what}", daemon=True)

    @property
    def fence(self) -> int:
        """How many have held this lease, this holder included."""
        return int(self._record["fence"])

    @staticmethod
    def acquire(backend: Backend, artifact: Artifact, ttl: float = 60.0) -> Lease:
        """Take the lease on an artifact. Raises ``ArtifactBusy`` while another holder lives."""
        return Lease.on(backend, _path(artifact), str(artifact), ttl)

    @staticmethod
    def on(backend: Backend, path: str, what: str, ttl: float) -> Lease:
        """Take the lease at ``path``, which errors call ``what``. Raises ``ArtifactBusy``."""
        raw, why = _heard(backend, path, what)
        if why:
            raise ArtifactBusy(why)
        fence = int(json.loads(raw)["fence"]) if raw is not None else 0
        record = {**_me(), "id": uuid.uuid4().hex, "fence": fence + 1, "beat": 0, "ttl_seconds": ttl}
        if not backend.swap(path, raw, _bytes(record)):
            raise ArtifactBusy(f"{what} was taken by another process at this moment; wait for it")
        lease = Lease(backend, path, what, record, ttl)
        lease._thread.start()
        return lease

    def _beat(self) -> None:
        while not self._stop.wait(self._ttl / 3):
            try:
                if not self._renew():
                    return
            except (OSError, StoreUnwritable):
                continue  # a full or slow disk, a bucket that refuses: try again at the next beat, others see us stand still meanwhile

    def _renew(self) -> bool:
        with self._lock:
            if self._stop.is_set():
                return False
            record = {**self._record, "beat": self._record["beat"] + 1}
            raw = _bytes(record)
            if not self._backend.swap(self._path, self._raw, raw):
                self.lost.set()
                return False
            self._record, self._raw = record, raw
            return True

    def check(self) -> None:
        """Raise ``LeaseLost`` when another has taken over, or had when this lease was given back."""
        with self._lock:
            if self.lost.is_set() or (not self._given_back and self._backend.read(self._path) != self._raw):
                self.lost.set()
                raise LeaseLost(
                    f"{self._what}: this process stood still for more than {self._ttl:g} s, but another has taken "
                    "over its work; run the same command, which adopts what the other makes"
                )

    def release(self) -> None:
        """Give the lease back, if it is still ours."""
        self._stop.set()
        with self._lock:
            given_back, self._given_back = self._given_back, True
            if not given_back and not self.lost.is_set():
                try:
                    if not self._backend.swap(self._path, self._raw, None):
                        self.lost.set()
                except (OSError, StoreUnwritable):  # out of reach or read-only by now: others will see it stand still
                    _given_up.add(self._record["id"])
        with _seen_lock:
            _seen.pop(self._path, None)


def _path(artifact: Artifact) -> str:
    return f"{FOLDER}/{artifact.stage}-{artifact.key}.json"


def _heard(backend: Backend, path: str, what: str) -> tuple[bytes | None, str | None]:
    """The record of a lease, and why it is not to be had; None when it is free or its holder dead."""
    raw = backend.read(path)
    if raw is None:
        return None, None
    held = json.loads(raw)
    ttl = float(held["ttl_seconds"])  # the holder's, who beats by it
    if _surely_dead(held) or _stands_still(path, raw, ttl, backend.answering_since):
        return raw, None
    return raw, (
        f"{what} is being made by process {held['pid']} on {held['host']}, "
        "but only one may make it; wait for it, or end that process"
    )


def busy(backend: Backend, artifact: Artifact) -> str | None:
    """Why nobody else may make an artifact now, in a sentence; None when its lease is free or its holder dead.

    A holder on another host is found dead only by looking again: call it every few seconds, not once.
    """
    return _heard(backend, _path(artifact), str(artifact))[1]


def holder(backend: Backend, artifact: Artifact) -> dict | None:
    """The record of a lease that somebody alive may hold, or None."""
    raw = backend.read(_path(artifact))
    if raw is None:
        return None
    record = json.loads(raw)
    return None if _surely_dead(record) else record


def dead(backend: Backend) -> list[tuple[str, bytes]]:
    """Path and contents of every lease whose holder is surely dead."""
    found = [(path, backend.read(path)) for path in backend.paths(FOLDER)]
    return [(path, raw) for path, raw in found if raw is not None and _surely_dead(json.loads(raw))]


def _bytes(record: dict) -> bytes:
    return json.dumps(record, sort_keys=True).encode()
