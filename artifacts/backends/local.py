"""A folder on a disk that knows hard links and flock (local, NFSv4, Lustre with ``-o flock``)."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from artifacts.backends import base
from artifacts.backends.base import Backend, copied, newest
from artifacts.errors import StoreUnwritable


def fsync_path(path: Path) -> None:
    """Force a file's bytes, or a folder's names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Local(Backend):
    """A store root on a local or shared file system."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser().absolute()

    @property
    def disk(self) -> tuple[str, Path]:
        return "backend.root", self.root

    def _at(self, path: str) -> Path:
        full = self.root / path
        if ".." in Path(path).parts or Path(path).is_absolute():
            raise ValueError(f"path = {path!r}, but it leaves the store; use a path below {self.root}")
        return full

    def _written(self, path: str, data: bytes | Iterable[bytes]) -> Path:
        """A complete, synced temporary file beside ``path``."""
        target = self._at(path)
        if not target.parent.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            fsync_path(target.parent.parent)
        draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        try:
            with open(draft, "xb") as file:
                file.writelines([data] if isinstance(data, bytes) else data)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        return draft

    def create(self, path: str, data: bytes | Iterable[bytes]) -> bool:
        target = self._at(path)
        draft = self._written(path, data)
        try:
            os.link(draft, target)  # the one atomic step: fails if the name is taken, shows whole contents if not
        except FileExistsError:
            return False
        finally:
            draft.unlink(missing_ok=True)
        fsync_path(target.parent)
        return True

    @contextmanager
    def _guard(self, path: str) -> Iterator[None]:
        # One guard file per store, not per object: it is held for microseconds, and never has to be cleaned up.
        self.root.mkdir(parents=True, exist_ok=True)
        with open(self.root / ".guard", "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def swap(self, path: str, expected: bytes | None, data: bytes | None) -> bool:
        target = self._at(path)
        draft = self._written(path, data) if data is not None else None
        try:
            with self._guard(path):
                if self.read(path) != expected:
                    return False
                if draft is None:
                    target.unlink(missing_ok=True)
                else:
                    os.replace(draft, target)
                return True
        finally:
            if draft is not None:
                draft.unlink(missing_ok=True)

    def write(self, path: str, data: bytes) -> None:
        draft = self._written(path, data)
        os.replace(draft, self._at(path))
        fsync_path(self._at(path).parent)

    def read(self, path: str) -> bytes | None:
        try:
            return self._at(path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def open(self, path: str) -> BinaryIO:
        return open(self._at(path), "rb")

    def paths(self, prefix: str = "") -> Iterator[str]:
        top = self._at(prefix)
        for folder, folders, files in os.walk(top):
            folders.sort()
            for name in sorted(files):
                if not (name.startswith(".") and name.endswith((".tmp", ".guard"))):
                    yield str(Path(folder, name).relative_to(self.root))

    def size(self, path: str) -> int:
        try:
            return self._at(path).stat().st_size
        except OSError:
            return 0

    def delete(self, prefix: str) -> None:
        target = self._at(prefix)
        if target.is_dir():
            shutil.rmtree(target, ignore_errors=True)
        else:
            target.unlink(missing_ok=True)
        with suppress(OSError):  # tidy the two-letter and key folders once they are empty
            for parent in target.parents:
                if parent == self.root:
                    break
                parent.rmdir()

    def tidy(self, prefix: str = "") -> None:
        for draft in self._at(prefix).rglob(".*.tmp"):
            with suppress(OSError):
                if time.time() - draft.stat().st_mtime > base.STALE_SECONDS:
                    draft.unlink()

    def work(self, prefix: str) -> Path:
        target = self._at(prefix)
        target.mkdir(parents=True, exist_ok=True)
        return target

    def publish(self, prefix: str) -> None:
        top = self._at(prefix)
        for folder, _, files in os.walk(top, topdown=False):
            for name in files:
                fsync_path(Path(folder, name))
            fsync_path(Path(folder))
        fsync_path(top.parent)

    def folder(self, prefix: str, sizes: Mapping[str, int] | None = None, later: Collection[str] = ()) -> Path:
        return self._at(prefix)

    def keep(self, prefix: str, name: str) -> None:
        return None  # it lies where the next attempt looks

    def recover(self, attempts: str, name: str, target: Path) -> bool:
        return copied(newest(self._at(attempts), name, target), target)

    @contextmanager
    def exclusively(
        self, path: str, waiting: Callable[[], None] | None = None, ttl: float = 60.0
    ) -> Iterator[Callable[[], None]]:
        """A flock, so the kernel gives it back at once when its holder dies, and never sooner."""
        target = self._at(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting is not None:
                    waiting()
                fcntl.flock(file, fcntl.LOCK_EX)
            yield lambda: None

    def check_writable(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / f".probe-{uuid.uuid4().hex}"
            probe.write_bytes(b"x")
            probe.unlink()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise StoreUnwritable(
                f"backend.root = {str(self.root)!r}, but it cannot be written ({reason}); "
                "choose another folder with backend.root=..., or mend its permissions"
            ) from None
