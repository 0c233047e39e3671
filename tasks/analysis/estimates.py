"""Means, shares and differences with their intervals. All intervals are 95%.

A latent is one draw; its windows are not, since they share an explanation. So intervals of anything pooled over windows
come from the spread between latents (linearisation of a ratio, Cochran 1977, chapter 6), never from the count of windows.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from tasks.scorers.base import wilson

Z = 1.959964


class Estimate(NamedTuple):
    """A number and how sure it is."""

    value: float | None
    low: float | None
    high: float | None
    """None where one latent alone says nothing of the spread."""

    n: int
    """Latents behind it."""

    @property
    def json(self) -> dict[str, Any]:
        return self._asdict()

    def within(self, bounds: tuple[float, float] | None) -> Estimate:
        """With an interval that does not pass what the number can be."""
        if bounds is None or self.low is None or self.high is None:
            return self
        return self._replace(low=max(bounds[0], self.low), high=min(bounds[1], self.high))


NOTHING = Estimate(None, None, None, 0)


def mean(values: Sequence[float], weights: Sequence[float] | None = None) -> Estimate:
    """The mean, each value counted as often as its weight says, with a Student interval over the values.

    Values of weight 0 are none.
    """
    pairs = [(v, w) for v, w in zip(values, weights or [1.0] * len(values), strict=True) if w > 0]
    if not pairs:
        return NOTHING
    total = math.fsum(w for _, w in pairs)
    centre = math.fsum(v * w for v, w in pairs) / total
    return around(centre, [w * (v - centre) / total for v, w in pairs])


def around(value: float, influences: Sequence[float]) -> Estimate:
    """An estimate of which each latent's influence is known: how far it moves the value from where it would be."""
    n = len(influences)
    if n < 2:
        return Estimate(value, None, None, n)
    half = t975(n - 1) * math.sqrt(n / (n - 1) * math.fsum(i * i for i in influences))
    return Estimate(value, value - half, value + half, n)


def n_effective(weights: Sequence[float]) -> float:
    """How many equal weights would leave a weighted mean as sure (Kish 1965)."""
    squares = math.fsum(w * w for w in weights)
    return math.fsum(weights) ** 2 / squares if squares else 0.0


def share(n_of: int, n: int) -> Estimate:
    """A share of latents with its Wilson interval."""
    if n == 0:
        return NOTHING
    value, (low, high) = n_of / n, wilson(n_of, n)
    return Estimate(value, min(value, low), max(value, high), n)  # rounding may leave 1 just outside of its interval


def paired(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """The mean difference of pairs (the first less the second), and how often each is the larger."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    found = mean(differences).json
    better, worse = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    return {**found, "better": better, "equal": len(differences) - better - worse, "worse": worse}


def quartiles(values: Sequence[float]) -> tuple[float, float, float] | None:
    """First quartile, median, third quartile, interpolated between values; None of none."""
    if not values:
        return None
    if len(values) == 1:
        return values[0], values[0], values[0]
    first, second, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, second, third


def t975(freedom: int) -> float:
    """The 97.5% point of Student's distribution: exact for 1 and 2 degrees of freedom, else by the expansion of
    Cornish and Fisher (Abramowitz and Stegun 26.7.5), which is right to 1% from 3 on."""
    if freedom == 1:
        return math.tan(math.pi * 0.475)
    if freedom == 2:
        return 0.95 * math.sqrt(2 / (4 * 0.975 * 0.025))
    z, v = Z, freedom
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / v + second / v**2 + third / v**3
