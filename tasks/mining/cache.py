"""The latent cache: which latent fires where, read by latent. Shapes: N latents, R rows (tokens), C contexts, A activations.

A shard's activations lie sorted by latent, rows ascending within one, so that a latent is one slice of each shard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.lazy import np

if TYPE_CHECKING:
    import numpy as np


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


class LatentCache:
    """The shards of one split as one: rows and contexts are counted through, in the order of the shards."""

    def __init__(self, shards: Sequence[Encoded]) -> None:
        self.shards = list(shards)
        sizes = [len(shard.token_id) for shard in self.shards]
        self.starts = np.cumsum([0, *sizes])
        """int64: first row of each shard, and how many rows there are."""
        self.n_latents = len(self.shards[0].offsets) - 1 if self.shards else 0
        self.token_id = _joined([s.token_id for s in self.shards], np.int32)
        self.document_id = _joined([s.document_id for s in self.shards], np.int32)
        self.sentence_id = _joined([s.sentence_id for s in self.shards], np.int32)
        parts = [s.context_offsets[:-1] + start for s, start in zip(self.shards, self.starts, strict=False)]
        self.context_offsets = np.append(_joined(parts, np.int64), self.n_rows)

    @property
    def n_rows(self) -> int:
        return int(self.starts[-1])

    @property
    def n_fires(self) -> np.ndarray:
        """int64 (N,): rows on which each latent is active."""
        return np.sum([np.diff(shard.offsets) for shard in self.shards], axis=0, dtype=np.int64)

    def of(self, latent: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows (int64, ascending) on which a latent is active, and its activation on each (float32)."""
        rows, values = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
        for shard, start in zip(self.shards, self.starts, strict=False):
            a, b = int(shard.offsets[latent]), int(shard.offsets[latent + 1])
            rows.append(shard.row[a:b].astype(np.int64) + start)
            values.append(np.asarray(shard.value[a:b], np.float32))
        return np.concatenate(rows), np.concatenate(values)


def _joined(arrays: list[np.ndarray], dtype: object) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *arrays]).astype(dtype, copy=False)
