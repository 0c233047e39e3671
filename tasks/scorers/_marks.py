"""Marked tokens: right ones where a latent is active, and wrong ones that look the same from afar.

Wrong marks repeat the marks of an activating window, same number and same places, so that neither count nor place
gives the answer away; ``cue_only`` measures whether they do.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any, NamedTuple

from tasks.explainers.base import Window, printable
from tasks.scorers._judging import before

Marks = frozenset[int]

_NEAR = 8
"""Tokens by which wrong marks on an activating window are moved at most, where that can be. What stands before right
marks is at most halved, since it may be what makes them right."""


class Marked(NamedTuple):
    """A window with marks, and whether they are right."""

    window: Window
    marks: Marks
    right: bool


def active(window: Window, threshold: float) -> Marks:
    """The tokens whose activation is at least this share of the window's largest."""
    least = threshold * max(window.values)
    return frozenset(i for i, value in enumerate(window.values) if value > 0 and value >= least)


def with_marks(window: Window, marks: Marks) -> list[Any]:
    """A window as plain strings and marked ``[token]`` pieces, from left to right."""
    parts: list[Any] = [text] if (text := before(window)) else []
    for i, token in enumerate(window.tokens):
        if i in marks:
            parts.append([printable(token)])
        elif parts and isinstance(parts[-1], str):
            parts[-1] += printable(token)
        else:
            parts.append(printable(token))
    return parts


def on_silent(windows: Sequence[Window], threshold: float, draw: Random) -> list[Marked]:
    """Windows of both classes with marks, in order: right on activating ones, and repeated on the others.

    Every activating window's marks are repeated as often as any other's, give or take one; on windows of the same
    length where there are such.
    """
    right = {i: active(w, threshold) for i, w in enumerate(windows) if w.activating}
    donors = list(right)
    draw.shuffle(donors)
    uses = Counter(dict.fromkeys(donors, 0))
    marks = dict(right)
    silent = [i for i, w in enumerate(windows) if not w.activating]
    for i in sorted(silent, key=lambda i: len(windows[i].tokens)):  # short ones first: they have the least choice
        n = len(windows[i].tokens)
        donor = min(donors, key=lambda d: (uses[d], max(right[d]) >= n, len(windows[d].tokens) != n))
        uses[donor] += 1
        places = right[donor]
        if max(places) >= n:
            places = frozenset(draw.sample(range(n), min(len(places), n)))
        marks[i] = places
    return [Marked(w, marks[i], w.activating) for i, w in enumerate(windows)]


def on_active(right: Sequence[Window], wrong: Sequence[Window], threshold: float, draw: Random) -> list[Marked]:
    """Activating windows in pairs: one rightly marked, one marked at as many places where its latent is silent.

    Places are matched by cutting: the marks of the first are moved by some tokens on the second until they lie on
    silence, and both are cut so that the marks stand at equal distances from both ends. Pairs where no move does are
    left out. Shape: two per pair, the right one first.
    """
    found = []
    for one, other in zip(right, wrong, strict=True):
        marks = active(one, threshold)
        n = len(other.tokens)
        moves = [
            move
            for move in range(-max(marks), n - min(marks))
            if move and all(0 <= m + move < n and other.values[m + move] <= 0 for m in marks)
        ]
        if not moves:
            continue
        near = [move for move in moves if abs(move) <= _NEAR and -move <= min(marks) // 2]
        move = draw.choice(near) if near else min(moves, key=lambda m: (abs(m), m))
        begin, end = max(0, -move), min(len(one.tokens), n - move)
        shown = frozenset(m - begin for m in marks)
        found.append(Marked(_cut(one, begin, end), shown, True))
        found.append(Marked(_cut(other, begin + move, end + move), shown, False))
    return found


def _cut(window: Window, begin: int, end: int) -> Window:
    return dataclasses.replace(
        window,
        tokens=window.tokens[begin:end],
        values=window.values[begin:end],
        peak=min(max(window.peak - begin, 0), end - begin - 1),
        starts_context=window.starts_context and begin == 0,
    )


def cue_only(marked: Sequence[Marked]) -> float | None:
    """The best balanced accuracy, on these very windows, of a judge who sees only how many marks there are (1, 2, more)
    and in which quarter of the window they stand on average; 0.5 when marks give nothing away. None without both."""
    cells: dict[bool, Counter[tuple[int, int]]] = {True: Counter(), False: Counter()}
    for window, marks, right in marked:
        if marks:
            middle = sum(marks) / len(marks) / max(1, len(window.tokens))
            cells[right][min(len(marks), 3), min(3, int(4 * middle))] += 1
    n = {right: counts.total() for right, counts in cells.items()}
    if not all(n.values()):
        return None
    # Each cell is called right or wrong, whichever is commoner there; half the rates' distance above one half.
    return 0.5 + sum(abs(cells[True][c] / n[True] - cells[False][c] / n[False]) for c in {*cells[True], *cells[False]}) / 4
