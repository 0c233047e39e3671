"""How far two go together: scorers, judges, explainers. All over what both of them have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tasks.analysis.estimates import Z
from tasks.auroc import ranks
from tasks.lazy import np


def correlations(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Pearson's and Spearman's coefficients with the intervals of Fisher's z; None where one side never varies."""
    a, b = np.asarray(ours, float), np.asarray(theirs, float)
    return {"n": len(a), "pearson": _with_interval(pearson(a, b), len(a)), "spearman": _with_interval(spearman(a, b), len(a))}


def pearson(a: Any, b: Any) -> float | None:
    """Pearson's correlation; None of fewer than two, or where one side never varies."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    if len(a) < 2:
        return None
    a, b = a - a.mean(), b - b.mean()
    size = math.sqrt(float(a @ a) * float(b @ b))
    # Values that are all equal leave a rest of rounding, not zero.
    return None if size <= 1e-15 * len(a) else max(-1.0, min(1.0, float(a @ b) / size))


def spearman(a: Any, b: Any) -> float | None:
    """Pearson's correlation of the ranks."""
    return pearson(ranks(a), ranks(b))


def _with_interval(r: float | None, n: int) -> dict[str, float | None]:
    if r is None or n < 4 or abs(r) >= 1:
        return {"value": r, "low": None, "high": None}
    z, half = math.atanh(r), Z / math.sqrt(n - 3)
    return {"value": r, "low": math.tanh(z - half), "high": math.tanh(z + half)}


def kappa(ours: Any, theirs: Any) -> dict[str, Any]:
    """Cohen's kappa of two judges' yes and no to the same windows: agreement beyond what their shares of yes give.

    The interval is Cohen's (1960) large-sample one over windows; ``value`` is None where both always say the same one word.
    """
    a, b = np.asarray(ours, bool), np.asarray(theirs, bool)
    n = len(a)
    if n == 0:
        return {"n": 0, "agreement": None, "value": None, "low": None, "high": None, "yes": [None, None]}
    agreement, yes = float((a == b).mean()), [float(a.mean()), float(b.mean())]
    expected = yes[0] * yes[1] + (1 - yes[0]) * (1 - yes[1])
    found: dict[str, Any] = {"n": n, "agreement": agreement, "value": None, "low": None, "high": None, "yes": yes}
    if expected < 1:
        value = (agreement - expected) / (1 - expected)
        half = Z * math.sqrt(agreement * (1 - agreement) / n) / (1 - expected)
        found |= {"value": value, "low": max(-1.0, value - half), "high": min(1.0, value + half)}
    return found
