"""A folder on a disk that knows hard links and flock (local, NFSv4, Lustre with ``-o flock``)."""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from artifacts.backends.base import Backend
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

    def _at(self, path: str) -> Path:
        full = self.root / path
        if ".." in Path(path).parts or Path(path).is_absolute():
            raise ValueError(f"path = {path!r}, but it leaves the store; use a path below {self.root}")
        return full

    def _written(self, path: str, data: bytes) -> Path:
        """A complete, synced temporary file beside ``path``."""
        target = self._at(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        with open(draft, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return draft

    def create(self, path: str, data: bytes) -> bool:
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
        os.replace(self._written(path, data), self._at(path))

    def read(self, path: str) -> bytes | None:
        try:
            return self._at(path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def paths(self, prefix: str = "") -> Iterator[str]:
        top = self._at(prefix)
        for folder, folders, files in os.walk(top):
            folders.sort()
            for name in sorted(files):
                if not (name.startswith(".") and name.endswith(".tmp")):
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

    def folder(self, prefix: str) -> Path:
        return self._at(prefix)

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
