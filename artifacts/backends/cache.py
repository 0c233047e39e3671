"""What this host has of a store that lies elsewhere: copies of published folders, and folders in the making.

::

    entries/<name>/...      a published folder, or a part of it; never changed
    entries/<name>.lock     flocked by every process that reads it; its time is that of the last use
    work/<owner>/...        what one process is making; its lock is held as long as that process lives
    work/<owner>.lock

Any number of processes share it. Nothing in it is missed when it is deleted while no process runs.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from zlib import crc32


class Cache:
    """A folder of at most about ``most_bytes``: the entries that were used longest ago make room."""

    def __init__(self, root: str | Path, most_bytes: int) -> None:
        self.root, self.most_bytes = Path(root).expanduser().absolute(), most_bytes
        self._entries, self._works = self.root / "entries", self.root / "work"
        self._locks: dict[Path, IO[bytes]] = {}
        self._mutex = threading.RLock()
        self._own: Path | None = None
        self._grown: float = float("inf")  # unknown: look before the first byte is added
        self._warned = False

    # entries

    def entry(self, prefix: str) -> Path:
        """The folder for a published prefix, made if absent, and safe from eviction while this process lives."""
        folder = self._entry(prefix)
        with self._mutex:
            if folder not in self._locks:
                file = _locked(_lock(folder), fcntl.LOCK_SH)
                assert file is not None
                self._locks[folder] = file
            os.utime(_lock(folder))
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def adopt(self, prefix: str) -> None:
        """Turn the work folder of a prefix, now published, into its entry."""
        source, target = self.work(prefix), self._entry(prefix)
        file = _locked(_lock(target), fcntl.LOCK_SH)
        assert file is not None
        with file:
            for folder, _, names in os.walk(source):
                into = target / Path(folder).relative_to(source)
                into.mkdir(parents=True, exist_ok=True)
                for name in names:
                    self._grown += os.path.getsize(Path(folder, name))
                    os.replace(Path(folder, name), into / name)
        shutil.rmtree(source, ignore_errors=True)
        self.make_room()

    def drop(self, prefix: str) -> None:
        """Forget a prefix and all below it, but for entries that other processes read."""
        shutil.rmtree(self._work_root() / prefix, ignore_errors=True)
        first = self._entry(prefix)
        for lock in self._entries.glob("*.lock"):
            folder = lock.with_suffix("")
            if folder == first or folder.name.startswith(first.name + "~"):
                with self._mutex:
                    held = self._locks.pop(folder, None)
                if held is not None:
                    held.close()
                _evict(folder)

    @contextmanager
    def alone(self, path: Path) -> Iterator[None]:
        """One thread of one process at a time, for one file (and a few others): nothing is downloaded twice."""
        stripe = self._entries / ".fetching" / str(crc32(str(path).encode()) % 256)  # a fixed number, never cleaned up
        stripe.parent.mkdir(parents=True, exist_ok=True)
        with open(stripe, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def add(self, draft: Path, entry: Path, name: str) -> None:
        """Put a whole file into an entry."""
        self._grown += draft.stat().st_size
        (entry / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(draft, entry / name)
        self.make_room()

    def make_room(self) -> None:
        """Evict what was used longest ago, until the rest fits."""
        if self._grown < self.most_bytes / 50:
            return  # looking costs a walk over all files
        with self._mutex:
            self._grown = 0.0
            entries = [(lock.stat().st_mtime, lock.with_suffix("")) for lock in self._entries.glob("*.lock")]
            sizes = {folder: _bytes_below(folder) for _, folder in entries}
            left = sum(sizes.values())
            for _, folder in sorted(entries):
                if left <= self.most_bytes:
                    return
                if folder not in self._locks and _evict(folder):
                    left -= sizes[folder]
        if left > self.most_bytes and not self._warned:
            self._warned = True
            warnings.warn(
                f"backend.cache_bytes = {self.most_bytes}, but running processes read {left} bytes; {self.root} "
                "grows as large until they end",
                stacklevel=2,
            )

    # work

    def work(self, prefix: str) -> Path:
        """A folder of this process for what will be published under a prefix; made if absent."""
        folder = self._work_root() / prefix
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def draft(self) -> Path:
        """A new name in a folder that does not outlive this process."""
        return self.work(".drafts") / uuid.uuid4().hex

    def _work_root(self) -> Path:
        with self._mutex:
            if self._own is None:
                self._works.mkdir(parents=True, exist_ok=True)
                for lock in self._works.glob("*.lock"):
                    _evict(lock.with_suffix(""))  # of processes that ended
                own = self._works / uuid.uuid4().hex
                file = _locked(_lock(own), fcntl.LOCK_SH)
                assert file is not None
                self._locks[own] = file
                self._own = own
            return self._own

    def _entry(self, prefix: str) -> Path:
        return self._entries / prefix.replace("/", "~")


def _lock(folder: Path) -> Path:
    return folder.with_name(folder.name + ".lock")


def _locked(path: Path, how: int) -> IO[bytes] | None:
    """A lock file, made if absent, open and locked; None where ``how`` says not to wait and another holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = open(path, "ab")  # noqa: SIM115 (it is held)
        try:
            fcntl.flock(file, how)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except BlockingIOError:
            file.close()
            return None
        except FileNotFoundError:
            pass
        file.close()  # evicted between our open and our lock: the name means another file now, or none


def _evict(folder: Path) -> bool:
    """Remove a folder and its lock file, unless a process holds it."""
    file = _locked(_lock(folder), fcntl.LOCK_EX | fcntl.LOCK_NB)
    if file is None:
        return False
    with file:
        shutil.rmtree(folder, ignore_errors=True)
        _lock(folder).unlink(missing_ok=True)
    return True


def _bytes_below(folder: Path) -> int:
    found = 0
    for top, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                found += os.path.getsize(os.path.join(top, name))
    return found
