"""An S3 bucket that honours conditional writes (AWS S3, MinIO, R2, Ceph), shared by hosts that share no disk.

``create`` and ``swap`` are conditional PUTs. Not every S3 can delete on a condition, so ``swap`` deletes by writing an
empty object in place of the old, which counts as absent; ``tidy`` removes it a day later. Published files never change,
so a copy on this host is as good as the bucket's.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from artifacts import fetching
from artifacts.backends import base
from artifacts.backends.base import Backend
from artifacts.backends.bringing import Bringing, brought
from artifacts.backends.bucket import PATIENCE_SECONDS, Beaten, Bucket, Doubtful, Meta
from artifacts.backends.cache import Cache
from artifacts.errors import StoreUnwritable

T = TypeVar("T")

TRANSFERS = 16
"""Files on their way at once."""


class Objects(Backend):
    """A store in a bucket, with a cache on this host."""

    poll_seconds = 3.0

    def __init__(
        self, bucket: str, prefix: str = "", endpoint: str | None = None, region: str | None = None,
        cache: str | Path = "~/.cache/saint", cache_bytes: int = 100 * 10**9, patience: float = PATIENCE_SECONDS,
    ) -> None:  # fmt: skip
        """``endpoint`` None is AWS. Raises ``StoreUnwritable`` when the environment has no credentials."""
        self.bucket = Bucket(bucket, prefix, endpoint, region, patience)
        self.root = f"s3://{bucket}/{self.bucket.prefix}".rstrip("/")
        here = hashlib.sha256(f"{endpoint} {self.root}".encode()).hexdigest()[:8]
        self.cache = Cache(Path(cache).expanduser() / f"{bucket}-{here}", cache_bytes)

    @property
    def answering_since(self) -> float:  # type: ignore[override]
        return self.bucket.answering_since

    @property
    def disk(self) -> tuple[str, Path]:
        return "backend.cache", self.cache.root

    # small objects

    def create(self, path: str, data: bytes | Iterable[bytes]) -> bool:
        return self.swap(path, None, data if isinstance(data, bytes) else b"".join(data))

    def swap(self, path: str, expected: bytes | None, data: bytes | None) -> bool:
        if data == b"":
            raise ValueError(f"path = {path!r}, but its new contents are empty, which means deleted; write something")
        ours, error = data or b"", None
        pauses = self.bucket.pauses(lambda: error)
        while True:
            held = self.bucket.get(path)
            if error is not None and held is not None and held.data == ours:
                return True  # the write whose reply was lost; contents name their writer, so nobody else's are equal
            if (held.data if held and held.data else None) != expected:
                return False
            if data is None and expected is None:
                return True
            try:
                self.bucket.put_if(path, ours, held.e_tag if held else None)
                return True
            except Doubtful as doubt:
                error = doubt
            except Beaten:
                pass  # by a write that we shall see now, or by one that is still under way
            time.sleep(next(pauses))

    def write(self, path: str, data: bytes) -> None:
        self.bucket.put(path, data)

    def read(self, path: str) -> bytes | None:
        held = self.bucket.get(path)
        return held.data if held and held.data else None

    def paths(self, prefix: str = "") -> Iterator[str]:
        return (path for path, _ in self.sizes(prefix))

    def sizes(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        return ((meta.path, meta.size) for meta in self.bucket.metas(prefix) if meta.size)

    def size(self, path: str) -> int:
        return self.bucket.size(path)

    def delete(self, prefix: str) -> None:
        self.bucket.delete([prefix, *(meta.path for meta in self.bucket.metas(prefix))])
        self.cache.drop(prefix)

    def tidy(self, prefix: str = "") -> None:
        old = time.time() - base.STALE_SECONDS
        marks = [m for m in self.bucket.metas(prefix) if m.size == 0 and m.changed < old and "/attempts/" not in m.path]
        # Who writes over a mark at this moment loses it: a lease, whose holder finds out at its next beat.
        self.bucket.delete([m.path for m in marks if self.bucket.size(m.path) == 0])

    # folders

    def work(self, prefix: str) -> Path:
        return self.cache.work(prefix)

    def publish(self, prefix: str) -> None:
        top = self.work(prefix)
        self._upload({f"{prefix}/{name}": top / name for name in _files(top)})
        self.cache.adopt(prefix)

    def folder(self, prefix: str, sizes: Mapping[str, int] | None = None, later: Collection[str] = ()) -> Path:
        entry = self.cache.entry(prefix)
        if sizes is None:
            sizes = {meta.path[len(prefix) + 1 :]: meta.size for meta in self.bucket.metas(prefix)}
            for name in _files(entry):
                (entry / name).unlink()
            later = ()
        bringing = Bringing(self.bucket, self.cache, prefix, entry, sizes)
        _all(bringing.now, [name for name in bringing.missing("") if name not in later])
        fetching.offer(entry, bringing)
        return entry

    # checkpoints: files under a name of their own, then a record that names them, which is the checkpoint

    def keep(self, prefix: str, name: str) -> None:
        top, token = self.work(prefix), uuid.uuid4().hex
        files = [name] if (top / name).is_file() else [f"{name}/{file}" for file in _files(top / name)]
        before = self.bucket.metas(f"{prefix}/{name}.kept")
        self._upload({f"{prefix}/{name}.kept/{token}/{file}": top / file for file in files})
        record = {"at": token, "files": {file: (top / file).stat().st_size for file in files}}
        self.write(f"{prefix}/{name}.kept.json", json.dumps(record).encode())
        self.bucket.delete([meta.path for meta in before])

    def recover(self, attempts: str, name: str, target: Path) -> bool:
        for _ in range(5):  # an attempt thought dead may be saving a newer one
            end = f"/scratch/{name}.kept.json"
            records = [meta for meta in self.bucket.metas(attempts) if meta.path.endswith(end)]
            if not records:
                return False
            record = max(records, key=lambda meta: (meta.changed, meta.path))
            with suppress(FileNotFoundError):
                self._recovered(record, name, target)
                return True
        return False

    def _recovered(self, record: Meta, name: str, target: Path) -> None:
        held = self.bucket.get(record.path)
        if held is None:
            raise FileNotFoundError(record.path)
        found = json.loads(held.data)
        top = record.path.removesuffix(".json") + f"/{found['at']}"

        def one(file: str) -> None:
            draft = brought(self.bucket, self.cache, f"{top}/{file}", found["files"][file])
            into = target.parent / Path(file).relative_to(Path(name).parent)
            into.parent.mkdir(parents=True, exist_ok=True)
            os.replace(draft, into)

        _all(one, list(found["files"]))

    # can it be used

    def check_reachable(self) -> None:
        """Raise ``StoreUnwritable`` when the bucket cannot be read. Writes nothing and waits for nobody."""
        with self.bucket.impatient():
            self.bucket.look()

    def check_writable(self) -> None:
        self.check_reachable()
        path = f".probe-{uuid.uuid4().hex}"
        with self.bucket.impatient():
            try:
                self.bucket.put_if(path, b"1", None)
                self._refuses("If-None-Match", lambda: self.bucket.put_if(path, b"2", None))
                first = self.bucket.get(path)
                assert first is not None
                self.bucket.put_if(path, b"3", first.e_tag)
                self._refuses("If-Match", lambda: self.bucket.put_if(path, b"4", first.e_tag))
            except Doubtful as error:
                raise self.bucket.explained(error) from None
            finally:
                with suppress(StoreUnwritable):
                    self.bucket.delete([path])

    def _refuses(self, condition: str, write: Callable[[], None]) -> None:
        with suppress(Beaten):
            write()
            raise StoreUnwritable(
                f"backend.bucket = {self.bucket.name!r}, but it ignores {condition}, so two runs could write one "
                "artifact; use a bucket with conditional writes (AWS S3, MinIO, R2, Ceph)"
            )

    def _upload(self, files: Mapping[str, Path]) -> None:
        _all(lambda path: self.bucket.put(path, files[path]), list(files))


def _files(top: Path) -> list[str]:
    """Names of all files below a folder."""
    return [file.relative_to(top).as_posix() for file in sorted(top.rglob("*")) if file.is_file()]


def _all(do: Callable[[str], T], names: list[str]) -> list[T]:
    """Do something for each name, several at once; the first error ends it."""
    if len(names) < 2:
        return [do(name) for name in names]
    with ThreadPoolExecutor(min(TRANSFERS, len(names))) as pool:
        try:
            return list(pool.map(do, names))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
