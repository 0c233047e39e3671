"""The page of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.reporting import sweep_plots
from tasks.reporting.pages import rendered
from tasks.reporting.sweep_grid import Axis, axes, grid, heat_maps, in_order
from tasks.reporting.sweep_table import Column, Row, columns, fronts, label, settings, visible


def page(rows: Sequence[Row]) -> str:
    """The whole page, of rows as ``tasks.compare.rows`` makes them."""
    swept, shown = axes(rows), columns(rows)
    mapped = [c for c in shown if c.form and c.name != "n_latents" and not c.detail]
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
        lines=_lines(rows, listed),
        maps=heat_maps(rows, swept, mapped),
        curves=_curves(rows, swept, mapped),
        scatters=_scatters(rows, hookpoints),
        legend=_legend(hookpoints),
    )


def facts(rows: Sequence[Row], swept: Sequence[Axis], shown: Sequence[Column]) -> list[str]:
    """What was swept and what came out best, a sentence each."""
    jobs = "1 job" if len(rows) == 1 else f"{len(rows):,} jobs"
    said = [f"{jobs}; swept: {'; '.join(map(_values, swept))}." if swept else f"{jobs}; nothing was swept."]
    for column in shown:
        if column.name in ("fvu", "ce_loss_recovered") or (column.name.startswith("score_") and not column.detail):
            known = [row for row in rows if column.get(row) is not None]
            best = (min if column.better == "low" else max)(known, key=column.get)
            l0 = "" if best["l0"] is None else f", at L0 {best['l0']:.1f}"
            said.append(f"Best {column.title}: {column.text(best)}, of {label(best, settings(rows))}{l0}.")
    return said


def _values(axis: Axis) -> str:
    if len(axis.values) <= 8:
        return f"{axis.title} over {', '.join(axis.values)}"
    if axis.numeric:
        return f"{axis.title} over {len(axis.values)} values from {axis.values[0]} to {axis.values[-1]}"
    return f"{axis.title} over {', '.join(axis.values[:6])} and {len(axis.values) - 6} more"


def _figures(rows: Sequence[Row], shown: Sequence[Column]) -> list[dict[str, str]]:
    """The row of headline figures."""
    n_front = sum(row["pareto"] for row in rows)
    found = [{"name": "SAEs", "value": f"{len(rows):,}", "more": f"{n_front:,} on the front of L0 and FVU", "about": ""}]
    for column in shown:
        if column.better:
            known = [row for row in rows if column.get(row) is not None]
            best = (min if column.better == "low" else max)(known, key=column.get)
            what = "lowest" if column.better == "low" else "highest"
            found.append(
                {"name": f"{what} {column.title}", "value": column.text(best), "more": best["job"], "about": column.about}
            )
    return found


def _lines(rows: Sequence[Row], shown: Sequence[Column]) -> list[dict[str, Any]]:
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
    """L0 against what it buys."""
    from markupsafe import Markup

    found = []
    for name, title, mark in (
        ("fvu", "FVU", "pareto"),
        ("ce_loss_recovered", "CE loss recovered", "pareto_ce"),
    ):
        known = [row for row in rows if row["l0"] is not None and row[name] is not None]
        if not known:
            continue
        optimal = sorted((i for i, row in enumerate(known) if row[mark]), key=lambda i: (known[i]["l0"], i))
        svg = sweep_plots.pareto(
            [(row["l0"], row[name]) for row in known],
            [f"{row['job']}: L0 {row['l0']:.1f}, {title} {row[name]:.4f}" for row in known],
            [hookpoints.index(row["hookpoint"]) for row in known],
            len(hookpoints),
            optimal,
            title,
            f"{title} against L0".replace(" ", "-"),
        )
        better = "lower" if name == "fvu" else "higher"
        found.append({"svg": Markup(svg), "caption": f"{title} ({better} is better) against L0; dashed is the Pareto front"})
    return found


def _legend(hookpoints: Sequence[str]) -> list[dict[str, Any]]:
    from markupsafe import Markup

    n = len(hookpoints)
    return [{"mark": Markup(sweep_plots.swatch(i, n)), "name": visible(name)} for i, name in enumerate(hookpoints)]
