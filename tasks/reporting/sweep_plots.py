"""Plots of a sweep: a curve where one thing was swept, and Pareto fronts with a point for every job."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from tasks.reporting.svg import INK, MAIN, SOFT, blank, svg

# A shape beside each colour: colours alone tell too few hookpoints apart, and some readers none.
_SHAPES = {
    "o": '<circle cx="6" cy="6" r="4.5"/>',
    "s": '<path d="M2 2h8v8h-8z"/>',
    "^": '<path d="M6 1 11 10.5H1z"/>',
    "D": '<path d="M6 .5 11.5 6 6 11.5 .5 6z"/>',
    "v": '<path d="M6 11 11 1.5H1z"/>',
}
_LONG = 14
"""Letters of a tick's label that fit under an axis."""


def colour(place: int, n: int) -> str:
    """CSS colour of the ``place``-th of ``n``: from the page's main colour, round the wheel, to its other one."""
    share = 0 if n < 2 else round(100 * place / (n - 1))
    return f"color-mix(in oklch, var(--main), var(--other) {share}%)"


def swatch(place: int, n: int) -> str:
    """The mark of a group in a legend."""
    shape = list(_SHAPES.values())[place % len(_SHAPES)]
    return f'<svg class="swatch" viewBox="0 0 12 12" aria-hidden="true" style="fill: {colour(place, n)}">{shape}</svg>'


def curve(ticks: Sequence[str], values: Sequence[float | None], x: str, y: str, name: str) -> str:
    """A metric along the one thing that was swept; values stand at even distances, as typed."""
    figure, axes = blank(4.2)
    heights = [math.nan if value is None else value for value in values]  # a gap, where nothing was measured
    axes.plot(range(len(ticks)), heights, color=MAIN, linewidth=1.4, marker="o", markersize=4.5)
    step = -(-len(ticks) // 12)
    axes.set_xticks(range(0, len(ticks), step), [_plain(tick) for tick in ticks[::step]])
    if sum(min(len(tick), _LONG) for tick in ticks[::step]) > 44:
        axes.tick_params(axis="x", rotation=40)
        for text in axes.get_xticklabels():
            text.set_horizontalalignment("right")
    axes.set_xlim(-0.4, len(ticks) - 0.6)
    axes.ticklabel_format(axis="y", useOffset=False)
    return svg(figure, axes, _plain(x, 48), _plain(y, 32), name)


def pareto(
    points: Sequence[tuple[float, float]],
    labels: Sequence[str],
    groups: Sequence[int],
    n_groups: int,
    fronts: Sequence[Sequence[int]],
    titles: tuple[str, str],
    name: str,
    steps: bool = True,
) -> str:
    """A point for every SAE with its label on hover, coloured by group; the fronts framed, and each joined by steps.

    ``fronts`` hold indices of points by rising x. A front whose points are all of one group has that group's colour, where
    there are several.
    """
    figure, axes = blank(4.2, 2.9)
    stand_ins = {f"#06{group:04x}": colour(group, n_groups) for group in range(n_groups)}
    for front in fronts if steps else ():
        x, y = zip(*(points[i] for i in front), strict=True)
        of = {groups[i] for i in front}
        ink = list(stand_ins)[of.pop()] if len(fronts) > 1 and len(of) == 1 else SOFT
        axes.step(x, y, where="post", color=ink, linewidth=1, linestyle=(0, (4, 2)))
    framed = {i for front in fronts for i in front}
    shapes = list(_SHAPES)
    for i, (point, group) in enumerate(zip(points, groups, strict=True)):
        on = i in framed
        axes.plot(
            *([value] for value in point), marker=shapes[group % len(shapes)], color=list(stand_ins)[group], linestyle="",
            markersize=7.5 if on else 5.5, markeredgecolor=INK if on else list(stand_ins)[group],
            markeredgewidth=1 if on else 0, alpha=None if on else 0.75, gid=f"job-{i}", zorder=4 if on else 3,
        )  # fmt: skip
    _range(axes, "x", [point[0] for point in points], ratio=4)
    _range(axes, "y", [point[1] for point in points], ratio=20)
    text = svg(figure, axes, *titles, name, stand_ins)
    for i, label in enumerate(labels):
        opening = f'<g id="{name}-job-{i}">'
        text = text.replace(opening, f"{opening}<title>{escape(label)}</title>", 1)
    return text


def _range(axes: Any, axis: str, values: Sequence[float], ratio: float) -> None:
    """A log scale for what spans orders of magnitude, and some room around what hardly varies."""
    low, high = min(values), max(values)
    if low > 0 and high / low > ratio:
        getattr(axes, f"set_{axis}scale")("log")
        lines = getattr(axes, f"{axis}axis")
        lines.set_major_formatter(lambda v, _: f"{v:g}")
        lines.set_minor_formatter(lambda v, _: f"{v:g}" if f"{v:e}"[0] in "25" else "")
        axes.tick_params(axis=axis, which="minor", colors=SOFT, labelsize=7)
        return
    if high - low < 0.02 * abs(high):
        getattr(axes, f"set_{axis}lim")(low - 0.05 * abs(high), high + 0.05 * abs(high))
    axes.ticklabel_format(axis=axis, useOffset=False)


def _plain(text: str, most: int = _LONG) -> str:
    """Text that matplotlib does not read as mathematics, short enough for a tick."""
    return (text if len(text) <= most else text[: most - 1] + "…").replace("$", r"\$")
