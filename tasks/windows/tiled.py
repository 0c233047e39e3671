"""Fixed tiles of the context, max-pooled: every place in the text belongs to exactly one window."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from tasks.lazy import np
from tasks.windows.base import Windows, by_strength, strongest

if TYPE_CHECKING:
    import numpy as np


class Tiled(Windows):
    """Each context is cut into tiles of ``window_tokens`` from its first token on; the last one takes what is left. A
    window is ranked by its largest activation, which may stand anywhere in it."""

    kind: Literal["tiled"] = "tiled"

    def around(self, rows: np.ndarray, context_offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        context = np.searchsorted(context_offsets, rows, side="right") - 1
        begin = rows - (rows - context_offsets[context]) % self.window_tokens
        return begin, np.minimum(begin + self.window_tokens, context_offsets[context + 1])

    def peaks(self, rows: np.ndarray, values: np.ndarray, context_offsets: np.ndarray) -> np.ndarray:
        begin, end = self.around(rows, context_offsets)
        index = strongest(begin, values)
        return by_strength(index[end[index] - begin[index] >= self.min_tokens], values)
