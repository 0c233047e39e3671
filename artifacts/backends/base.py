"""What a place for bytes must do, so that the store, leases and manifests work on it.

Paths are relative, with ``/``, and never leave the store. Two promises carry everything else: ``create`` makes
a small object exactly once, whoever else tries, and ``swap`` changes one only if it still says what the caller
last read. On a local disk these are a hard link and a short flock; on an object store, conditional PUTs.
"""

from __future__ import annotations

import io
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

STALE_SECONDS = 86_400.0
"""Age from which a draft that nobody finished, or the mark of a deletion, is swept away."""


class Backend(ABC):
    """A place for bytes."""

    root: Path | str
    """What errors call it."""

    poll_seconds: float = 0.5
    """Between two looks for something that another process is making; longer where each look is a request that costs."""

    answering_since: float = 0.0
    """Time (monotonic) of the last request that failed or took long: until then others may not have been heard."""

    @property
    @abstractmethod
    def disk(self) -> tuple[str, Path]:
        """The setting that names the folder on this host in which artifacts are written, and the folder."""

    # small objects

    @abstractmethod
    def create(self, path: str, data: bytes | Iterable[bytes]) -> bool:
        """Make an object durably, unless it exists. True if this call made it; contents appear whole or not.

        When iterating ``data`` raises, nothing is made.
        """

    @abstractmethod
    def swap(self, path: str, expected: bytes | None, data: bytes | None) -> bool:
        """Replace a small object if it still holds ``expected`` (None: is absent). ``data`` None deletes it."""

    @abstractmethod
    def write(self, path: str, data: bytes) -> None:
        """Make or replace an object, whatever it held; readers see the old or the new, whole."""

    @abstractmethod
    def read(self, path: str) -> bytes | None:
        """The bytes of a small object, or None when there is none."""

    def open(self, path: str) -> BinaryIO:
        """An object for reading bit by bit. Raises ``FileNotFoundError``."""
        data = self.read(path)
        if data is None:
            raise FileNotFoundError(f"{path}: there is no such object in {self.root}")
        return io.BytesIO(data)

    @abstractmethod
    def paths(self, prefix: str = "") -> Iterator[str]:
        """All object paths under a folder, in order."""

    @abstractmethod
    def size(self, path: str) -> int:
        """Bytes of an object; 0 when there is none."""

    def sizes(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Path and bytes of all objects under a folder, in order."""
        return ((path, self.size(path)) for path in self.paths(prefix))

    @abstractmethod
    def delete(self, prefix: str) -> None:
        """Remove an object, or all objects under a folder. Absent ones are no error."""

    @abstractmethod
    def tidy(self, prefix: str = "") -> None:
        """Remove what died here before it was an object, or after, once it is older than ``STALE_SECONDS``."""

    # folders

    @abstractmethod
    def work(self, prefix: str) -> Path:
        """A local folder, made if absent, in which to write what ``publish`` will put under ``prefix``."""

    @abstractmethod
    def publish(self, prefix: str) -> None:
        """Make everything in ``work(prefix)`` durable and readable by others before returning.

        The work folder belongs to the backend from then on: read through ``folder``.
        """

    @abstractmethod
    def folder(self, prefix: str, sizes: Mapping[str, int] | None = None, later: Collection[str] = ()) -> Path:
        """A local folder that holds the published files under ``prefix``.

        ``sizes`` are the names and bytes of files that never change: copies of them that lie on this host will do,
        and those in ``later`` may come only when ``artifacts.fetching.fetched`` asks. Without, no copy is trusted.
        """

    @abstractmethod
    def keep(self, prefix: str, name: str) -> None:
        """Let the file or folder ``name`` in ``work(prefix)`` outlive this host, whole or not at all."""

    @abstractmethod
    def recover(self, attempts: str, name: str, target: Path) -> bool:
        """Copy the newest ``<attempts>/<any>/scratch/<name>`` that was kept to ``target``; False when there is none."""

    # who else is there

    @contextmanager
    def _leased(self, path: str, waiting: Callable[[], None] | None, ttl: float) -> Iterator[Callable[[], None]]:
        from artifacts.errors import ArtifactBusy
        from artifacts.lease import Lease  # which knows backends

        while True:
            try:
                lease = Lease.on(self, path, f"{self.root}/{path}", ttl)
                break
            except ArtifactBusy:
                if waiting is not None:
                    waiting()
                waiting = None
                time.sleep(min(1.0, ttl / 10))
        try:
            yield lease.check
        finally:
            lease.release()

    def exclusively(
        self, path: str, waiting: Callable[[], None] | None = None, ttl: float = 60.0
    ) -> AbstractContextManager[Callable[[], None]]:
        """Hold ``path`` as the only process; ``waiting`` is called once if another one does.

        Yields a check that raises ``LeaseLost`` when another has taken over: a holder that is dead, or has stood
        still for ``ttl`` seconds, blocks nobody, so look again before doing what must not be done twice.
        """
        return self._leased(path, waiting, ttl)

    @abstractmethod
    def check_writable(self) -> None:
        """Raise ``StoreUnwritable`` when nothing can be written here."""


def newest(attempts: Path, name: str, but: Path) -> Path | None:
    """The file or folder ``<attempts>/<any>/scratch/<name>`` that was written last, ``but`` not that one."""
    if not attempts.is_dir():
        return None
    left = [found for other in attempts.iterdir() if (found := other / "scratch" / name).exists() and found != but]
    return max(left, key=lambda found: found.stat().st_mtime_ns, default=None)


def copied(found: Path | None, target: Path) -> bool:
    """Copy a file or folder. Not moved: an attempt thought dead may only be stopped, and must not write into ours."""
    if found is None:
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    if found.is_dir():
        shutil.copytree(found, target, dirs_exist_ok=True)
    else:
        shutil.copy2(found, target)
    return True
