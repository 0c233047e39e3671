"""The latent cache: which latent fires where, read by latent. Shapes: N latents, R rows (tokens), C contexts, A activations.

A shard's activations lie sorted by latent, rows ascending within one, so that a latent is one slice of each shard. An
``encode`` artifact is one shard, an ``.npy`` file per array: all of the text that windows are cut from is in it, so that it
stands alone when the activations it was made from are gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.lazy import np
from tasks.mining.statistics import BINS

if TYPE_CHECKING:
    import numpy as np

    from artifacts.store import Opened

_JOINED_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Encoded:
    """One shard. Arrays may be memory-mapped; nothing here loads them whole."""

    offsets: np.ndarray
    """int64 (N + 1,): the activations of latent i are ``offsets[i]:offsets[i + 1]``."""

    row: np.ndarray
    """uint32 (A,): row of the shard."""

    value: np.ndarray
    """float32 (A,): activation, > 0."""

    token_id: np.ndarray
    """int32 (R,)."""

    context_offsets: np.ndarray
    """int64 (C + 1,): the rows of context i."""

    document_id: np.ndarray
    """int32 (R,)."""

    sentence_id: np.ndarray
    """int32 (R,)."""

    split: str = "train"

    statistics: dict[str, np.ndarray] = field(default_factory=dict)
    """Over the shard, by latent: ``total`` float64 and ``largest`` float32 (N,), ``histogram`` int64 (N, bins)."""

    @staticmethod
    def open(opened: Opened) -> Encoded:
        """The shard of an ``encode`` artifact, memory-mapped."""
        return Encoded.at(opened.path, opened.summary["split"])

    @staticmethod
    def at(folder: Path, split: str) -> Encoded:
        """The shard in a folder, memory-mapped."""
        names = ("offsets", "row", "value", "token_id", "context_offsets", "document_id", "sentence_id")
        with np.load(folder / "statistics.npz") as arrays:
            statistics = dict(arrays)
        arrays = {name: _mapped(folder / f"{name}.npy") for name in names}
        return Encoded(**arrays, split=split, statistics=statistics)


class LatentCache:
    """The shards of one split as one: rows and contexts are counted through, in the order of the shards."""

    def __init__(self, shards: Sequence[Encoded], scratch: Path | None = None) -> None:
        """``scratch``: a folder for the columns of several shards joined, so that they are memory-mapped here, too."""
        self.shards = list(shards)
        sizes = [len(shard.token_id) for shard in self.shards]
        self.starts = np.cumsum([0, *sizes])
        """int64: first row of each shard, and how many rows there are."""
        self.n_latents = len(self.shards[0].offsets) - 1 if self.shards else 0
        if scratch is not None:
            scratch.mkdir(parents=True, exist_ok=True)

        def joined(name: str) -> np.ndarray:
            return _joined([getattr(s, name) for s in self.shards], np.int32, scratch and scratch / f"{name}.npy")

        self.token_id, self.document_id, self.sentence_id = map(joined, ("token_id", "document_id", "sentence_id"))
        parts = [s.context_offsets[:-1] + start for s, start in zip(self.shards, self.starts, strict=False)]
        self.context_offsets = np.append(_joined(parts, np.int64), self.n_rows)

    @property
    def n_rows(self) -> int:
        return int(self.starts[-1])

    @property
    def n_fires(self) -> np.ndarray:
        """int64 (N,): rows on which each latent is active."""
        return np.sum([np.diff(shard.offsets) for shard in self.shards], axis=0, dtype=np.int64)

    def statistic(self, name: str) -> np.ndarray:
        """``total``, ``largest`` or ``histogram`` of each latent, over all shards."""
        found = [shard.statistics[name] for shard in self.shards]
        if not found:
            empty = {
                "total": np.zeros(0),
                "largest": np.zeros(0, np.float32),
                "histogram": np.zeros((0, BINS), np.int64),
            }
            return empty[name]
        return np.max(found, axis=0) if name == "largest" else np.sum(found, axis=0)

    def of(self, latent: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows (int64, ascending) on which a latent is active, and its activation on each (float32)."""
        rows, values = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
        for shard, start in zip(self.shards, self.starts, strict=False):
            a, b = int(shard.offsets[latent]), int(shard.offsets[latent + 1])
            if a < b:
                rows.append(shard.row[a:b].astype(np.int64) + start)
                values.append(np.asarray(shard.value[a:b], np.float32))
        return np.concatenate(rows), np.concatenate(values)


def run_starts(ids: np.ndarray) -> np.ndarray:
    """int64: first row of each run of equal ids; looks at a part of them at a time."""
    found, before = [np.zeros(0, np.int64)], None
    for start in range(0, len(ids), _JOINED_AT_ONCE):
        part = ids[start : start + _JOINED_AT_ONCE]
        change = np.diff(part, prepend=part[0]) != 0
        change[0] = before is None or part[0] != before
        found.append(np.flatnonzero(change) + start)
        before = part[-1]
    return np.concatenate(found)


def _joined(arrays: list[np.ndarray], dtype: object, path: Path | None = None) -> np.ndarray:
    """All of them, one behind the other; in a file where there is a path, or the array itself where there is but one."""
    if path is None:
        return np.concatenate([np.zeros(0, dtype), *arrays]).astype(dtype, copy=False)
    if len(arrays) == 1 and arrays[0].dtype == dtype:
        return arrays[0]
    with NpyFile(path, dtype, sum(map(len, arrays))) as file:
        for array in arrays:
            for start in range(0, len(array), _JOINED_AT_ONCE):
                file.write(array[start : start + _JOINED_AT_ONCE])
    return _mapped(path)


def _mapped(path: Path) -> np.ndarray:
    """The array of an ``.npy`` file, read as it is touched; a plain array, since slicing a ``memmap`` takes microseconds."""
    return np.asarray(np.load(path, mmap_mode="r"))


class NpyFile:
    """An ``.npy`` file of one dimension written front to back, so that no more of it is in memory than what is written."""

    def __init__(self, path: Path, dtype: object, n: int) -> None:
        self._dtype, self._left = np.dtype(dtype), n
        self._file = open(path, "wb")  # noqa: SIM115  closed by __exit__
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": (n,)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def write(self, array: np.ndarray) -> None:
        self._left -= len(array)
        np.ascontiguousarray(array, self._dtype).tofile(self._file)

    def __enter__(self) -> NpyFile:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._file.close()
        if kind is None and self._left:
            raise ValueError(f"{self._file.name} lacks {self._left} entries, but its header promised them")
