"""An inspection in the terminal. Nothing of a prompt, a token or a label is obeyed by it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from flows.console import clean

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_SHOWN = 96
"""Characters of a prompt above its table."""

_WORST = 0.5
"""Nats that the SAE costs at a token, from which on the terminal marks it."""

_ERRORS = {"relative_error": "error", "fvu": "FVU", "cosine": "cosine"}

Body = dict[str, Any]


def show(body: Body, top: int, rows: int) -> None:
    """Print an inspection: each prompt with its tokens, then the latents over all of them."""
    from rich.console import Console
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    said = ", ".join("/".join((stage, key[:12])) for stage, _, key in (a.partition("/") for a in body["explanations"]))
    console.print(Text(
        f"{_short(body['sae'])} at {body['hookpoint']} of {clean(body['model'])}: {body['kind']}, {body['n_latents']:,} latents; "
        + (f"labels of {said}" if said else f"no labels yet: saint explain {_short(body['sae'])}")
    ))  # fmt: skip
    for i, prompt in enumerate(body["prompts"], 1):
        console.print()
        number = f"prompt {i}: " if len(body["prompts"]) > 1 else ""
        console.print(Text(number + shown(prompt["text"], _SHOWN), style="bold"))
        console.print(Text(_figures(prompt["figures"])))
        console.print(_tokens(prompt, {row["latent"]: row for row in body["latents"]}, top))
        for line in _next(prompt):
            console.print(Text(line))
    if len(body["prompts"]) > 1:
        console.print(Text(f"\nall prompts: {_figures(body['figures'])}"))
    table = _latents(body, rows)
    if table.row_count:
        console.print()
        console.print(table)
        if body["no_lens"]:
            console.print(Text(f"no tokens promoted or suppressed: {clean(body['no_lens'])}"))


def shown(text: str, most: int | None = None) -> str:
    """Foreign text on one line, with nothing in it that a terminal would obey; a space in front is seen."""
    from tasks.reporting.sweep_table import visible

    text = text.replace("\n", "⏎").replace("\t", "⇥")
    if text.startswith(" "):
        text = "␣" + text[1:]
    text = clean(visible(text))
    return text if most is None or len(text) <= most else text[: most - 1] + "…"


def _figures(f: Body) -> str:
    parts = [f"{f['n_tokens']:,} tokens", f"L0 {f['l0']:.1f}"]
    parts += [f"{label} {f[name]:.3f}" for name, label in _ERRORS.items() if f[name] is not None]
    if f["ce_clean"] is not None:
        recovered = "" if f["ce_loss_recovered"] is None else f" ({f['ce_loss_recovered']:.1%} recovered)"
        parts.append(f"CE {f['ce_clean']:.3f}, with the SAE {f['ce_sae']:.3f}{recovered}, with zero {f['ce_zero']:.3f}")
        parts.append(f"KL {f['kl_sae']:.3f}")
    return "  ".join(parts)


def _tokens(prompt: Body, latents: dict[int, Body], top: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    for name in ("#", "token", "L0", *_ERRORS.values(), "CE", "+SAE", "+zero"):
        grid.add_column(name, justify="left" if name == "token" else "right", no_wrap=True)
    if top:
        moved = ", nats for the next token" if prompt["target"] else ""
        grid.add_column(f"strongest latents: activation{moved}, label, score", no_wrap=True, overflow="ellipsis", ratio=1)
    for token in prompt["tokens"]:
        cells = [str(token["position"]), shown(token["token"], 24)]
        cells += ["" if token["special"] else str(token["l0"])]
        cells += [_number(token[name], ".3f") for name in _ERRORS] + [_number(token["ce_clean"], ".2f")]
        more = [None if token[n] is None else token[n] - token["ce_clean"] for n in ("ce_sae", "ce_zero")]
        row = [Text(cell, style="dim" if token["special"] else "") for cell in cells]
        row += [Text(_number(v, "+.2f"), style="yellow" if i == 0 and v is not None and v >= _WORST else "") for i, v in enumerate(more)]
        if top and token["special"]:
            row.append(Text("special: keeps its own activation", style="dim"))
        elif top:
            row.append(Text("\n").join(_latent(one, latents.get(one["latent"])) for one in token["latents"][:top]))
        grid.add_row(*row)
    return grid


def _latent(one: Body, known: Body | None) -> Text:
    """A latent at a token: number, activation, what it does for the next token, label, score."""
    from rich.text import Text

    text = Text(f"{one['latent']:>6} {one['value']:7.2f}", style="cyan")
    if "attribution" in one:
        text.append(f" {one['attribution']:+.3f}", style="none")
    if known and known["label"]:
        text.append(f"  {shown(known['label'])}", style="none")
        score = next(iter(known["scores"].values()), None)
        text.append("" if score is None else f" {score:.2f}", style="dim")
    return text


def _next(prompt: Body) -> Iterator[str]:
    for name, label in (("clean", "next"), ("sae", "with the SAE"), ("zero", "with zero")):
        guesses = ", ".join(f"{shown(g['token'])} {g['probability']:.0%}" for g in prompt["next"][name])
        if guesses:
            yield f"{label}: {guesses}"
    if prompt["target"]:
        rest = sum(token["attribution_rest"] or 0.0 for token in prompt["tokens"])
        every = sum(one["attribution"] for token in prompt["tokens"] for one in token["latents"])
        yield (
            f"for {shown(prompt['target']['token'])} ({prompt['target']['probability']:.0%}), in nats to first order: "
            f"latents {every:+.3f}, what the SAE leaves over {rest:+.3f}"
        )


def _latents(body: Body, rows: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    wanted = [row for row in body["latents"] if row["wanted"]]
    found = wanted or body["latents"][:rows]
    moved = any(row["attribution"] is not None for row in found)
    scored = [name for name in body["scorers"] if any(row["scores"].get(name) is not None for row in found)]
    of_largest = any(row["largest"] for row in found)
    over = "all prompts" if len(body["prompts"]) > 1 else "the prompt"
    title = "latents asked for" if wanted else f"latents over {over}, by {body['by']}"
    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1), title=title, title_justify="left", title_style="bold")
    numbers = ["latent", "sum", "max", *(["of largest"] if of_largest else []), "tokens", *(["attribution"] if moved else [])]
    for name in numbers:
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("label", ratio=2, overflow="fold")
    for name in scored:
        grid.add_column(clean(name), justify="right", no_wrap=True)
    for name in ("promotes", "suppresses"):
        grid.add_column(name, ratio=2, overflow="fold")
    for row in found:
        cells = [str(row["latent"]), f"{row['sum']:.2f}", f"{row['max']:.2f}"]
        cells += [f"{row['max'] / row['largest']:.0%}" if row["largest"] else ""] if of_largest else []
        cells += [str(row["n_tokens"]), *([_number(row["attribution"], "+.3f")] if moved else [])]
        cells += [shown(row["label"]) or (row["status"].replace("_", " ") if row["status"] != "ok" else "")]
        cells += [_number(row["scores"].get(name), ".2f") for name in scored]
        cells += [" ".join(shown(token) for token, _ in row.get(name, ())) for name in ("promoted", "suppressed")]
        grid.add_row(*map(Text, cells))
    return grid


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _short(address: str) -> str:
    stage, _, key = address.partition("/")
    return f"{stage}/{key[:12]}"
