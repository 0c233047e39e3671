"""SVG that takes its colours from the page, so that one file serves light, dark and print."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

# Stand-ins that matplotlib can draw with; each becomes a CSS variable of the page.
INK, SOFT, MAIN, OTHER, GRID = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {INK: "--ink", SOFT: "--soft", MAIN: "--main", OTHER: "--other", GRID: "--line"}


def blank(width: float = 4.6, height: float = 2.5) -> Any:
    """A figure and its axes with nothing on them; sizes in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(SOFT)
    axes.tick_params(colors=SOFT, labelsize=8, length=3)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def svg(figure: Any, axes: Any, x: str, y: str, name: str, colours: Mapping[str, str] | None = None) -> str:
    """The figure as an element. ``name`` is unique in the page; ``colours`` are further stand-ins and their CSS."""
    import matplotlib

    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)
    legend = axes.get_legend_handles_labels()
    if legend[0]:
        axes.legend(fontsize=8, frameon=False, labelcolor=INK)
    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    for colour, css in {**{c: f"var({v})" for c, v in _VARIABLES.items()}, **(colours or {})}.items():
        text = text.replace(colour, css)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', text)  # ids are one namespace per page
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r'(xlink:)?href="#([^"]+)"', rf'\1href="#{name}-\2"', text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{name.replace("-", " ")}" ', 1)
