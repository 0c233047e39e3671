"""Zarr v3 arrays of rows, read straight from their chunk files.

zarr-python writes our arrays and can read them, at a fourth of the speed of the page cache. This reads the shard
index through the array's metadata, then the chunk's bytes into memory that is already there, and verifies the
crc32c of each chunk the first time it is read. Codecs: crc32c, and blosc before it; anything else (somebody
else's array, a recoded one) goes through zarr-python, slower and with the same results.

Layout (zarr-specs v3, ``sharding_indexed``): a file ``c/<i>/0`` holds its chunks one behind the other, then an index of
(offset, bytes) pairs of uint64, then the crc32c of the index.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.errors import ArtifactCorrupt
from artifacts.fetching import fetched

if TYPE_CHECKING:
    import numpy as np

_ABSENT = 2**64 - 1
"""Offset and size that the index gives for a chunk that was never written."""

_LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
_INDEX_CODECS = [_LITTLE, {"name": "crc32c"}]
MEND = "delete the artifact and run again, or restore it from a copy"


class _Damage(Exception):
    """Why one chunk cannot be trusted."""


@dataclass
class Rows:
    """A Zarr array that is cut along its first axis only."""

    folder: Path
    name: str
    """What errors call it: an artifact, or a path."""

    shape: tuple[int, ...]
    dtype: np.dtype
    chunk_rows: int
    """Rows of the smallest piece that can be read alone."""

    chunks_per_file: int
    attributes: dict[str, Any]
    codecs: tuple[str, ...] | None
    """Of a chunk, ``bytes`` left out; None where only zarr-python can read it."""

    sharded: bool
    _verified: bytearray = field(default_factory=bytearray, repr=False)
    _indexes: dict[int, np.ndarray] = field(default_factory=dict, repr=False)
    _maps: dict[int, np.ndarray] = field(default_factory=dict, repr=False)
    _array: Any = field(default=None, repr=False)

    @staticmethod
    def open(folder: Path, name: str = "") -> Rows:
        """The array in a folder. Raises ``ArtifactCorrupt`` when it is not a readable Zarr v3 array of rows."""
        import numpy as np

        name = name or str(folder.parent)
        try:
            meta = json.loads((folder / "zarr.json").read_bytes())
            shape, outer = tuple(meta["shape"]), tuple(meta["chunk_grid"]["configuration"]["chunk_shape"])
            codecs = list(meta["codecs"])
            sharded = codecs[0]["name"] == "sharding_indexed"
            inner = tuple(codecs[0]["configuration"]["chunk_shape"]) if sharded else outer
            if meta["zarr_format"] != 3 or outer[1:] != shape[1:] or inner[1:] != shape[1:]:
                raise ValueError("it is cut along more than its first axis")
            dtype = np.dtype(meta["data_type"]).newbyteorder("<")
            attributes = meta.get("attributes", {})
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise ArtifactCorrupt(
                f"{name}: {folder.name}/zarr.json cannot be read ({error}), but an array of rows needs it; {MEND}"
            ) from None
        known = _plan(meta, codecs, sharded)
        rows = Rows(folder, name, shape, dtype, inner[0], outer[0] // inner[0], attributes, known, sharded)
        rows._verified = bytearray(rows.n_chunks)
        return rows

    @property
    def n_rows(self) -> int:
        return self.shape[0]

    @property
    def n_chunks(self) -> int:
        return -(-self.n_rows // self.chunk_rows)

    def rows_of(self, chunk: int) -> int:
        """Rows in a chunk; the last may be short."""
        return min(self.chunk_rows, self.n_rows - chunk * self.chunk_rows)

    def read_chunk(self, chunk: int, out: np.ndarray | None = None) -> np.ndarray:
        """The rows of one chunk, written into ``out`` where given. Raises ``ArtifactCorrupt``."""
        import numpy as np

        if not 0 <= chunk < self.n_chunks:
            raise IndexError(f"chunk {chunk} of {self.n_chunks}")
        if out is None:
            out = np.empty((self.rows_of(chunk), *self.shape[1:]), self.dtype)
        try:
            self._fill(chunk, out)
        except _Damage as damage:
            file, where = self.address(chunk)
            raise ArtifactCorrupt(f"{self.name}: {file}, chunk {where}, {damage}; {MEND}") from None
        return out

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows start to stop. Raises ``ArtifactCorrupt``."""
        import numpy as np

        start, stop = max(0, start), min(stop, self.n_rows)
        out = np.empty((max(0, stop - start), *self.shape[1:]), self.dtype)
        for chunk in range(start // self.chunk_rows, -(-stop // self.chunk_rows)) if stop > start else ():
            first = chunk * self.chunk_rows
            last = first + self.rows_of(chunk)
            if start <= first and last <= stop:
                self.read_chunk(chunk, out[first - start : last - start])
            else:
                low, high = max(start, first), min(stop, last)
                out[low - start : high - start] = self.read_chunk(chunk)[low - first : high - first]
        return out

    def faults(self) -> Iterator[tuple[str, str, str]]:
        """(file, chunk, why) of everything whose checksum fails; reads every byte."""
        import numpy as np

        self._indexes.clear()
        self._maps.clear()
        self._verified = bytearray(self.n_chunks)
        told: set[str] = set()
        out = np.empty((self.chunk_rows, *self.shape[1:]), self.dtype)
        for chunk in range(self.n_chunks):
            file, where = self.address(chunk)
            try:
                self._fill(chunk, out[: self.rows_of(chunk)])
            except _Damage as damage:
                if isinstance(damage, _FileDamage):
                    if file in told:
                        continue
                    told.add(file)
                    where = "index" if self.sharded else where
                yield file, where, str(damage)

    def address(self, chunk: int) -> tuple[str, str]:
        """File (relative to the group) and Zarr coordinates of a chunk."""
        tail = "/0" * (len(self.shape) - 1)
        return f"{self.folder.name}/c/{chunk // self.chunks_per_file}{tail}", f"c/{chunk}{tail}"

    def _fill(self, chunk: int, out: np.ndarray) -> None:
        import google_crc32c
        import numpy as np

        if self.codecs is None:
            return self._through_zarr(chunk, out)
        stored = self._stored(chunk)
        if len(stored) < 4:
            raise _Damage(f"has {len(stored)} bytes, but its checksum alone takes 4")
        data = stored[:-4]
        whole = self.chunk_rows * math.prod(self.shape[1:]) * self.dtype.itemsize
        if self.codecs == ("crc32c",) and len(data) != whole:
            raise _Damage(f"has {len(data)} bytes, but {whole} are expected")
        if not self._verified[chunk]:  # first, and by this the bytes are in the cache for the copy
            found, said = google_crc32c.value(data), _uint32(stored[-4:])
            if found != said:
                raise _Damage(f"has crc32c {found:08x}, but the file says {said:08x}")
            self._verified[chunk] = 1
        if self.codecs[0] == "blosc":
            from numcodecs import blosc

            if out.nbytes == whole and out.flags.c_contiguous:
                blosc.decompress(data, out.reshape(-1).view(np.uint8))
                return None
            data = np.frombuffer(blosc.decompress(data), np.uint8)
        np.copyto(out, data[: out.nbytes].view(self.dtype).reshape(out.shape))
        return None

    def _stored(self, chunk: int) -> np.ndarray:
        """The bytes of a chunk in its file, checksum included."""
        import google_crc32c

        file = chunk // self.chunks_per_file
        data = self._mapped(file)
        if not self.sharded:
            return data
        if file not in self._indexes:
            size = self.chunks_per_file * 16
            if len(data) < size + 4:
                raise _FileDamage(f"has {len(data)} bytes, but its index alone takes {size + 4}")
            index = data[-size - 4 : -4].copy()
            found, said = google_crc32c.value(index), _uint32(data[-4:])
            if found != said:
                raise _FileDamage(f"has an index of crc32c {found:08x}, but the file says {said:08x}")
            self._indexes[file] = index.view("<u8").reshape(-1, 2)
        offset, size = (int(x) for x in self._indexes[file][chunk % self.chunks_per_file])
        if offset == _ABSENT:
            raise _Damage("is missing, but every chunk is written")
        if offset + size > len(data):
            raise _Damage(f"ends at byte {offset + size}, but the file has {len(data)}")
        return data[offset : offset + size]

    def _mapped(self, file: int) -> np.ndarray:
        """The bytes of a file. A map costs no descriptor and half the time of a read; artifacts are never changed."""
        import numpy as np

        if file not in self._maps:
            path = self.folder.parent / self.address(file * self.chunks_per_file)[0]
            try:
                with open(fetched(path), "rb") as handle:
                    self._maps[file] = np.frombuffer(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
            except FileNotFoundError:
                raise _FileDamage("is missing, but every chunk is written") from None
            except ValueError:
                raise _FileDamage("is empty, but every chunk is written") from None
        return self._maps[file]

    def _through_zarr(self, chunk: int, out: np.ndarray) -> None:
        import zarr

        if self._array is None:
            self._array = zarr.open_array(fetched(self.folder), mode="r")  # it takes files that are not there for zeros
        first = chunk * self.chunk_rows
        try:
            out[...] = self._array[first : first + len(out)]
        except (ValueError, RuntimeError, OSError) as error:
            raise _Damage(f"cannot be decoded ({error}), but its metadata says {self.dtype} rows") from None


class _FileDamage(_Damage):
    """Damage to a file or its index, so to all its chunks."""


def _plan(meta: dict[str, Any], codecs: list[dict[str, Any]], sharded: bool) -> tuple[str, ...] | None:
    """The names of the codecs of a chunk, where the direct path knows them all."""
    encoding = {"name": "default", "configuration": {"separator": "/"}}
    if meta.get("chunk_key_encoding") != encoding or meta.get("storage_transformers"):
        return None
    if sharded:
        inside = codecs[0]["configuration"]
        at_end = inside.get("index_location", "end") == "end"
        if len(codecs) != 1 or inside["index_codecs"] != _INDEX_CODECS or not at_end:
            return None
        codecs = inside["codecs"]
    names = tuple(codec["name"] for codec in codecs[1:])
    return names if codecs[0] == _LITTLE and names in (("crc32c",), ("blosc", "crc32c")) else None


def _uint32(data: np.ndarray) -> int:
    return int.from_bytes(data.tobytes(), "little")
