"""The command ``inspect``: what an SAE of the store makes of a prompt, in the terminal, as JSON, as a page."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flows.console import clean, print_json
from flows.looking import store_of
from tasks.spec import SpecError

ABOUT = {
    "inspect": "what an SAE makes of a prompt: latents with their labels, error, losses, next tokens; --html PATH, --json",
}

_SHOWN = 96
"""Characters of a prompt above its table."""

_WORST = 0.5
"""Nats that the SAE costs at a token, from which on the terminal marks it."""

Body = dict[str, Any]


def inspect(rest: list[str], debug: bool = False) -> int:
    flags, name, words, overrides = _parsed(rest)
    from flows.api import OpenSAE
    from flows.belongings import sae_named
    from flows.config import composed
    from flows.console import display
    from tasks.devices import guarded
    from tasks.kinds import validated
    from tasks.spec import Runtime

    prompts = list(prompts_of(words, flags.file, flags.lines))
    store = store_of(overrides)
    runtime = validated(Runtime, composed(overrides)["runtime"], "runtime")
    sae = OpenSAE(store, sae_named(store, name), runtime, flags.dtype, flags.explain)
    attribute: bool | str = flags.target if flags.target is not None else flags.attribute or flags.by == "attribution"
    with display() as progress, guarded(runtime, progress):
        if runtime.threads:
            from tasks.lazy import torch

            torch.set_num_threads(runtime.threads)
        found = sae.inspect(
            prompts, latents=latents_in(flags.latents), by=flags.by, top=flags.rows, attribute=attribute, n_pushed=flags.pushed
        )
    if flags.html:
        found.html(flags.html)
    if flags.json:
        return print_json(found.json)
    show(found.json, flags.top, flags.rows)
    if flags.html:
        print(f"page: {flags.html}")
    return 0


def _parsed(rest: list[str]) -> tuple[argparse.Namespace, str, list[str], list[str]]:
    """Flags, the SAE's name, prompts, overrides."""
    parser = argparse.ArgumentParser(
        prog="saint inspect", description=ABOUT["inspect"], allow_abbrev=False,
        epilog="BOS and other special tokens keep their own activation in every run, as in saint run's evaluation.",
    )  # fmt: skip
    add = parser.add_argument
    add("sae", metavar="SAE", help="train/3f2a, adopt/90c1: an SAE of the store")
    add("words", nargs="*", metavar="PROMPT", help="one or more; - reads one from standard input; backend.root=DIR, runtime.device=cpu")
    add("--file", action="append", default=[], metavar="PATH", help="a file with a prompt; may be given again")
    add("--lines", action="store_true", help="each line of a file, or of standard input, is a prompt of its own")
    add("--latents", metavar="5,17", help="latents to look at, active or not; without it those at the top")
    add("--top", type=int, default=3, metavar="N", help="latents shown at each token (3)")
    add("--rows", type=int, default=10, metavar="N", help="latents shown over all prompts (10)")
    add("--by", default="sum", metavar="ORDER", help="their order: sum (as it is), max, n_tokens, attribution")
    add("--pushed", type=int, default=5, metavar="N", help="tokens that a decoder row promotes, and suppresses (5)")
    add("--attribute", action="store_true", help="also what each latent does for the likeliest next token, in nats to first order")
    add("--target", metavar="TEXT", help="the same for the first token of a text, as in --target ' dog'")
    add("--explain", metavar="NAME", help="explanations to take labels from (explain/9c0d); without it each latent's newest")
    add("--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="precision of the language model (float32)")
    add("--json", action="store_true", help="print all of it as JSON")
    add("--html", metavar="PATH", help="also write a page there")
    flags = parser.parse_intermixed_args(rest)
    overrides = [word for word in flags.words if re.match(r"(backend|runtime)(\.\w+)?=", word)]
    for name, least in (("top", 0), ("rows", 0), ("pushed", 0)):
        if (value := getattr(flags, name)) < least:
            raise SpecError(f"--{name} {value}, but it counts; use {least} or more")
    return flags, flags.sae, [word for word in flags.words if word not in overrides], overrides


def prompts_of(words: Sequence[str], files: Sequence[str], lines: bool) -> Iterator[str]:
    """Prompts as typed, and of files; the newline at the end of a file is its editor's. Raises ``SpecError``."""
    if not words and not files:
        raise SpecError('saint inspect, but there is no prompt; write one in quotes: saint inspect train/3f2a "Once upon a time"')
    for word in words:
        yield from _split(sys.stdin.read(), lines) if word == "-" else [word]
    for file in files:
        try:
            yield from _split(Path(file).expanduser().read_text("utf-8"), lines)
        except UnicodeDecodeError as error:
            raise SpecError(f"--file {file}, but it is no text in UTF-8 ({error.reason} at byte {error.start}); convert it") from None


def _split(text: str, lines: bool) -> list[str]:
    return [line for line in text.split("\n") if line.strip()] if lines else [text.removesuffix("\n")]


def latents_in(text: str | None) -> list[int]:
    """Latents as typed: ``5,17``, ``[5,17]``, ``0:8``. Raises ``SpecError``."""
    found: list[int] = []
    for part in (text or "").strip("[]").split(","):
        if not part.strip():
            continue
        ends = re.fullmatch(r"\s*(\d+)(?::(\d+))?\s*", part)
        if not ends:
            raise SpecError(f"--latents {text}, but {part.strip()!r} is no latent; write numbers such as 5,17 or 0:8")
        found += range(int(ends[1]), int(ends[2])) if ends[2] else [int(ends[1])]
    return found


# the terminal


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
    parts += [f"{label} {f[name]:.3f}" for name, label in (("fvu", "FVU"), ("relative_error", "error"), ("cosine", "cosine")) if f[name] is not None]
    if f["ce_clean"] is not None:
        recovered = "" if f["ce_loss_recovered"] is None else f" ({f['ce_loss_recovered']:.1%} recovered)"
        parts.append(f"CE {f['ce_clean']:.3f}, with the SAE {f['ce_sae']:.3f}{recovered}, with zero {f['ce_zero']:.3f}")
        parts.append(f"KL {f['kl_sae']:.3f}")
    return "  ".join(parts)


def _tokens(prompt: Body, latents: dict[int, Body], top: int) -> Any:
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    for name in ("#", "token", "L0", "error", "FVU", "cosine", "CE", "+SAE", "+zero"):
        grid.add_column(name, justify="left" if name == "token" else "right", no_wrap=True)
    if top:
        grid.add_column(f"latents (the strongest {top})" if top > 1 else "strongest latent", no_wrap=True, overflow="ellipsis", ratio=1)
    for token in prompt["tokens"]:
        cells = [str(token["position"]), shown(token["token"], 24)]
        cells += ["" if token["special"] else str(token["l0"])]
        cells += [_number(token[name], digits) for name, digits in (("relative_error", ".2f"), ("fvu", ".3f"), ("cosine", ".3f"), ("ce_clean", ".2f"))]
        more = [None if token[n] is None else token[n] - token["ce_clean"] for n in ("ce_sae", "ce_zero")]
        row = [Text(cell, style="dim" if token["special"] else "") for cell in cells]
        row += [Text(_number(v, "+.2f"), style="yellow" if i == 0 and v is not None and v >= _WORST else "") for i, v in enumerate(more)]
        if top and token["special"]:
            row.append(Text("special: keeps its own activation", style="dim"))
        elif top:
            row.append(Text("\n").join(_latent(one, latents.get(one["latent"])) for one in token["latents"][:top]))
        grid.add_row(*row)
    return grid


def _latent(one: Body, known: Body | None) -> Any:
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


def _latents(body: Body, rows: int) -> Any:
    from rich.table import Table
    from rich.text import Text

    wanted = [row for row in body["latents"] if row["wanted"]]
    found = wanted or body["latents"][:rows]
    moved = any(row["attribution"] is not None for row in found)
    scored = [name for name in body["scorers"] if any(row["scores"].get(name) is not None for row in found)]
    of_largest = any(row["largest"] for row in found)
    title = "latents asked for" if wanted else f"latents over {'all prompts' if len(body['prompts']) > 1 else 'the prompt'}, by {body['by']}"
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
