"""Plots of the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.lazy import np
from tasks.reporting.svg import INK, MAIN, OTHER, SOFT, blank, svg


def training(log: Sequence[dict[str, Any]]) -> str:
    """FVU on train and validation rows, and dead latents, over training."""
    figure, axes = blank()
    for split, colour, label in (("train", SOFT, "train"), ("validation", MAIN, "held out")):
        rows = [r for r in log if r["split"] == split]
        axes.plot([r["tokens"] / 1e6 for r in rows], [r["fvu"] for r in rows], color=colour, label=label, linewidth=1.4)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda v, _: f"{v:g}")
    axes.yaxis.set_minor_formatter(lambda v, _: f"{v:g}" if f"{v:e}"[0] in "25" else "")
    axes.tick_params(which="minor", colors=SOFT, labelsize=7)
    return svg(figure, axes, "training tokens, millions", "FVU", "training-curves")


def dead(log: Sequence[dict[str, Any]]) -> str:
    """Dead latents and learning rate over training."""
    figure, axes = blank()
    rows = [r for r in log if r["split"] == "train"]
    x = [r["tokens"] / 1e6 for r in rows]
    axes.plot(x, [100 * r["dead_fraction"] for r in rows], color=OTHER, label="dead latents, %", linewidth=1.4)
    most = max((r["lr"] for r in rows), default=1.0)
    top = max(1.0, *(100 * r["dead_fraction"] for r in rows))
    axes.plot(x, [top * r["lr"] / most for r in rows], color=SOFT, label=f"learning rate (top = {most:.1e})", linewidth=1)
    return svg(figure, axes, "training tokens, millions", "per cent", "dead-latents")


def losses(metrics: dict[str, Any]) -> str:
    """Cross entropy of the language model: clean, with the SAE, and with nothing there."""
    figure, axes = blank()
    names = {"ce_clean": "clean", "ce_sae": "with SAE", "ce_mean": "mean-ablated", "ce_zero": "zero-ablated"}
    found = [(label, metrics[name]["value"]) for name, label in names.items() if name in metrics]
    bars = axes.bar([f[0] for f in found], [f[1] for f in found], color=[SOFT, MAIN, OTHER, OTHER], width=0.6)
    axes.bar_label(bars, [f"{f[1]:.2f}" for f in found], fontsize=8, color=INK, padding=2)
    return svg(figure, axes, "activation at the hookpoint", "cross entropy, nats", "cross-entropies")


def densities(values: Sequence[float]) -> str:
    """How often latents fire, on a log scale."""
    figure, axes = blank()
    alive = np.log10([v for v in values if v > 0])
    if len(alive):
        axes.hist(alive, bins=40, color=MAIN)
    return svg(figure, axes, "density: log10 of the share of tokens on which it fires", "latents", "densities")


def activations(histogram: Sequence[int], edges: Sequence[float]) -> list[list[float]]:
    """The bins of one latent that hold anything: [lower edge, height from 0 to 1]. Drawn by the page."""
    filled = [i for i, n in enumerate(histogram) if n]
    if not filled:
        return []
    most = max(histogram)
    return [[round(edges[i], 3), round(histogram[i] / most, 3)] for i in range(filled[0], filled[-1] + 1)]
