"""Plots of a dictionary: cosines, a map of some latents, densities, and what two dictionaries have of each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.lazy import np
from tasks.reporting.score_plots import thinned
from tasks.reporting.svg import INK, MAIN, OTHER, SOFT, blank, svg

_BINS = 50
_BLUE, _RED = (0.22, 0.55, 0.68), (0.80, 0.45, 0.27)
"""Of the map, which is a picture and cannot take its colours from the page: they do on light and on dark."""


def cosines(edges: Sequence[float], counts: Mapping[str, Sequence[int]]) -> str:
    """How all pairs are spread, on a log scale: what matters is the few that are far out."""
    figure, axes = blank()
    for (name, found), colour in zip(counts.items(), (MAIN, OTHER), strict=False):
        share = np.asarray(found, float) / max(1, sum(found))
        axes.stairs(np.where(share > 0, share, np.nan), edges, color=colour, linewidth=1.3, label=name, baseline=None)
    axes.set_yscale("log")
    axes.set_xlim(-1, 1)
    return svg(figure, axes, "cosine of two latents", "share of pairs", "cosines-of-pairs")


def sampled(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Cosines of decoder rows and the largest of each, with captions; ``found`` as ``tasks.reporting.alike`` gives it."""
    name = "decoder rows"
    return [
        (cosines(found["edges"], {name: found["counts"]}), f"Cosines of decoder rows, of {found['n']:,} latents with all others"),
        (maxima({name: found["largest"]}, "cosine with the nearest latent", "largest-cosines"), "The nearest of each latent"),
    ]


def maxima(values: Mapping[str, Sequence[float]], x: str, name: str) -> str:
    """The largest cosine of each latent, of several sides."""
    figure, axes = blank()
    low = min((min(v) for v in values.values() if len(v)), default=0.0)
    bins = np.linspace(min(0.0, low), 1, _BINS + 1)
    for (label, found), colour in zip(values.items(), (MAIN, OTHER), strict=False):
        axes.hist(np.clip(found, bins[0], 1), bins=bins, color=colour, alpha=0.6, label=label)
    return svg(figure, axes, x, "latents", name)


def similarities(table: Any, name: str = "map-of-similarities") -> str:
    """Cosines of some latents with one another, of which those alike stand side by side."""
    figure, axes = blank(4.6, 4.2)
    strength = np.abs(table)[..., None]
    colour = np.where((table >= 0)[..., None], _BLUE, _RED)
    axes.imshow(np.concatenate([colour, strength], -1), interpolation="nearest", aspect="equal")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    return svg(figure, axes, f"{len(table)} latents", "", name)


def densities(found: Mapping[str, Mapping[str, Any]]) -> str:
    """How often latents fire, of one dictionary or two; ``found`` as ``tasks.dictionary.firing.densities`` gives it."""
    figure, axes = blank()
    for (label, one), colour in zip(found.items(), (MAIN, OTHER), strict=False):
        edges, counts = np.asarray(one["edges"]), np.asarray(one["counts"])
        there = np.flatnonzero(counts)
        if len(there):
            part = slice(there[0], there[-1] + 1)
            filled = len(found) == 1
            axes.stairs(counts[part], edges[part.start : part.stop + 1], color=colour, fill=filled, linewidth=1.3,
                        label=None if filled else label)  # fmt: skip
    return svg(figure, axes, "density: log10 of the share of tokens on which it fires", "latents", "densities-of-latents")


def against(
    x: Sequence[float], y: Sequence[float], titles: tuple[str, str], name: str, log: bool = False
) -> str:
    """One figure of each latent against another; where either is not known, or 0 on a log scale, there is no point."""
    figure, axes = blank()
    pairs = [(a, b) for a, b in zip(x, y, strict=True) if np.isfinite(a) and np.isfinite(b) and (a > 0 or not log)]
    found = thinned(pairs)
    axes.scatter([p[0] for p in found], [p[1] for p in found], s=7, color=MAIN, alpha=0.45, linewidths=0)
    if log and found:
        axes.set_xscale("log")
    return svg(figure, axes, *titles, name)


def rates(letters: Sequence[str], values: Mapping[str, Sequence[float | None]], name: str) -> str:
    """Shares by letter, side by side; what is not known has no bar."""
    figure, axes = blank(5.6, 2.5)
    width = 0.8 / max(1, len(values))
    for i, ((label, found), colour) in enumerate(zip(values.items(), (MAIN, OTHER, SOFT), strict=False)):
        at = [place + (i - (len(values) - 1) / 2) * width for place in range(len(letters))]
        axes.bar(at, [v or 0 for v in found], width=width, color=colour, label=label)
    axes.set_xticks(range(len(letters)), list(letters))
    axes.set_ylim(0, 1)
    axes.tick_params(axis="x", colors=INK)
    return svg(figure, axes, "first letter", "share", name)
