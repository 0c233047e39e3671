"""Bringing the files of a published folder from a bucket to this host."""

from __future__ import annotations

import atexit
import queue
import threading
from collections.abc import Mapping
from pathlib import Path

from artifacts.backends.bucket import Bucket, Stopped
from artifacts.backends.cache import Cache
from artifacts.errors import ArtifactCorrupt, ArtifactError

AHEAD = 8
"""Files brought ahead of their readers at once, by one process."""

_queue: queue.SimpleQueue[tuple[Bringing, str] | None] = queue.SimpleQueue()
_threads: list[threading.Thread] = []
_starting = threading.Lock()
_leaving = threading.Event()


def _ahead() -> None:
    while (item := _queue.get()) is not None and not _leaving.is_set():
        try:
            item[0].now(item[1])
        except (ArtifactError, OSError, Stopped):
            pass  # who needs the file asks for it, and is told


@atexit.register
def _leave() -> None:
    """Stop what runs ahead: a thread inside obstore when the interpreter goes away would take the process with it."""
    _leaving.set()
    for _ in _threads:
        _queue.put(None)
    for thread in _threads:
        thread.join(10)


def brought(bucket: Bucket, cache: Cache, path: str, size: int) -> Path:
    """A draft that holds a whole object. Raises ``FileNotFoundError``, and ``ArtifactCorrupt`` for another size."""
    draft = cache.draft()
    try:
        found = bucket.download(path, draft, _leaving)
        if found != size or draft.stat().st_size != size:
            raise ArtifactCorrupt(
                f"s3://{bucket.name}/{bucket.prefix}/{path} has {found} bytes, but {size} were written; "
                "delete the artifact and run again, or restore it from a copy"
            )
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return draft


class Bringing:
    """Brings the files of one folder. The first that is asked for sends for the others."""

    def __init__(self, bucket: Bucket, cache: Cache, prefix: str, entry: Path, sizes: Mapping[str, int]) -> None:
        self._bucket, self._cache, self._prefix, self._entry, self._sizes = bucket, cache, prefix, entry, dict(sizes)
        self._missing = {name for name, size in sizes.items() if not self._there(name, size)}
        self._sent_for_all = False
        self._lock = threading.Lock()

    def _there(self, name: str, size: int) -> bool:
        try:
            return (self._entry / name).stat().st_size == size
        except OSError:
            return False

    def missing(self, name: str) -> list[str]:
        with self._lock:
            if name in self._missing:
                return [name]
            return sorted(n for n in self._missing if not name or n.startswith(name + "/"))

    def bring(self, name: str) -> None:
        self.now(name)
        with self._lock:
            ahead = not self._sent_for_all
            self._sent_for_all = True
        if ahead:
            with _starting:
                while len(_threads) < AHEAD:
                    _threads.append(threading.Thread(target=_ahead, name="bringing ahead", daemon=True))
                    _threads[-1].start()
            for other in self.missing(""):
                _queue.put((self, other))

    def now(self, name: str) -> None:
        """Bring one file and no other."""
        with self._cache.alone(self._entry / name):
            if not self._there(name, self._sizes[name]):
                draft = brought(self._bucket, self._cache, f"{self._prefix}/{name}", self._sizes[name])
                self._cache.add(draft, self._entry, name)
        with self._lock:
            self._missing.discard(name)
