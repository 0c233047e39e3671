"""A store that lives as long as the process: notebooks that keep nothing, and tests of the store itself."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from artifacts.backends.base import Backend, copied, newest


class Memory(Backend):
    """Objects in a dictionary. Folders are written out to a temporary place when somebody needs files."""

    root = "memory"

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}
        self._lock = threading.RLock()
        self._disk = tempfile.TemporaryDirectory(prefix="saint-memory-")

    @property
    def disk(self) -> tuple[str, Path]:
        return "TMPDIR", Path(self._disk.name)

    def create(self, path: str, data: bytes | Iterable[bytes]) -> bool:
        return self.swap(path, None, data if isinstance(data, bytes) else b"".join(data))

    def swap(self, path: str, expected: bytes | None, data: bytes | None) -> bool:
        with self._lock:
            if self._objects.get(path) != expected:
                return False
            if data is None:
                self._objects.pop(path, None)
            else:
                self._objects[path] = data
            return True

    def write(self, path: str, data: bytes) -> None:
        with self._lock:
            self._objects[path] = data

    def read(self, path: str) -> bytes | None:
        return self._objects.get(path)

    def paths(self, prefix: str = "") -> Iterator[str]:
        with self._lock:
            names = sorted(self._objects)
        yield from (name for name in names if not prefix or name == prefix or name.startswith(prefix + "/"))

    def size(self, path: str) -> int:
        return len(self._objects.get(path, b""))

    def delete(self, prefix: str) -> None:
        with self._lock:
            for name in list(self.paths(prefix)):
                del self._objects[name]
        for area in ("work", "out"):
            shutil.rmtree(Path(self._disk.name, area, prefix), ignore_errors=True)

    def tidy(self, prefix: str = "") -> None:
        return None

    def work(self, prefix: str) -> Path:
        folder = Path(self._disk.name, "work", prefix)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def publish(self, prefix: str) -> None:
        top = self.work(prefix)
        with self._lock:
            for file in sorted(top.rglob("*")):
                if file.is_file():
                    self._objects[f"{prefix}/{file.relative_to(top).as_posix()}"] = file.read_bytes()

    def folder(self, prefix: str, sizes: Mapping[str, int] | None = None, later: Collection[str] = ()) -> Path:
        top = Path(self._disk.name, "out", prefix)
        shutil.rmtree(top, ignore_errors=True)
        for name in self.paths(prefix):
            file = Path(self._disk.name, "out", name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(self._objects[name])
        return top

    def keep(self, prefix: str, name: str) -> None:
        return None

    def recover(self, attempts: str, name: str, target: Path) -> bool:
        return copied(newest(Path(self._disk.name, "work", attempts), name, target), target)

    def check_writable(self) -> None:
        return None
