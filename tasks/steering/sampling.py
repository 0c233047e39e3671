"""Choosing the next token of each row with a generator of its own. Shapes: B rows, V vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

from tasks.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

MAX_TEMPERATURE = 100
"""At which every token is as likely as the next."""


class Draws:
    """One number from 0 to 1 per row and step, which picks the token at that height of the cumulated probabilities.

    So two rows with one key differ only where their probabilities do, and no row's draws depend on the others.
    """

    def __init__(self, keys: Sequence[str], n_rows: int, temperature: float, top_p: float = 1.0) -> None:
        """``keys`` name the generators; rows past them, up to ``n_rows``, are there to fill a batch.

        ``top_p`` below 1 leaves only the likeliest tokens that together have so much of the probability: the fewest that
        do, the one that takes them past it among them, so that there is always one (arXiv 1904.09751, section 3.1).
        """
        self._generators = [Random(key) for key in keys]
        self._fill = [0.5] * (n_rows - len(keys))
        self._temperature, self._top_p = temperature, top_p

    def choose(self, logits_BV: Tensor) -> Tensor:
        """token_B; the likeliest where the temperature is 0."""
        if self._temperature == 0:
            return logits_BV.argmax(-1)
        heights = [draw.random() for draw in self._generators] + self._fill
        # float64, or the many small probabilities of a large vocabulary do not add up; Apple's GPUs have none
        dtype = torch.float32 if logits_BV.device.type == "mps" else torch.float64
        p_BV = self._nucleus(torch.softmax(logits_BV.to(dtype) / self._temperature, -1)).cumsum(-1)
        height_B1 = torch.tensor(heights, dtype=dtype, device=p_BV.device)[:, None] * p_BV[:, -1:]
        token_B1 = torch.searchsorted(p_BV, height_B1, right=True)
        return token_B1.clamp_(max=p_BV.shape[1] - 1)[:, 0]

    def _nucleus(self, p_BV: Tensor) -> Tensor:
        """Probabilities with those outside of ``top_p`` set to 0; the rest need not add up to 1."""
        if self._top_p >= 1:
            return p_BV
        sorted_BV, order_BV = p_BV.sort(dim=-1, descending=True, stable=True)
        before_BV = sorted_BV.cumsum(-1) - sorted_BV
        before_BV[:, 0] = 0  # which rounding may leave off by a bit
        return torch.zeros_like(p_BV).scatter(-1, order_BV, torch.where(before_BV < self._top_p, sorted_BV, 0))
