"""What every sampler does. Shapes: M activating windows of a latent in a split, by rank, 0 the strongest.

Samplers see ranks and nothing else, so that one draw means the same for every latent and every kind of window.
"""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import ClassVar

from pydantic import Field

from tasks.spec import Spec

Chosen = list[tuple[int, str]]
"""Rank and group (``top``, ``quantile``, ``random``) of each window kept, ranks ascending, none twice."""


class Sampler(Spec):
    """A kind of sampler."""

    GROUP: ClassVar[str] = ""
    """What its windows are called, in ``Window.group``."""

    n: int = Field(40, ge=1)
    """Windows kept per latent, as far as there are."""

    n_quantiles: int = Field(10, ge=1)
    """Slices, by rank, that all activating windows are told apart in; 0 holds the strongest."""

    def draw(self, m: int, random: Random) -> Chosen:
        """``min(n, m)`` of M windows. ``random`` is the only source of chance."""
        raise NotImplementedError

    def quantile(self, rank: int, m: int) -> int:
        """The slice of all M windows that a rank lies in."""
        return rank * self.n_quantiles // m


def spread(m: int, n: int, n_slices: int, random: Random) -> list[int]:
    """``min(n, m)`` of the numbers below ``m``, ascending, as evenly as can be from ``n_slices`` slices of them.

    Slice i is ``m*i // n_slices`` up to ``m*(i+1) // n_slices``, so every number is in one. Where ``n`` is no multiple of
    the slices, or smaller, chance says which of them give one more; what a small slice lacks comes from the others.
    """
    if n >= m:
        return list(range(m))
    bounds = [m * i // n_slices for i in range(n_slices + 1)]
    slices = [range(a, b) for a, b in pairwise(bounds) if a < b]
    quota, phase = [0] * len(slices), random.randrange(len(slices))
    left, open_ = n, list(range(len(slices)))
    while left:
        each = [((i + 1) * left + phase) // len(open_) - (i * left + phase) // len(open_) for i in range(len(open_))]
        for i, more in zip(open_, each, strict=True):
            more = min(more, len(slices[i]) - quota[i])
            quota[i] += more
            left -= more
        open_ = [i for i in open_ if quota[i] < len(slices[i])]
    return [rank for part, q in zip(slices, quota, strict=True) for rank in sorted(random.sample(part, q))]
