"""Plots of scores: how they spread, what they depend on, how scorers agree. Each takes any range of values, also below 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.lazy import np
from tasks.reporting.svg import GRID, INK, MAIN, OTHER, SOFT, blank, svg
from tasks.reporting.sweep_plots import colour

_MARKERS = "os^Dv"
_BINS = 40
_OFFSET, _SPREAD = 0.12, 0.6
"""Distance, in ticks, of scorers that stand side by side, and of the first from the last at most."""

N_POINTS = 2000
"""Points in a scatter plot at most, taken evenly of all: each is an element of the page."""

Curve = tuple[str, Sequence[Mapping[str, Any]]]
"""A name, and rows of ``tasks.analysis.answers.curve``."""


def limits(bounds: Sequence[float] | None, *values: Sequence[float]) -> tuple[float, float]:
    """Least and largest value of an axis: of the metric where it has them, else of the data."""
    if bounds is not None:
        return bounds[0], bounds[1]
    found = [v for some in values for v in some] or [0.0, 1.0]
    low, high = min(found), max(found)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def distribution(
    values: Sequence[float], control: Sequence[float], metric: str, chance: float, bounds: Sequence[float] | None, name: str
) -> str:
    """Scores of explanations, and of another latent's in their place."""
    figure, axes = blank()
    bins = np.linspace(*limits(bounds, values, control, [chance]), _BINS + 1)
    if len(control):
        axes.hist(control, bins=bins, color=SOFT, alpha=0.55, label="another latent's explanation")
    axes.hist(values, bins=bins, color=MAIN, alpha=0.8, label="its own explanation")
    axes.axvline(chance, color=INK, linewidth=0.8, linestyle=":")
    return svg(figure, axes, metric, "latents", name)


def by_density(points: Sequence[tuple[float, float]], metric: str, chance: float, name: str) -> str:
    """Whether frequent latents are easier to explain: density and score."""
    figure, axes = blank()
    found = thinned([p for p in points if p[0] > 0])
    axes.scatter([p[0] for p in found], [p[1] for p in found], s=7, color=MAIN, alpha=0.5, linewidths=0)
    axes.set_xscale("log")
    axes.axhline(chance, color=INK, linewidth=0.8, linestyle=":")
    return svg(figure, axes, "density", metric, name)


def rates(curves: Sequence[Curve], by: str, y: str, name: str, value: str = "share", control: Curve | None = None) -> str:
    """A share (or another mean) per quantile or group of windows, with intervals; scorers side by side."""
    names = list(dict.fromkeys(row[by] for _, rows in curves for row in rows if row[value] is not None))
    names.sort() if by == "quantile" else names.sort(key=_group_order)
    at = {group: i for i, group in enumerate(names)}
    figure, axes = blank()
    stand_ins = {f"#06{i:04x}": colour(i, len(curves)) for i in range(len(curves))}
    if control is not None and (rows := [row for row in control[1] if row[value] is not None and row[by] in at]):
        axes.plot([at[row[by]] for row in rows], [row[value] for row in rows], color=SOFT, linewidth=1, linestyle=":",
                  marker="_", label=control[0])  # fmt: skip
    for i, (title, rows) in enumerate(curves):
        rows = [row for row in rows if row[value] is not None]
        step = min(_OFFSET, _SPREAD / max(1, len(curves) - 1))
        shift = step * (i - (len(curves) - 1) / 2)
        x, heights = [at[row[by]] + shift for row in rows], [row[value] for row in rows]
        marker, ink = _MARKERS[i % len(_MARKERS)], list(stand_ins)[i]
        line = {"linewidth": 1.2} if by == "quantile" else {"linestyle": ""}
        if value == "share":
            ends = [[row["share"] if row[end] is None else row[end] for row in rows] for end in ("low", "high")]
            spread = [[abs(end - height) for end, height in zip(side, heights, strict=True)] for side in ends]
            axes.errorbar(x, heights, spread, color=ink, marker=marker, markersize=4, elinewidth=0.9, label=_plain(title), **line)
        else:
            axes.plot(x, heights, color=ink, marker=marker, markersize=4, label=_plain(title), **line)
    axes.set_xticks(range(len(names)), [str(n + 1) if by == "quantile" else str(n).replace("_", " ") for n in names])
    if by == "quantile" and len(names) > 1:
        axes.set_xticks([0, len(names) - 1], ["strongest", "weakest"])
    elif len(names) > 3:
        axes.tick_params(axis="x", rotation=30)
    axes.set_xlim(-0.5, len(names) - 0.5)
    if value == "share":
        axes.set_ylim(-0.03, 1.03)
    x_title = "activating windows, by tenth of their strength" if by == "quantile" else "non-activating windows, by what was drawn"
    if by == "quantile" and len(names) != 10:
        x_title = "activating windows, by strength"
    return svg(figure, axes, x_title, y, name, stand_ins)


def _group_order(group: str) -> tuple[bool, str]:
    return group != "random", group  # random ones first: the easiest


def scatter(
    pairs: Sequence[tuple[float, float]], x: str, y: str, chances: tuple[float, float], name: str
) -> str:
    """Two scorers' values of the same latents."""
    figure, axes = blank()
    pairs = thinned(pairs)
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.scatter([p[0] for p in pairs], [p[1] for p in pairs], s=8, color=MAIN, alpha=0.45, linewidths=0)
    axes.axvline(chances[0], color=INK, linewidth=0.8, linestyle=":")
    axes.axhline(chances[1], color=INK, linewidth=0.8, linestyle=":")
    return svg(figure, axes, _plain(x, 40), _plain(y, 30), name)


def thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """As many points as a page bears, evenly of all."""
    n = len(points)
    return points if n <= N_POINTS else [points[i * n // N_POINTS] for i in range(N_POINTS)]


def differences(score: Mapping[str, Any], name: str) -> str:
    """The mean difference of two sides, over all latents and by how often they fire."""
    figure, axes = blank(4.6, 1.9)
    rows = [("all", score["difference"]), *((third["name"], third["difference"]) for third in score["thirds"])]
    for i, (_, estimate) in enumerate(reversed(rows)):
        if estimate["value"] is None:
            continue
        ink = MAIN if estimate["value"] >= 0 else OTHER
        if estimate["low"] is not None:
            axes.plot([estimate["low"], estimate["high"]], [i, i], color=ink, linewidth=1.6, alpha=0.6)
        axes.plot([estimate["value"]], [i], color=ink, marker="o", markersize=5)
    axes.set_yticks(range(len(rows)), [row[0] for row in reversed(rows)])
    axes.axvline(0, color=INK, linewidth=0.8, linestyle=":")
    axes.grid(axis="y", visible=False)
    return svg(figure, axes, "first less second", "", name)


def _plain(text: str, most: int = 34) -> str:
    """Text that matplotlib does not read as mathematics, short enough for a legend."""
    return (text if len(text) <= most else text[: most - 1] + "…").replace("$", r"\$")
