"""The page of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.reporting import sweep_plots
from tasks.reporting.fronts import METRICS, legend
from tasks.reporting.pages import rendered
from tasks.reporting.sweep_grid import Axis, axes, grid, heat_maps, in_order
from tasks.reporting.sweep_table import Column, Row, columns, fronts, visible

SAME_L0 = 0.03
"""Spread of L0, as a share of it, within which jobs count as equally sparse: TopK with one k differs by less."""


def page(rows: Sequence[Row]) -> str:
    """The whole page, of rows as ``tasks.compare.rows`` makes them."""
    swept, shown = axes(rows), columns(rows)
    mapped = [c for c in shown if c.form and c.name != "n_latents" and not c.detail and len(set(map(c.text, rows))) > 1]
    listed = [*shown, Column("pareto", "Pareto", fronts, about="the fronts of L0 and FVU, or CE loss recovered, that it is on")]
    if all("train" in row for row in rows):
        listed.append(Column("train", "artifact", lambda row: row["train"], about="its SAE, as saint show names it"))
    hookpoints = in_order([row["hookpoint"] for row in rows])
    return rendered(
        "sweep.html.j2",
        "sweep.js",
        ("style.css", "sweep.css"),
        title="Sweep of 1 SAE" if len(rows) == 1 else f"Sweep of {len(rows):,} SAEs",
        facts=facts(rows, swept, shown),
        figures=_figures(rows, shown),
        columns=listed,
        lines=table_lines(rows, listed),
        maps=heat_maps(rows, swept, mapped),
        curves=_curves(rows, swept, mapped),
        scatters=_scatters(rows, hookpoints),
        legend=legend(hookpoints),
    )


def facts(rows: Sequence[Row], swept: Sequence[Axis], shown: Sequence[Column]) -> list[str]:
    """What was swept and what came out best, a sentence each."""
    jobs = "1 job" if len(rows) == 1 else f"{len(rows):,} jobs"
    said = [f"{jobs}; swept: {'; '.join(map(_values, swept))}." if swept else f"{jobs}; nothing was swept."]
    for column in filter(_headline, shown):
        best = _best(rows, column)
        l0 = "" if best["l0"] is None else f", at L0 {best['l0']:.1f}"
        said.append(f"Best {column.title}: {column.text(best)}, of {best['job']}{l0}.")
    return said


def _headline(column: Column) -> bool:
    return column.better is not None and column.name != "dead_fraction"  # which is 0 in many jobs at once


def _best(rows: Sequence[Row], column: Column) -> Row:
    known = [row for row in rows if column.get(row) is not None]
    return (min if column.better == "low" else max)(known, key=column.get)


def _values(axis: Axis) -> str:
    if len(axis.values) <= 8:
        return f"{axis.title} over {', '.join(axis.values)}"
    if axis.ordered:
        return f"{axis.title} over {len(axis.values)} values from {axis.values[0]} to {axis.values[-1]}"
    return f"{axis.title} over {', '.join(axis.values[:6])} and {len(axis.values) - 6} more"


def _figures(rows: Sequence[Row], shown: Sequence[Column]) -> list[dict[str, str]]:
    """The row of headline figures."""
    n_front = sum(row["pareto"] for row in rows)
    fronts_of = "the front" if len({row["hookpoint"] for row in rows}) == 1 else "their hookpoint's front"
    found = [{"name": "SAEs", "value": f"{len(rows):,}", "more": f"{n_front:,} on {fronts_of} of L0 and FVU", "about": ""}]
    for column in filter(_headline, shown):
        best = _best(rows, column)
        what = "lowest" if column.better == "low" else "highest"
        more = "" if best["l0"] is None else f"at L0 {best['l0']:.1f}"
        found.append({"name": f"{what} {column.title}", "value": column.text(best), "more": more, "about": column.about})
    return found


def table_lines(rows: Sequence[Row], shown: Sequence[Column]) -> list[dict[str, Any]]:
    """The table's rows. ``order`` is what a cell sorts by: a number, or the place of a name among the others."""
    orders = [_order(rows, column) for column in shown]
    best = [column.best(rows) for column in shown]
    found = []
    for i, row in enumerate(rows):
        cells = [
            {"text": column.text(row), "order": order[i], "best": best_text is not None and column.text(row) == best_text}
            for column, order, best_text in zip(shown, orders, best, strict=True)
        ]
        found.append({"cells": cells, "front": row["pareto"] or row["pareto_ce"]})
    return found


def _order(rows: Sequence[Row], column: Column) -> list[float | None]:
    if column.right:
        return [column.get(row) for row in rows]
    texts = [column.text(row) for row in rows]
    names = list(dict.fromkeys(texts))
    if column.name == "hookpoint":
        names = [visible(name) for name in in_order([row["hookpoint"] for row in rows])]
    elif column.name == "pareto":
        names.sort(reverse=True)  # both fronts first, no front last
    place = {name: i for i, name in enumerate(names)}
    return [place[text] for text in texts]


def _curves(rows: Sequence[Row], swept: Sequence[Axis], mapped: Sequence[Column]) -> list[dict[str, Any]]:
    """A curve for each metric, where just one thing was swept."""
    from markupsafe import Markup

    if len(swept) != 1 or not (places := grid(rows, swept)):
        return []
    (axis,) = swept
    found = []
    for i, column in enumerate(mapped):
        values = [column.get(places[(value,)]) for value in axis.values]
        svg = sweep_plots.curve(axis.values, values, axis.title, column.title, f"curve-{i}")
        found.append({"svg": Markup(svg), "caption": f"{column.title}: {column.about}"})  # made by us, texts escaped
    return found


def _scatters(rows: Sequence[Row], hookpoints: Sequence[str]) -> list[dict[str, Any]]:
    """What sparsity buys: L0 against FVU and CE loss recovered, with a front for each hookpoint; n_latents against them, where
    all have one L0."""
    found = []
    for metric in METRICS:
        known = [row for row in rows if row["l0"] is not None and row[metric.name] is not None]
        if not known:
            continue
        sizes = [row["n_latents"] for row in known]
        l0 = [row["l0"] for row in known]
        by_size = None not in sizes and len(set(sizes)) > 1 and max(l0) - min(l0) <= SAME_L0 * max(l0)
        fronts = [one for hookpoint in hookpoints if (one := metric.front([
            i for i, row in enumerate(known) if row["hookpoint"] == hookpoint], known))]  # fmt: skip
        groups = [hookpoints.index(row["hookpoint"]) for row in known]
        found.append(metric.plot(known, groups, len(hookpoints), fronts, by_size))
    return found
