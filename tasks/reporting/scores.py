"""The report's part on explanations and scores: tables and plots of what stage ``analyse`` found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.analysis.contrast import matrix
from tasks.reporting import score_plots

Analysis = Mapping[str, Any]

N_SCATTERS = 6
"""Pairs of scorers that are drawn; the matrix has all."""


def section(analysis: Analysis, latents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All that the template ``scores.html.j2`` shows. ``latents`` are rows of ``latents.parquet``."""
    scorers = analysis["scorers"]
    return {
        "aggregates": [_aggregates(scorer, analysis["n_latents"]) for scorer in scorers],
        "good": f"{analysis['good']:g}",
        "plots": list(_plots(scorers, latents)),
        "matrix": _matrix(analysis) if len(scorers) > 1 else None,
        "accounts": accounts(analysis),
    }


def _aggregates(scorer: Analysis, n_latents: int) -> dict[str, Any]:
    middle = scorer["quartiles"]
    good, difference = scorer["good"], scorer["difference"]
    judge = f", judged by {scorer['judge']}" if scorer["judge"] else ""
    usd = "?" if scorer["usd"] is None else f"${scorer['usd']:,.2f}" if scorer["usd"] else ""
    return {
        "name": scorer["name"],
        "about": f"{scorer['metric']}, chance {scorer['chance']:.3g}{judge}",
        "cells": [
            *(_cell(scorer[name]) for name in ("macro", "micro", "weighted")),
            ("", "") if middle is None else (f"{scorer['median']:.3f}", f"{middle[0]:.2f} to {middle[1]:.2f}"),
            ("", "") if good["value"] is None else (f"{good['value']:.0%}", f"{good['low']:.0%} to {good['high']:.0%}"),
            _cell(scorer["control"]["macro"]),
            _cell(difference, "+"),
        ],
        "wins": f"better on {difference['better']:,}, worse on {difference['worse']:,}, equal on {difference['equal']:,} latents",
        "scored": f"{scorer['n_scored']:,} of {n_latents:,}",
        "usd": usd,
    }


def _cell(estimate: Mapping[str, Any], sign: str = "") -> tuple[str, str]:
    """A number, and its interval."""
    if estimate["value"] is None:
        return "\u2013", ""
    low, high = estimate["low"], estimate["high"]
    return f"{estimate['value']:{sign}.3f}", "" if low is None else f"{low:{sign}.2f} to {high:{sign}.2f}"


def _plots(scorers: Sequence[Analysis], latents: Sequence[Mapping[str, Any]]) -> Any:
    from markupsafe import Markup

    def plot(svg: str, caption: str) -> dict[str, Any]:
        return {"svg": Markup(svg), "caption": caption}  # made by us; names of scorers are escaped by matplotlib

    for i, s in enumerate(scorers):
        values, control = ([row[c] for row in latents if row[c] is not None] for c in (s["column"], f"{s['column']}_control"))
        if not values:
            continue  # the account below says why
        svg = score_plots.distribution(values, control, s["metric"], s["chance"], s["range"], f"scores-{i}")
        beside = "; grey is what the same windows give with another latent's explanation" if control else ""
        yield plot(svg, f"{s['name']}: {s['metric']} of {len(values):,} latents{beside}; dotted is chance")
    judged = [s for s in scorers if any(row["share"] is not None for row in s["own"]["by_quantile"])]
    if judged:
        own = [(s["name"], s["own"]["by_quantile"]) for s in judged]
        blind = ("another latent's explanation", judged[0]["blind"]["by_quantile"]) if len(judged) == 1 else None
        svg = score_plots.rates(own, "quantile", "told as activating", "true-positives", control=blind)
        yield plot(svg, "True-positive rate: activating windows that the judge told, by the strength of their activation")
    sorts = [s for s in scorers if any(row["share"] is not None for row in s["own"]["by_group"])]
    if sorts:
        own = [(s["name"], s["own"]["by_group"]) for s in sorts]
        blind = ("another latent's explanation", sorts[0]["blind"]["by_group"]) if len(sorts) == 1 else None
        svg = score_plots.rates(own, "group", "told as silent", "true-negatives", control=blind)
        yield plot(svg, "True-negative rate: non-activating windows that the judge told, by how they were drawn")
    for i, s in enumerate(scorers):
        if s not in judged and any(row["probability"] is not None for row in s["own"]["by_quantile"]):
            own = [(s["name"], s["own"]["by_quantile"])]
            svg = score_plots.rates(own, "quantile", "mean number given", f"rated-{i}", value="probability")
            yield plot(svg, f"{s['name']}: mean of what it gave to activating windows, by the strength of their activation")
    for s in [s for s in scorers if s["n_scored"]][:1]:
        points = [(row["density"], row[s["column"]]) for row in latents if row[s["column"]] is not None]
        svg = score_plots.by_density(points, s["metric"], s["chance"], "score-by-density")
        yield plot(svg, f"{s['name']} against density{_drawn(len(points))}; dotted is chance")
    pairs = [(a, b) for i, a in enumerate(scorers) for b in scorers[i + 1 :]]
    for i, (a, b) in enumerate(pairs[:N_SCATTERS]):
        both = [(row[a["column"]], row[b["column"]]) for row in latents]
        both = [(x, y) for x, y in both if x is not None and y is not None]
        if both:
            svg = score_plots.scatter(both, a["name"], b["name"], (a["chance"], b["chance"]), f"agreement-{i}")
            yield plot(svg, f"{a['name']} against {b['name']}, {len(both):,} latents that both scored{_drawn(len(both))}")


def _drawn(n: int) -> str:
    return f" ({score_plots.N_POINTS:,} of them drawn)" if n > score_plots.N_POINTS else ""


def _matrix(analysis: Analysis) -> dict[str, Any]:
    """Spearman's correlation of every two scorers, Pearson's beside it, as a heat map."""
    names = [s["name"] for s in analysis["scorers"]]
    spearman, pearson = (matrix(analysis["agreement"], names, key) for key in ("spearman", "pearson"))
    rows = []
    for i, name in enumerate(names):
        cells = []
        for j, value in enumerate(spearman[i]):
            text = "" if i == j else "\u2013" if value is None else f"{value:.2f}"
            other = pearson[i][j]
            label = "" if i == j or other is None else f"Pearson {other:.2f}"
            level = 0 if i == j or value is None else round(0.6 * abs(value), 3)
            cells.append({"text": text, "label": label, "level": level, "negative": value is not None and value < 0})
        rows.append((name, cells))
    return {"names": names, "rows": rows}


def accounts(analysis: Analysis) -> dict[str, Any]:
    """What became of every latent, in explaining and in each scoring: shares of a bar, and the numbers; and
    which answers are missing where latents were scored."""
    whole = [("explained", analysis["explanations"]), *((s["name"], s["statuses"]) for s in analysis["scorers"])]
    often: dict[str, int] = {}
    for _, statuses in whole:
        for status, n in statuses.items():
            often[status] = often.get(status, 0) + n
    order = sorted(often, key=lambda status: (status != "ok", status in ("dead", "not_asked"), -often[status], status))
    n = max(1, analysis["n_latents"])
    rows = [
        {"name": name, "counts": [statuses.get(status, 0) for status in order],
         "shares": [round(100 * statuses.get(status, 0) / n, 3) for status in order]}
        for name, statuses in whole
    ]  # fmt: skip
    return {"statuses": [{"name": s.replace("_", " "), "sort": _sort(s)} for s in order], "rows": rows, "n": analysis["n_latents"],
            "missing": [f"{s['name']}: {told}" for s in analysis["scorers"] if (told := _missing(s["own"]["answers"]))]}  # fmt: skip


def _missing(answers: Mapping[str, int]) -> str:
    """How many answers are missing, and why; nothing where all are there."""
    whys = ", ".join(f"{n:,} {status}" for status, n in answers.items() if status != "ok")
    n = sum(answers.values())
    return whys and f"{n - answers.get('ok', 0):,} of {n:,} answers are missing ({whys})"


def _sort(status: str) -> str:
    """How a status is coloured: good, idle (nothing to do), or trouble."""
    return "good" if status == "ok" else "idle" if status in ("dead", "not_asked", "too_few_examples", "no_explanation") else "trouble"


def scales(analysis: Analysis, latents: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each scorer what a bar of its values needs: name, metric, chance, and the ends of the bar."""
    found = []
    for s in analysis["scorers"]:
        values = [row[s["column"]] for row in latents if row[s["column"]] is not None]
        low, high = score_plots.limits(s["range"], values, [s["chance"]])
        found.append({"name": s["name"], "metric": s["metric"], "chance": s["chance"], "low": low, "high": high})
    return found


def headline(analysis: Analysis) -> dict[str, str]:
    """The figure of the first scorer, for the head of the page."""
    if not analysis["scorers"]:
        return {"name": "mean score", "value": "none", "more": "no scorer", "about": ""}
    s = analysis["scorers"][0]
    control = s["control"]["macro"]["value"]
    value = "none" if s["macro"]["value"] is None else f"{s['macro']['value']:.3f}"
    more = "no control" if control is None else f"control {control:.3f}"
    return {"name": f"mean {s['name']}", "value": value, "more": more, "about": f"{s['metric']} on unseen documents"}


