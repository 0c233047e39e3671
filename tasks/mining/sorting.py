"""Activations by row, in; activations by latent, out: an external counting sort.

Each block of rows is sorted by latent and appended to a run on disk. When the counts of all blocks are known, so is where
every latent begins; then the runs are merged a range of latents at a time. Memory is a block, a range and a few numbers
per latent, however many rows there are; every activation is written twice and read once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.lazy import np
from tasks.mining.cache import NpyFile
from tasks.mining.statistics import Totals

if TYPE_CHECKING:
    import numpy as np

AT_ONCE = 1 << 20
"""Activations merged at a time, 8 bytes each; a latent with more of them is copied run by run."""

_RUNS = ("rows", "values", "counts")


class ByLatent:
    """Sorts the activations of one shard. Shapes: B rows, K entries of a row, N latents."""

    def __init__(self, scratch: Path, n_latents: int, at_once: int = AT_ONCE) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        for name in _RUNS:
            (scratch / name).write_bytes(b"")
        self._n, self._at_once, self._scratch = n_latents, at_once, scratch
        self.totals = Totals(n_latents)
        self._run_starts = [0]

    def take(self, first_row: int, index_BK: np.ndarray, value_BK: np.ndarray) -> None:
        """Take the latents of rows ``first_row`` on; blocks come in ascending order. Entries that are not > 0 are none."""
        k = index_BK.shape[1]
        flat = index_BK.reshape(-1)
        value = np.ascontiguousarray(value_BK.reshape(-1), np.float32)
        kept = value > 0
        where = None if kept.all() else np.flatnonzero(kept)
        if where is not None:
            flat, value = flat[where], value[where]
        order = stable_order(flat, self._n)
        latent, value = flat[order], value[order]
        row = (order if where is None else where[order]) // k + first_row
        counts = np.bincount(latent, minlength=self._n)
        self.totals.add(counts, latent, value)
        for name, column in zip(_RUNS, (row.astype(np.uint32), value, counts.astype(np.uint32)), strict=True):
            with open(self._scratch / name, "ab") as file:
                column.tofile(file)
        self._run_starts.append(self._run_starts[-1] + len(row))

    def finish(self, out: Path) -> int:
        """Write ``offsets.npy``, ``row.npy``, ``value.npy`` and ``statistics.npz``; returns the number of activations."""
        offsets = np.concatenate([[0], np.cumsum(self.totals.n_fires)])
        n = int(offsets[-1])
        np.save(out / "offsets.npy", offsets)
        np.savez(out / "statistics.npz", **self.totals.arrays())
        self._cursor = np.array(self._run_starts[:-1], np.int64)
        with (
            open(self._scratch / "rows", "rb") as row_file,
            open(self._scratch / "values", "rb") as value_file,
            NpyFile(out / "row.npy", np.uint32, n) as rows,
            NpyFile(out / "value.npy", np.float32, n) as values,
        ):
            for first, last in self._ranges(offsets):
                if last - first == 1:
                    for begin, size in self._segments(first, last):
                        rows.write(_read(row_file, np.uint32, begin, int(size.sum())))
                        values.write(_read(value_file, np.float32, begin, int(size.sum())))
                    continue
                place = offsets[first:last] - offsets[first]
                merged_rows = np.empty(offsets[last] - offsets[first], np.uint32)
                merged_values = np.empty(len(merged_rows), np.float32)
                for begin, size in self._segments(first, last):
                    n_here = int(size.sum())
                    # a latent's part of this run goes behind its parts of the runs before
                    to = np.repeat(place - (np.cumsum(size) - size), size) + np.arange(n_here)
                    merged_rows[to] = _read(row_file, np.uint32, begin, n_here)
                    merged_values[to] = _read(value_file, np.float32, begin, n_here)
                    place += size
                rows.write(merged_rows)
                values.write(merged_values)
        for name in _RUNS:
            (self._scratch / name).unlink()
        return n

    def _ranges(self, offsets: np.ndarray) -> list[tuple[int, int]]:
        """Ranges of latents with at most ``at_once`` activations, or of one latent."""
        found, first = [], 0
        while first < self._n:
            last = int(np.searchsorted(offsets, offsets[first] + self._at_once, side="right")) - 1
            last = min(max(last, first + 1), self._n)
            found.append((first, last))
            first = last
        return found

    def _segments(self, first: int, last: int) -> Iterator[tuple[int, np.ndarray]]:
        """Where the range's part of each run begins, and its size by latent. Ranges come in ascending order."""
        if len(self._run_starts) == 1:
            return
        counts = np.memmap(self._scratch / "counts", np.uint32, "r", shape=(len(self._run_starts) - 1, self._n))
        for run in range(len(counts)):
            size = counts[run, first:last].astype(np.int64)
            n_here = int(size.sum())
            if n_here:
                yield int(self._cursor[run]), size
                self._cursor[run] += n_here


def _read(file: Any, dtype: object, begin: int, n: int) -> np.ndarray:
    dtype = np.dtype(dtype)
    file.seek(begin * dtype.itemsize)
    return np.fromfile(file, dtype, n)


def stable_order(key: np.ndarray, bound: int) -> np.ndarray:
    """The stable order of integers from 0 to ``bound`` - 1: by radix, which numpy does for 16 bits only."""
    if bound <= 1 << 16:
        return np.argsort(key.astype(np.uint16), kind="stable")
    order = np.argsort(key.astype(np.uint16), kind="stable")
    high = (key >> 16).astype(np.uint16)
    return order[np.argsort(high[order], kind="stable")]
