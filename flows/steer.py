"""The command ``steer``: what a model says by itself and when some latents are turned, side by side; recipes and vectors to share."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from flows.console import print_json
from flows.looking import words_apart
from tasks.spec import SpecError

if TYPE_CHECKING:
    from artifacts.store import Store
    from flows.steered import OpenRecipe
    from flows.wishes import Wish
    from tasks.steering.recipe import SteeringRecipe

ABOUT = {
    "steer": "what a model says by itself and with latents turned, side by side: SAE PROMPT --latent 17=0.8; --recipe FILE, --save FILE",
}

_LATENT = re.compile(
    r"(?:(?P<sae>[^\s:=]+/[^\s:=]*):)?(?P<latent>\d+)=(?:(?P<strength>[-+\d.eE]+)(?:x(?P<largest>[\d.eE+-]+))?(?::(?P<mode>\w+))?|(?P<alone>ablate))"
)
_SAE = re.compile(r"(train|adopt)/\S*|[0-9a-f]+")
_NUMBERS = {"n_tokens": (int, "whole "), "temperature": (float, ""), "top_p": (float, ""), "seed": (int, "whole ")}
_SETTINGS = ("n_tokens", "temperature", "top_p", "seed", "positions", "dtype")


def steer(rest: list[str], debug: bool = False) -> int:
    flags, words, overrides = _parsed(rest)
    save, vector, patch = _files(flags)
    from flows.composing import composed
    from flows.console import display
    from flows.looking import store_of
    from flows.models import Models
    from flows.steered import open_recipe
    from flows.steering_text import show
    from tasks.devices import guarded
    from tasks.kinds import validated
    from tasks.spec import Runtime

    store = store_of(overrides)
    runtime = validated(Runtime, composed(overrides)["runtime"], "runtime")
    recipe = _recipe(store, flags, words)
    sides = (flags.only,) if flags.only else ("default", "steered")
    opened = open_recipe(recipe, Models(store, runtime))
    with display() as progress, guarded(runtime, progress):
        if runtime.threads:
            from tasks.lazy import torch

            torch.set_num_threads(runtime.threads)
        written = _written(opened, save, vector, patch)
        if flags.json:
            print_json(opened.run(sides).json)
        elif not flags.quiet:
            show(opened, sides)
    if not recipe.pushes and not flags.only:
        print("no latent is turned, so both texts are the same; add one, as in --latent 17=0.8", file=sys.stderr)
    for path in written:
        print(f"written: {path}", file=sys.stderr)
    return 0


def _files(flags: argparse.Namespace) -> list[Path | None]:
    """Recipe, vector and patch that are to be written. Raises ``SpecError`` where they cannot be, or something is there already."""
    from flows.inspecting import in_a_folder
    from tasks.steering.vector import patch_files

    found: list[Path | None] = []
    every: set[Path] = set()
    for name in ("save", "vector", "patch"):
        typed = getattr(flags, name)
        found.append(path := None if typed is None else in_a_folder(f"--{name}", typed))
        if path is None:
            continue
        for one in patch_files(path) if name == "patch" else (path,):
            if one.exists() or one.absolute() in every:
                what = "there already" if one.exists() else "written by another flag, too"
                raise SpecError(f"--{name} = {typed!r}, but {one} is {what}, and nothing is written over; name a new file")
            every.add(one.absolute())
    return found


def _written(opened: OpenRecipe, save: Path | None, vector: Path | None, patch: Path | None) -> list[Path]:
    """Write the recipe, and what was asked for for plain transformers; returns the files."""
    from tasks.steering.vector import save_patch, save_vector

    recipe, found = opened.recipe, []
    if vector or patch:
        given = opened.subject, opened.rows("steered")[0].pushes
        about = {"positions": recipe.positions, "name": recipe.name, "latents": [push.payload() for push in recipe.pushes]}
        found += [save_vector(*given, vector, **about)] if vector else []
        found += save_patch(*given, patch, **about) if patch else []
    return [recipe.save(save), *found] if save else found


def _parsed(rest: list[str]) -> tuple[argparse.Namespace, list[str], list[str]]:
    """Flags, plain words, overrides."""
    from tasks.steering.subject import check_sampling

    parser = _Parser(
        prog="saint steer", description=ABOUT["steer"], allow_abbrev=False,
        epilog="A strength counts in multiples of the latent's largest observed activation, and 0 is exactly the model as it is. Modes: "
        "add; clamp (set to so much); ablate (set to 0); bias (raised before the encoder chooses which latents are active). "
        "saint inspect SAE PROMPT and saint report find latents.",
    )  # fmt: skip
    add = parser.add_argument
    add("words", nargs="*", metavar="SAE PROMPT", help="train/3f2a and prompts, with --recipe prompts alone; - is standard input")
    add("--latent", action="append", default=[], metavar="[SAE:]N=STRENGTH[:MODE]",
        help="17=0.8, 17=-2:clamp, train/9b:30=ablate; 17=0.8x2.5 gives the largest activation, too; may be given again")
    add("--recipe", metavar="FILE", help="a recipe; other flags change it")
    add("--save", metavar="FILE", help="write the recipe")
    add("--vector", metavar="FILE", help="write a steering vector (safetensors), in the model's own units")
    add("--patch", metavar="FILE.py", help="write a Python file that steers the model in plain transformers, and its vector beside it")
    add("--only", choices=("default", "steered"), help="one of the two texts")
    add("--chat", action="store_true", help="each prompt is a message of the user's, put as the tokenizer's chat template has it")
    add("--system", metavar="TEXT", help="with --chat: what the model is told before")
    add("--file", action="append", default=[], metavar="PATH", help="a file with a prompt; may be given again")
    add("--lines", action="store_true", help="each line of a file, or of standard input, is a prompt of its own")
    add("--tokens", dest="n_tokens", metavar="N", help="tokens of a text at most (60)")
    add("--temperature", metavar="T", help="0 takes the likeliest token (1)")
    add("--top-p", dest="top_p", metavar="P", help="share of the probability that tokens are drawn from (1)")
    add("--seed", metavar="N", help="one for both texts (0)")
    add("--positions", choices=("all", "last"), help="all: every token is pushed; last: from the last of the prompt on (all)")
    add("--dtype", choices=("float32", "bfloat16", "float16"), help="precision of the language model (float32)")
    add("--explain", metavar="NAME", help="explanations to take labels from (explain/9c0d); without it each latent's newest")
    add("--name", metavar="TEXT", help="what to call the recipe")
    add("--json", action="store_true", help="print texts, tokens, activations and meters as JSON")
    add("--quiet", action="store_true", help="print no text: only write files")
    flags, unknown = parser.parse_known_intermixed_args(_latents_joined(rest))
    if unknown:
        raise SpecError(f"{unknown[0]}, but saint steer has no such flag; saint steer --help lists them")
    for name, (kind, whole) in _NUMBERS.items():
        typed = getattr(flags, name)
        try:
            setattr(flags, name, None if typed is None else kind(typed))
        except ValueError:
            flag = "--tokens" if name == "n_tokens" else f"--{name.replace('_', '-')}"
            raise SpecError(f"{flag} = {typed!r}, but it is no {whole}number; write one") from None
    check_sampling(*(1.0 if typed is None else typed for typed in (flags.temperature, flags.top_p)), ("--temperature", "--top-p"))
    return flags, *words_apart(flags.words)


class _Parser(argparse.ArgumentParser):
    """One that tells what is wrong as all of SAINT does."""

    def error(self, message: str) -> NoReturn:
        raise SpecError(f"{self.prog}, but {message.removeprefix('argument ')}; {self.prog} --help tells how")


def _latents_joined(rest: list[str]) -> list[str]:
    """The words with ``--latent -3=2`` as one of them, which is no flag -3, but a mistake that can be told."""
    found: list[str] = []
    for word in rest:
        if found and found[-1] == "--latent" and re.match(r"-\d", word):
            found[-1] += f"={word}"
        else:
            found.append(word)
    return found


def _recipe(store: Store, flags: argparse.Namespace, words: list[str]) -> SteeringRecipe:
    """The recipe that the command means."""
    from flows.wishes import recipe_of
    from tasks.kinds import validated
    from tasks.steering.recipe import SteeringRecipe

    held = SteeringRecipe.load(flags.recipe) if flags.recipe else None
    if held is None and not (words and _SAE.fullmatch(words[0])):
        fact = f"the first word, {words[0]!r}, names no SAE" if words else "no SAE is named"
        raise SpecError(f'saint steer, but {fact}; as in saint steer train/3f2a "Once upon a time" --latent 17=0.8')
    if held and words and re.fullmatch(r"(train|adopt)/[0-9a-f]*", words[0]):
        raise SpecError(f"{words[0]}, but the recipe {flags.recipe!r} says which SAE it is; leave it out")
    prompts = _prompts(flags, words if held else words[1:])
    settings: dict[str, Any] = {name: value for name in _SETTINGS if (value := getattr(flags, name)) is not None}
    settings |= {"name": flags.name} if flags.name is not None else {}
    wishes = [wish_in(text) for text in flags.latent]
    if held is None:
        return recipe_of(store, [words[0]], wishes, prompts, explain=flags.explain, **settings)
    body = held.model_dump(mode="json") | settings | ({"prompts": prompts} if prompts else {})
    if wishes:
        first = held.saes[0].artifact
        other = recipe_of(store, [first], wishes, prompts or ["a"], explain=flags.explain).model_dump(mode="json")
        known = {sae["artifact"] for sae in body["saes"]}
        body["saes"] += [sae for sae in other["saes"] if sae["artifact"] not in known]
        new = {(push["sae"], push["latent"]) for push in other["pushes"]}
        body["pushes"] = [push for push in body["pushes"] if (push["sae"], push["latent"]) not in new] + other["pushes"]
    return validated(SteeringRecipe, body, "recipe")


def _prompts(flags: argparse.Namespace, words: Sequence[str]) -> list[Any]:
    from flows.inspecting import prompts_of

    if flags.system is not None and not flags.chat:
        raise SpecError("--system, but only a conversation has one; add --chat")
    if not words and not flags.file:
        if not flags.recipe:
            raise SpecError('saint steer, but there is no prompt; as in saint steer train/3f2a "Once upon a time" --latent 17=0.8')
        if flags.chat or flags.lines:
            raise SpecError(f"{'--chat' if flags.chat else '--lines'}, but it is about prompts, and none is given; give one, or drop it")
        return []
    texts = list(prompts_of(words, flags.file, flags.lines))
    if not texts:
        raise SpecError("--lines, but there is no line with a word in it; give another file")
    if not flags.chat:
        return texts
    before = [] if flags.system is None else [{"role": "system", "content": flags.system}]
    return [[*before, {"role": "user", "content": text}] for text in texts]


def wish_in(text: str) -> Wish:
    """A latent as typed: ``17=0.8``, ``17=0.8x2.5``, ``train/9b:30=-2:clamp``, ``17=ablate``. Raises ``SpecError``."""
    from typing import get_args

    from flows.wishes import Wish
    from tasks.steering.push import Mode

    modes = get_args(Mode)
    found = _LATENT.fullmatch(text.strip())
    if not found:
        raise SpecError(f"--latent {text}, but a latent is N=STRENGTH[:MODE], SAE: before another SAE's; as in 17=0.8, train/9b:30=1:clamp")
    if found["sae"] and not re.fullmatch(r"[a-z]+/[0-9a-f]+", found["sae"]):
        key = found["sae"].rpartition("/")[2]
        raise SpecError(f"--latent {text}, but {key!r} begins no key: keys are of 0 to 9 and a to f; as in train/9b:30=0.8")
    if (mode := found["alone"] or found["mode"] or "add") not in modes:
        raise SpecError(f"--latent {text}, but there is no mode {mode!r}; use one of {', '.join(modes)}")
    try:
        strength = 1.0 if found["alone"] else float(found["strength"])
        largest = None if found["largest"] is None else float(found["largest"])
    except ValueError:
        raise SpecError(f"--latent {text}, but its strength is no number; as in 17=0.8, 17=-0.5") from None
    return Wish(int(found["latent"]), strength, mode, largest, found["sae"])
