"""What every kind of window is. Shapes: C contexts, R rows asked for, A activations of one latent, W windows.

A window lies within one context, and so within one document. Rows are counted through all of a cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from tasks.lazy import np
from tasks.spec import Spec, SpecError

if TYPE_CHECKING:
    import numpy as np


class Windows(Spec):
    """A kind of windows."""

    window_tokens: int = Field(32, ge=4)
    """Tokens of a window, as far as its context has them."""

    min_tokens: int = Field(1, ge=1)
    """Shorter windows (of short contexts, and at their ends) are left out; 1 leaves out none."""

    @model_validator(mode="after")
    def _fits(self) -> Windows:
        if self.min_tokens > self.window_tokens:
            raise SpecError(
                f"mine.windows.min_tokens = {self.min_tokens}, but a window has at most {self.window_tokens}; "
                f"use at most {self.window_tokens}"
            )
        return self

    def around(self, rows: np.ndarray, context_offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First and last-plus-one row of the window of each row (int64, R), within the row's context."""
        raise NotImplementedError

    def peaks(self, rows: np.ndarray, values: np.ndarray, context_offsets: np.ndarray) -> np.ndarray:
        """Which of a latent's activations (rows ascending) are the peak of a window: indices, the strongest first.

        Windows of different peaks do not overlap, and no row in a window is stronger than its peak; of equally strong
        ones the first is the peak.
        """
        raise NotImplementedError

    def long_enough(self, rows: np.ndarray, context_offsets: np.ndarray) -> np.ndarray:
        """bool (R,): whether the window of each row has ``min_tokens``."""
        begin, end = self.around(rows, context_offsets)
        return end - begin >= self.min_tokens


def strongest(group: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Index of the first largest value of each group; groups ascend."""
    if not len(group):
        return np.zeros(0, np.int64)
    number = np.cumsum(np.diff(group, prepend=group[0]) != 0)
    starts = np.flatnonzero(np.diff(number, prepend=-1))
    best = np.maximum.reduceat(values, starts)
    at = np.flatnonzero(values == best[number])
    return at[np.flatnonzero(np.diff(number[at], prepend=-1))]


def by_strength(index: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Indices of activations in falling order of their values; equal ones by row."""
    index = np.sort(index)
    return index[np.argsort(-values[index], kind="stable")]
