"""What was swept, and the heat maps of a sweep that is a grid."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from tasks.reporting.sweep_table import Column, Row, numeric, settings, short, spelled, visible

MOST_MAPS = 12
"""Small multiples of one metric that a person still compares; more settings than that are a table's work."""


class Axis(NamedTuple):
    """One thing that was swept."""

    name: str
    """``hookpoint``, or a setting's dotted name."""

    title: str
    values: list[str]
    """As shown; numbers by size, hookpoints by layer, names in the order of the jobs."""

    ordered: bool
    """Numbers and hookpoints: a first and a last value say what lies between."""


def in_order(hookpoints: Sequence[str]) -> list[str]:
    """Distinct hookpoints by the layer that they begin with, a block's sites after its residual stream; others last, by name."""

    def place(hookpoint: str) -> tuple[int, int, str]:
        if re.match(r"embed\b", hookpoint):
            return 0, -1, hookpoint
        found = re.fullmatch(r"layers\.([0-9]{1,9})(?:\b(.*))?", hookpoint, re.S)
        return (0, int(found[1]), found[2] or "") if found else (1, 0, hookpoint)

    return sorted(set(hookpoints), key=place)


def axes(rows: Sequence[Row]) -> list[Axis]:
    """What takes more than one value: hookpoints first, then numeric settings, then the others."""
    hookpoints = [visible(hookpoint) for hookpoint in in_order([row["hookpoint"] for row in rows])]
    found = [Axis("hookpoint", "hookpoint", hookpoints, True)]
    for name, title in short(settings(rows)).items():
        values = [row["settings"].get(name) for row in rows]
        numbers = numeric(values)
        found.append(Axis(name, title, list(dict.fromkeys(map(spelled, sorted(values) if numbers else values))), numbers))
    found.sort(key=lambda axis: (axis.name != "hookpoint", not axis.ordered))
    return [axis for axis in found if len(axis.values) > 1]


def at(row: Row, axis: Axis) -> str:
    """A job's value on an axis, as shown."""
    return visible(row["hookpoint"]) if axis.name == "hookpoint" else spelled(row["settings"].get(axis.name))


def grid(rows: Sequence[Row], swept: Sequence[Axis]) -> dict[tuple[str, ...], Row] | None:
    """Coordinates to job, if the sweep is a grid: no two jobs in one place, and more than half of the places taken.

    So a grid of which a few jobs failed is still one, and a random search is none.
    """
    found = {tuple(at(row, axis) for axis in swept): row for row in rows}
    places = 1
    for axis in swept:
        places *= len(axis.values)
    return found if len(found) == len(rows) and 2 * len(rows) > places else None


def heat_maps(rows: Sequence[Row], swept: Sequence[Axis], columns: Sequence[Column]) -> list[dict[str, Any]]:
    """For each metric, a map for each combination of the settings that are not its two axes; none without a grid."""
    places = grid(rows, swept) if len(swept) > 1 else None
    if places is None:
        return []
    down, across, *rest = swept
    combinations = list(itertools.product(*(axis.values for axis in rest)))
    if len(combinations) > MOST_MAPS:
        return []
    labels = [", ".join(f"{axis.title} {v}" for axis, v in zip(rest, more, strict=True)) for more in combinations]
    maps = []
    for column in columns:
        cells = dict(zip(places, _cells(list(places.values()), column), strict=True))
        tables = [
            {"label": label, "rows": [(d, [cells.get((d, a, *more), _EMPTY) for a in across.values]) for d in down.values]}
            for label, more in zip(labels, combinations, strict=True)
        ]
        names = {"down": down.title, "across": across.title, "ticks": across.values}
        maps.append({"title": column.title, "about": column.about, "tables": tables, **names})
    return maps


_EMPTY = {"text": "", "level": 0, "best": False, "label": "no job"}


def _cells(rows: Sequence[Row], column: Column) -> list[dict[str, Any]]:
    """The cell of each job. ``level`` is how deep its colour is: text stays readable on the deepest, light or dark."""
    known = [value for row in rows if (value := column.get(row)) is not None]
    low, high, best = min(known), max(known), column.best(rows)
    cells = []
    for row in rows:
        value = column.get(row)
        if value is None:
            cells.append({**_EMPTY, "label": f"{row['job']}: not measured"})
            continue
        share = 0.5 if high == low else (value - low) / (high - low)
        level = round(0.04 + 0.46 * (1 - share if column.better == "low" else share), 3)
        text = column.text(row)
        cells.append({"text": text, "level": level, "best": text == best, "label": row["job"]})
    return cells
