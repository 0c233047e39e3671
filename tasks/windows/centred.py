"""Windows around their strongest row: three quarters before it, since a causal latent is explained by what came before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tasks.lazy import np
from tasks.windows.base import Windows, by_strength, strongest

if TYPE_CHECKING:
    import numpy as np


class Centred(Windows):
    """The peak stands at three quarters of the window. At the edges of its context the window is moved, and not cut,
    until it fits: it is shorter than ``window_tokens`` only where its whole context is."""

    kind: Literal["centred"] = "centred"

    per_context: int = Field(1, ge=1)
    """Windows of a context at most: around its strongest row, then around the strongest of those that nothing in their
    own window outdoes, and whose window overlaps none of the windows before."""

    def around(self, rows: np.ndarray, context_offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        context = np.searchsorted(context_offsets, rows, side="right") - 1
        first, last = context_offsets[context], context_offsets[context + 1]
        begin = np.maximum(np.minimum(rows - self.window_tokens * 3 // 4, last - self.window_tokens), first)
        return begin, np.minimum(begin + self.window_tokens, last)

    def peaks(self, rows: np.ndarray, values: np.ndarray, context_offsets: np.ndarray) -> np.ndarray:
        context = np.searchsorted(context_offsets, rows, side="right") - 1
        left = np.arange(len(rows)) if self.per_context == 1 else self._outdone_by_none(rows, values, context_offsets)
        found = []
        for turn in range(self.per_context):
            peak = left[strongest(context[left], values[left])]
            found.append(peak)
            if turn + 1 == self.per_context or not len(peak):
                break
            # only rows of contexts with a new peak are left, and each of them has exactly one
            own = peak[np.searchsorted(context[peak], context[left])]
            begin, end = self.around(rows[left], context_offsets)
            taken_begin, taken_end = self.around(rows[own], context_offsets)
            left = left[(end <= taken_begin) | (begin >= taken_end)]
        index = np.concatenate(found)
        if self.min_tokens > 1:
            index = index[self.long_enough(rows[index], context_offsets)]
        return by_strength(index, values)

    def _outdone_by_none(self, rows: np.ndarray, values: np.ndarray, context_offsets: np.ndarray) -> np.ndarray:
        """Indices of the rows that are the strongest of their own window, of equal ones the first."""
        strength = np.zeros(len(rows) + 1, np.int64)  # one more, for windows that end with the last row
        strength[by_strength(np.arange(len(rows)), values)] = np.arange(len(rows), 0, -1)
        bounds = np.searchsorted(rows, np.stack(self.around(rows, context_offsets), 1))
        return np.flatnonzero(np.maximum.reduceat(strength, bounds.reshape(-1))[::2] == strength[:-1])
