"""Tables and page of the evaluated SAEs of a store, as ``flows.evaluated`` finds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.reporting.fronts import METRICS, legend
from tasks.reporting.pages import rendered
from tasks.reporting.sweep import table_lines
from tasks.reporting.sweep_grid import in_order
from tasks.reporting.sweep_table import Column, Row, columns, fronts

Found = Mapping[str, Any]


def listed(found: Found) -> list[Column]:
    """The columns of the table."""
    return [
        Column("train", "SAE", lambda row: row["train"]),
        *columns(found["rows"]),
        Column("pareto", "Pareto", fronts, about="the fronts of its hookpoint, of L0 and FVU or CE loss recovered, that it is on"),
    ]


def facts(found: Found) -> list[str]:
    """What there is to know beside the table, a sentence each."""
    said = []
    if found["apart"]:
        said.append(f"not all measured on the same rows in the same way: {', '.join(found['apart'])}")
    if left := found["not_evaluated"]:
        some = ", ".join(left[:4]) + (f" and {len(left) - 4:,} more" if len(left) > 4 else "")
        said.append(f"not evaluated: {some}")
    return said


def page(found: Found) -> str:
    """The page: a table, and for each hookpoint of each model what its SAEs lose at which L0."""
    rows = found["rows"]
    kinds = sorted({row["kind"] for row in rows})
    shown = listed(found)
    return rendered(
        "sweep.html.j2",
        "sweep.js",
        ("style.css", "sweep.css"),
        title=_counted(len(rows), "evaluated SAE"),
        facts=[f"{', '.join(kinds)}, at {_counted(len(_places(rows)), 'hookpoint')}", *facts(found)],
        figures=[],
        columns=shown,
        lines=table_lines(rows, shown),
        maps=[],
        curves=[],
        scatters=_scatters(rows, kinds),
        legend=legend(kinds),
    )


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _places(rows: Sequence[Row]) -> list[tuple[str, str]]:
    models = sorted({row["model"] for row in rows})
    return [
        (model, hookpoint)
        for model in models
        for hookpoint in in_order([row["hookpoint"] for row in rows if row["model"] == model])
    ]


def _scatters(rows: Sequence[Row], kinds: Sequence[str]) -> list[dict[str, Any]]:
    found = []
    for i, (model, hookpoint) in enumerate(_places(rows)):
        here = [row for row in rows if (row["model"], row["hookpoint"]) == (model, hookpoint)]
        for metric in METRICS:
            if known := [row for row in here if row["l0"] is not None and row[metric.name] is not None]:
                groups = [kinds.index(row["kind"]) for row in known]
                front = metric.front(range(len(known)), known)
                found.append(metric.plot(known, groups, len(kinds), [front], name=f"-{i}", more=f"{model} at {hookpoint}: "))
    return found
