"""The command ``inspect``: what an SAE of the store makes of a prompt, in the terminal, as JSON, as a page."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from flows.console import print_json
from flows.looking import store_of, words_apart
from tasks.spec import SpecError

ABOUT = {
    "inspect": "what an SAE makes of a prompt: latents with their labels, error, losses, next tokens; --html PATH, --json",
}


def inspect(rest: list[str], debug: bool = False) -> int:
    """``saint inspect``; returns the exit code. Raises ``SpecError``."""
    flags, name, words, overrides = _parsed(rest)
    from flows.api import OpenSAE
    from flows.belongings import sae_named
    from flows.composing import composed
    from flows.console import display
    from flows.inspection_text import show
    from tasks.devices import guarded
    from tasks.kinds import validated
    from tasks.spec import Runtime

    prompts = list(prompts_of(words, flags.file, flags.lines))
    if flags.html:
        in_a_folder("--html", flags.html)
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
    for name, least in (("top", 0), ("rows", 0), ("pushed", 0)):
        if (value := getattr(flags, name)) < least:
            raise SpecError(f"--{name} {value}, but it counts; use {least} or more")
    return flags, flags.sae, *words_apart(flags.words)


def in_a_folder(flag: str, typed: str) -> Path:
    """Where something is to be written. Raises ``SpecError``, before the work and not after it, where there is no such folder."""
    path = Path(typed).expanduser()
    if not typed or not path.absolute().parent.is_dir():
        fact = f"there is no folder {path.absolute().parent}; make it, or name another" if typed else "that names nothing; name a file"
        raise SpecError(f"{flag} = {typed!r}, but {fact}")
    return path


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
            raise SpecError(f"--file = {file!r}, but it is no text in UTF-8 ({error.reason} at byte {error.start}); convert it") from None
        except OSError as error:
            raise SpecError(f"--file = {file!r}, but it cannot be read ({error.strerror}); name a file of text") from None


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
            raise SpecError(f"--latents = {text!r}, but {part.strip()!r} is no latent; write numbers such as 5,17 or 0:8")
        some = range(int(ends[1]), int(ends[2])) if ends[2] else [int(ends[1])]
        if not some:
            raise SpecError(f"--latents = {text!r}, but {part.strip()} holds none; write the smaller end first, as in 0:8")
        found += some
    return found
