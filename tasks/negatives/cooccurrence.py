"""Non-activating windows by co-occurrence: where latents fire that often fire on the same tokens. Shapes: N latents,
S sampled rows, A activations on them.

Two latents are as similar as the Jaccard index of the sets of rows on which they fire. It is counted latent by latent
from the activations of a sample of rows, kept once by row: the dense N x N table of counts is never made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tasks.lazy import np
from tasks.mining.hashing import hashed, number
from tasks.negatives._neighbours import NeighbourNegatives, Neighbours, strongest
from tasks.negatives.base import Ground

if TYPE_CHECKING:
    import numpy as np

    from tasks.mining.cache import Encoded

_BLOCK = 1 << 22
"""Activations read at a time."""

_ROWS_AT_ONCE = 1 << 18


class Cooccurrence(NeighbourNegatives):
    """Windows of the latents that share most of the tokens on which either fires."""

    kind: Literal["cooccurrence"] = "cooccurrence"

    n_rows: int = Field(500_000, ge=1)
    """Rows (tokens), drawn at random from the split, on which it is counted who fires together. Memory is about
    4 bytes x L0 a row."""

    def neighbours(self, latent: int, ground: Ground) -> Neighbours:
        sample = ground.once(("rows sampled", self.n_rows), lambda: Sample(ground, self.n_rows))
        rows, _ = ground.once(("rows of", latent), lambda: ground.cache.of(latent), keep=4)
        together_N = sample.together(rows)
        either_N = sample.n_fires_N + sample.n_fires_N[latent] - together_N
        together_N[latent] = 0
        some = np.flatnonzero(together_N)
        jaccard = (together_N[some] / either_N[some]).astype(np.float32)
        best = strongest(some, jaccard, self.n_neighbours)
        return Neighbours(some[best], jaccard[best])


class Sample:
    """Which latents fire on each of some rows."""

    def __init__(self, ground: Ground, n_rows: int) -> None:
        cache = ground.cache
        self.rows_S = _drawn(ground, n_rows)
        counts, latents = [], []
        for shard, start in zip(cache.shards, cache.starts, strict=False):
            inside = self.rows_S[slice(*np.searchsorted(self.rows_S, [start, start + len(shard.token_id)]))] - start
            count, latent = _by_row(shard, inside)
            counts.append(count)
            latents.append(latent)
        self.offsets = np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64)
        self.latent_A = np.concatenate(latents)
        self.n_latents = cache.n_latents
        self.n_fires_N = np.bincount(self.latent_A, minlength=self.n_latents)

    def together(self, rows: np.ndarray) -> np.ndarray:
        """int64 (N,): on how many of some rows, as far as they are in the sample, each latent fires."""
        place = np.searchsorted(self.rows_S, rows)
        place = place[(place < len(self.rows_S)) & (self.rows_S[place.clip(max=len(self.rows_S) - 1)] == rows)]
        begin, size = self.offsets[place], self.offsets[place + 1] - self.offsets[place]
        total = int(size.sum())
        at = np.arange(total) + np.repeat(begin - (np.cumsum(size) - size), size)
        return np.bincount(self.latent_A[at], minlength=self.n_latents)


def _drawn(ground: Ground, n: int) -> np.ndarray:
    """int64 (S,): ``n`` rows of the split, or all, drawn without regard to where a shard begins; ascending."""
    seed = number(ground.seed, f"{ground.split}/rows on which latents meet")
    row, order = np.zeros(0, np.int64), np.zeros(0, np.uint64)
    for start in range(0, ground.cache.n_rows, _ROWS_AT_ONCE):
        more = np.arange(start, min(start + _ROWS_AT_ONCE, ground.cache.n_rows))
        row = np.concatenate([row, more])
        order = np.concatenate([order, hashed(seed, more)])
        if len(row) > n:
            best = np.argpartition(order, n - 1)[:n]
            row, order = row[best], order[best]
    return np.sort(row)


def _by_row(shard: Encoded, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of some rows of a shard, ascending: how many latents fire on each, and which, row by row."""
    place = np.full(len(shard.token_id), -1, np.int32)
    place[rows] = np.arange(len(rows))
    offsets = np.asarray(shard.offsets)
    owners, latents = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    for first in range(0, len(shard.row), _BLOCK):
        owner = place[shard.row[first : first + _BLOCK]]
        sampled = np.flatnonzero(owner >= 0)
        owners.append(owner[sampled])
        latents.append((np.searchsorted(offsets, first + sampled, side="right") - 1).astype(np.int32))
    owner, latent = np.concatenate(owners), np.concatenate(latents)
    return np.bincount(owner, minlength=len(rows)), latent[np.argsort(owner, kind="stable")]
