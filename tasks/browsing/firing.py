"""Which latents fire on a text: its own words looked up in the SAE, instead of what somebody called them.

Shapes: T tokens of the text, K active latents of a token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tasks.lazy import np

if TYPE_CHECKING:
    import numpy as np


class Firing(NamedTuple):
    """One latent on a text."""

    share: float
    """Its largest activation there over its largest on the corpus: what is usual for it is far below 1. Where that is not
    known, the activation itself."""

    peak: float
    position: int
    """Token at which it is largest."""

    n_tokens: int


def firing(index_TK: np.ndarray, value_TK: np.ndarray, max_N: np.ndarray) -> dict[int, Firing]:
    """Latents that are active on a text, the most unusual first. ``max_N``: largest activations on the corpus."""
    position, place = np.nonzero(value_TK > 0)
    latent, value = index_TK[position, place], value_TK[position, place].astype(np.float64)
    order = np.lexsort((-value, latent))
    latent, value, position = latent[order], value[order], position[order]
    which, first, count = np.unique(latent, return_index=True, return_counts=True)
    most = max_N[which].astype(np.float64)
    share = value[first] / np.where(most > 0, most, 1.0)
    found = np.lexsort((which, -share))
    return {
        int(which[i]): Firing(float(share[i]), float(value[first[i]]), int(position[first[i]]), int(count[i])) for i in found
    }
