"""How well simulated activations agree with true ones, over all tokens of some windows.

Shapes: W windows; sums over the tokens of each window, so that windows, not tokens, are what is drawn anew: tokens of
one window are anything but independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from tasks.lazy import np

_RESAMPLES = 1000
_Z = 1.959964
_FOLDS = 5


class Simulated(NamedTuple):
    """True and simulated activations of one window, 0 to 10, one per token."""

    true: Sequence[float]
    simulated: Sequence[float]

    def sums(self) -> list[float]:
        """n, sum t, sum p, sum tt, sum pp, sum tp."""
        t, p = self.true, self.simulated
        products = [sum(a * b for a, b in zip(x, y, strict=True)) for x, y in ((t, t), (p, p), (t, p))]
        return [len(t), sum(t), sum(p), *products]


def correlation(windows: Sequence[Simulated]) -> float | None:
    """Pearson's, over all tokens of all windows. 0 when the simulation is constant, since it then tells nothing; None
    when the truth is, since then there is nothing to tell."""
    if not windows:
        return None
    sums = np.array([w.sums() for w in windows])
    value = _correlation(sums.sum(0))
    return None if np.isnan(value) else float(value)


def _correlation(sums: np.ndarray) -> np.ndarray:
    """Of sums in the last axis; NaN where the truth is constant."""
    n, t, p, tt, pp, tp = np.moveaxis(sums, -1, 0)
    vt, vp, c = n * tt - t * t, n * pp - p * p, n * tp - t * p
    flat = vp <= 1e-9 * n * np.maximum(pp, 1e-9)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.where(flat, 0.0, c / np.sqrt(vt * vp))
    return np.where(vt <= 1e-9 * n * np.maximum(tt, 1e-9), np.nan, np.clip(value, -1, 1))


def interval(active: Sequence[Simulated], silent: Sequence[Simulated], draw: Random) -> tuple[float, float]:
    """95% interval of the correlation, from windows drawn anew, of both classes as many as there are.

    Percentiles, expanded for small samples (Hesterberg 2015, "What teachers should know about the bootstrap", section
    5.2): with 20 windows of each class it holds the truth in 88% to 95% of draws. Of a constant simulation every draw
    is 0, which is no knowledge, so that the interval is Fisher's of as many observations as there are active windows; and
    of one active window every draw has the same, so that nothing is known at all.
    """
    parts = [np.array([w.sums() for w in part]) for part in (active, silent) if part]
    value = float(_correlation(np.concatenate(parts).sum(0)))
    n = len(active) or len(silent)
    if n == 1:
        return -1.0, 1.0
    if value == 0:
        half = math.tanh(_Z / math.sqrt(max(1, n - 3)))
        return -half, half
    rng = np.random.default_rng(draw.getrandbits(32))
    drawn = sum(part[rng.integers(0, len(part), (_RESAMPLES, len(part)))].sum(1) for part in parts)
    low, high = np.nanquantile(_correlation(drawn), [0.025, 0.975])
    student = 1 + (_Z * _Z + 1) / (4 * max(1, n - 1))  # Student's quantile over the normal one, to first order
    wider = student * math.sqrt(n / max(1, n - 1))
    low, high = value - wider * (value - min(low, value)), value + wider * (max(high, value) - value)
    return max(-1.0, float(low)), min(1.0, float(high))


def explained_variance(windows: Sequence[Simulated]) -> float | None:
    """1 - sum (t - p)^2 over sum (t - mean t)^2, as the judge said it: below 0 for one who overdoes it."""
    return _explained(windows, [w.simulated for w in windows])


def calibrated_variance(windows: Sequence[Simulated], draw: Random) -> float | None:
    """The same after the line that fits best has been laid through the simulation: a fit to other windows than those
    that it is measured on, in five folds."""
    order = draw.sample(range(len(windows)), len(windows))
    if len(order) < 2:
        return None
    calibrated: dict[int, list[float]] = {}
    for fold in range(min(_FOLDS, len(order))):
        out = order[fold :: min(_FOLDS, len(order))]
        n, t, p, _, pp, tp = np.sum([windows[i].sums() for i in order if i not in set(out)], 0)
        spread = n * pp - p * p
        slope = (n * tp - t * p) / spread if spread > 1e-9 * n * max(pp, 1e-9) else 0.0
        for i in out:
            calibrated[i] = [t / n + slope * (value - p / n) for value in windows[i].simulated]
    return _explained(windows, [calibrated[i] for i in range(len(windows))])


def _explained(windows: Sequence[Simulated], predicted: Sequence[Sequence[float]]) -> float | None:
    true = [t for w in windows for t in w.true]
    if not true:
        return None
    mean = sum(true) / len(true)
    spread = sum((t - mean) ** 2 for t in true)
    error = sum((t - p) ** 2 for w, row in zip(windows, predicted, strict=True) for t, p in zip(w.true, row, strict=True))
    return 1 - error / spread if spread else None


def absolute_deviation(windows: Sequence[Simulated]) -> float | None:
    """Mean of |t - p| over tokens, on the scale from 0 to 10."""
    gaps = [abs(t - p) for w in windows for t, p in zip(w.true, w.simulated, strict=True)]
    return sum(gaps) / len(gaps) if gaps else None
