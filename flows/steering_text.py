"""Steered texts in the terminal: two columns while they come to be, or one after the other where nobody watches.

Nothing of a prompt, a token or a label is obeyed by it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flows.console import clean
from tasks.lazy import np

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from flows.steered import OpenRecipe, Side, Steered, Told
    from tasks.steering.recipe import Prompt, RecipePush
    from tasks.steering.writing import Written

_SHOWN = 200
"""Characters of a prompt above its texts."""

_HOT = (255, 140, 0)
"""The background of a token on which a latent comes to its largest activation."""


def show(opened: OpenRecipe, sides: Sequence[Side]) -> None:
    """Write the texts of a recipe, and show them: as they come in a terminal, at their end elsewhere."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    live = sys.stdout.isatty()
    console = Console(width=None if live else 120, highlight=False, markup=False)
    for push in opened.recipe.pushes:
        console.print(Text(pushed(push)))
    if not live:
        found = opened.run(sides)
        for each in found.told:
            console.print(Text(f"\n{prompted(each.prompt)}", style="bold"))
            for side in sides:
                console.print(Text(f"{side}: {clean(_one(each, side).text).strip()}", style=""), soft_wrap=True)
            for line in _meters(each):
                console.print(Text(line))
        return
    with Live(console=console, refresh_per_second=12, vertical_overflow="visible", transient=True) as screen:
        found = None
        for found in opened.stream(sides):
            screen.update(Group(*(_table(found, each, sides) for each in found.told)))
    for each in found.told if found else ():
        console.print(_table(found, each, sides))
        for line in _meters(each):
            console.print(Text(line, style="yellow" if line.startswith("warning") else "dim"))


def pushed(push: RecipePush) -> str:
    """A push in one line."""
    stage, _, key = push.sae.partition("/")
    how = "ablate" if push.mode == "ablate" else f"{push.mode} {push.strength:g} x {push.largest:.3g}"
    return f"{stage}/{key[:12]} latent {push.latent}: {how}" + (f"  {clean(push.label)}" if push.label else "")


def prompted(prompt: Prompt) -> str:
    """A prompt in a few words."""
    text = prompt if isinstance(prompt, str) else "  ".join(f"{one.role}: {one.content}" for one in prompt)
    text = clean(text)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _table(found: Steered, each: Told, sides: Sequence[Side]) -> Table:
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=Text(prompted(each.prompt)), title_justify="left", title_style="bold", expand=True, show_lines=False)
    for side in sides:
        grid.add_column(side, ratio=1, overflow="fold")
    grid.add_row(*(_heated(found, _one(each, side)) for side in sides))
    return grid


def _heated(found: Steered, one: Written) -> Text:
    """A text whose tokens are coloured by how active the pushed latents are on them."""
    from rich.text import Text

    first, text = len(one.row.prompt.token_id), Text()
    largest = np.array([max((p.largest for p in found.recipe.pushes if (p.sae, p.latent) == each), default=0) for each in found.watched])
    for i, token in enumerate(one.token_ids):
        heat = 0.0
        if first + i < len(one.activation_TL) and len(largest):
            share = np.divide(one.activation_TL[first + i], largest, out=np.zeros(len(largest)), where=largest > 0)
            heat = float(np.clip(share, 0, 1).max())
        colour = ",".join(str(round(c * heat)) for c in _HOT)
        text.append(clean(found.words[token]), style=f"{'black' if heat > 0.5 else 'none'} on rgb({colour})" if heat > 0.05 else "")
    return text


def _one(each: Told, side: Side) -> Written:
    found = each.default if side == "default" else each.steered
    assert found is not None, "it is one of the sides that were written"
    return found


def _meters(each: Told) -> list[str]:
    parts = [
        f"{side}: repetition {one.repetition:.0%}" + (f", length of activations x {one.growth:.2f}" if side == "steered" else "")
        for side, one in (("default", each.default), ("steered", each.steered)) if one is not None
    ]  # fmt: skip
    return ["  ".join(parts), *(f"warning: {line}" for line in each.warnings)]
