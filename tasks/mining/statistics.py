"""What a latent does over a whole split. Shapes: N latents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.lazy import np

if TYPE_CHECKING:
    import numpy as np

BINS = 48
"""Histogram bins of activation, from 2^-8 to 2^8 in thirds of an octave, so that counts of shards simply add."""

_PER_OCTAVE = 3
_LOWEST = -8


def histogram_edges() -> list[float]:
    """Lower edges of the bins, and the upper edge of the last. Values outside fall into the first or last bin."""
    return [2 ** (_LOWEST + i / _PER_OCTAVE) for i in range(BINS + 1)]


class Totals:
    """Sums over all activations seen so far, by latent. Memory: N x (BINS + 3) numbers."""

    def __init__(self, n_latents: int) -> None:
        self.n_fires = np.zeros(n_latents, np.int64)
        self.total = np.zeros(n_latents)
        self.largest = np.zeros(n_latents, np.float32)
        self.histogram = np.zeros((n_latents, BINS), np.int64)

    def add(self, counts: np.ndarray, latent: np.ndarray, value: np.ndarray) -> None:
        """Activations sorted by latent; ``counts`` says how many are whose."""
        alive = np.flatnonzero(counts)
        if not len(alive):
            return
        starts = np.cumsum(counts[alive]) - counts[alive]
        self.n_fires += counts
        self.total[alive] += np.add.reduceat(value, starts, dtype=np.float64)
        self.largest[alive] = np.maximum(self.largest[alive], np.maximum.reduceat(value, starts))
        bins = ((np.log2(value) - np.float32(_LOWEST)) * np.float32(_PER_OCTAVE)).astype(np.int32).clip(0, BINS - 1)
        np.add.at(self.histogram.reshape(-1), latent.astype(np.int64) * BINS + bins, 1)

    def arrays(self) -> dict[str, np.ndarray]:
        """By name, as an ``encode`` artifact keeps them."""
        return {"total": self.total, "largest": self.largest, "histogram": self.histogram}
