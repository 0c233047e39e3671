"""Plots of the report as SVG that takes its colours from the page, so that one file serves light, dark and print."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

from tasks.lazy import np

# Stand-ins that matplotlib can draw with; each becomes a CSS variable of the page.
_INK, _SOFT, _MAIN, _OTHER, _GRID = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {_INK: "--ink", _SOFT: "--soft", _MAIN: "--main", _OTHER: "--other", _GRID: "--line"}


def _figure(width: float = 4.6, height: float = 2.5) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_SOFT)
    axes.tick_params(colors=_SOFT, labelsize=8, length=3)
    axes.grid(axis="y", color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Any, axes: Any, x: str, y: str, name: str) -> str:
    import matplotlib

    axes.set_xlabel(x, fontsize=9, color=_INK)
    axes.set_ylabel(y, fontsize=9, color=_INK)
    legend = axes.get_legend_handles_labels()
    if legend[0]:
        axes.legend(fontsize=8, frameon=False, labelcolor=_INK)
    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', text)  # ids are one namespace per page
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r'(xlink:)?href="#([^"]+)"', rf'\1href="#{name}-\2"', text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{name.replace("-", " ")}" ', 1)


def training(log: Sequence[dict[str, Any]]) -> str:
    """FVU on train and validation rows, and dead latents, over training."""
    figure, axes = _figure()
    for split, colour, label in (("train", _SOFT, "train"), ("validation", _MAIN, "held out")):
        rows = [r for r in log if r["split"] == split]
        axes.plot([r["tokens"] / 1e6 for r in rows], [r["fvu"] for r in rows], color=colour, label=label, linewidth=1.4)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda v, _: f"{v:g}")
    axes.yaxis.set_minor_formatter(lambda v, _: f"{v:g}" if f"{v:e}"[0] in "25" else "")
    axes.tick_params(which="minor", colors=_SOFT, labelsize=7)
    return _svg(figure, axes, "training tokens, millions", "FVU", "training-curves")


def dead(log: Sequence[dict[str, Any]]) -> str:
    """Dead latents and learning rate over training."""
    figure, axes = _figure()
    rows = [r for r in log if r["split"] == "train"]
    x = [r["tokens"] / 1e6 for r in rows]
    axes.plot(x, [100 * r["dead_fraction"] for r in rows], color=_OTHER, label="dead latents, %", linewidth=1.4)
    most = max((r["lr"] for r in rows), default=1.0)
    top = max(1.0, *(100 * r["dead_fraction"] for r in rows))
    axes.plot(x, [top * r["lr"] / most for r in rows], color=_SOFT, label=f"learning rate (top = {most:.1e})", linewidth=1)
    return _svg(figure, axes, "training tokens, millions", "per cent", "dead-latents")


def losses(metrics: dict[str, Any]) -> str:
    """Cross entropy of the language model: clean, with the SAE, and with nothing there."""
    figure, axes = _figure()
    names = {"ce_clean": "clean", "ce_sae": "with SAE", "ce_mean": "mean-ablated", "ce_zero": "zero-ablated"}
    found = [(label, metrics[name]["value"]) for name, label in names.items() if name in metrics]
    bars = axes.bar([f[0] for f in found], [f[1] for f in found], color=[_SOFT, _MAIN, _OTHER, _OTHER], width=0.6)
    axes.bar_label(bars, [f"{f[1]:.2f}" for f in found], fontsize=8, color=_INK, padding=2)
    return _svg(figure, axes, "activation at the hookpoint", "cross entropy, nats", "cross-entropies")


def densities(values: Sequence[float]) -> str:
    """How often latents fire, on a log scale."""
    figure, axes = _figure()
    alive = np.log10([v for v in values if v > 0])
    if len(alive):
        axes.hist(alive, bins=40, color=_MAIN)
    return _svg(figure, axes, "density: log10 of the share of tokens on which it fires", "latents", "densities")


def scores(values: Sequence[float], control: Sequence[float]) -> str:
    """Scores of explanations, and of shuffled ones."""
    figure, axes = _figure()
    bins = np.linspace(0, 1, 41)
    if len(control):
        axes.hist(control, bins=bins, color=_SOFT, alpha=0.55, label="another latent's explanation")
    axes.hist(values, bins=bins, color=_MAIN, alpha=0.8, label="its own explanation")
    axes.axvline(0.5, color=_INK, linewidth=0.8, linestyle=":")
    return _svg(figure, axes, "balanced accuracy on unseen documents", "latents", "scores")


def score_by_density(rows: Sequence[dict[str, Any]]) -> str:
    """Whether frequent latents are easier to explain."""
    figure, axes = _figure()
    found = [(r["density"], r["value"]) for r in rows if r["value"] is not None and r["density"] > 0]
    axes.scatter([f[0] for f in found], [f[1] for f in found], s=7, color=_MAIN, alpha=0.5, linewidths=0)
    axes.set_xscale("log")
    axes.axhline(0.5, color=_INK, linewidth=0.8, linestyle=":")
    return _svg(figure, axes, "density", "balanced accuracy", "score-by-density")


def activations(histogram: Sequence[int], edges: Sequence[float]) -> list[list[float]]:
    """The bins of one latent that hold anything: [lower edge, height from 0 to 1]. Drawn by the page."""
    filled = [i for i, n in enumerate(histogram) if n]
    if not filled:
        return []
    most = max(histogram)
    return [[round(edges[i], 3), round(histogram[i] / most, 3)] for i in range(filled[0], filled[-1] + 1)]
