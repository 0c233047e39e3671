"""What the Steer tab's own HTML sends, checked, and what it comes to: latents that are turned, prompts, a recipe.

What stands in the browser is all there is: no visitor's latents or prompts are kept here, so that none sees another's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from flows.steered import open_recipe, sae_of
from flows.ui.state import State
from flows.wishes import address_of, described, described_lm
from tasks.kinds import validated
from tasks.spec import Spec, SpecError
from tasks.steering.push import Mode
from tasks.steering.recipe import Message, Prompt, SteeringRecipe, read

MOST_LATENTS, MOST_PROMPTS, MOST_TURNS = 16, 8, 32

MOST_CHARACTERS = 8000
"""Of all prompts together."""

MOST_TOKENS = 512
"""Of a text that is written."""

_MOST_SENT = 1 << 20
"""Characters of a list as it is sent."""

_USUAL = 0.5
"""Strength that a latent begins with."""

Kind = Literal["text", "chat"]


class Turned(Spec):
    """A latent in the list."""

    sae: str
    """As the page names it, ``train/3f2a9c01d4e5``."""

    latent: int = Field(ge=0)
    strength: float = _USUAL
    mode: Mode = "add"
    on: bool = True
    largest: float | None = Field(None, ge=0)
    """Largest activation, where a recipe gives one; None: as this store has it."""


_TURNED = TypeAdapter(tuple[Turned, ...])
_Said = Annotated[str, StringConstraints(max_length=MOST_CHARACTERS)]


class _Turn(Spec):
    role: Literal["system", "user", "assistant"]
    content: _Said


_PROMPTS = TypeAdapter(tuple[_Said | tuple[_Turn, ...], ...])


def turned_in(sent: str | None) -> list[Turned]:
    """The latents that the browser sent. Raises ``SpecError`` for too many, and for what it would not send."""
    found = list(_decoded(_TURNED, sent, "latents"))
    if len(found) > MOST_LATENTS:
        raise SpecError(f"{len(found)} latents, but this page turns at most {MOST_LATENTS} at once; remove some")
    return found


def prompts_in(sent: str | None) -> list[Prompt]:
    """The prompts that the browser sent. Raises ``SpecError`` for too many or too long ones, and for what it would not send."""
    found = _decoded(_PROMPTS, sent, "prompts")
    if len(found) > MOST_PROMPTS:
        raise SpecError(f"{len(found)} prompts, but this page goes on from at most {MOST_PROMPTS} at once; remove some")
    prompts: list[Prompt] = []
    for prompt in found:
        turns = () if isinstance(prompt, str) else prompt
        if len(turns) > MOST_TURNS:
            raise SpecError(f"a conversation of {len(turns)} turns, but this page takes at most {MOST_TURNS}; begin another")
        prompts.append(prompt if isinstance(prompt, str) else tuple(Message(role=t.role, content=t.content) for t in turns))
    n = sum(map(len, said_in(prompts)))
    if n > MOST_CHARACTERS:
        raise SpecError(f"prompts of {n:,} characters, but this page takes at most {MOST_CHARACTERS:,} in all; shorten them")
    return prompts


def said_in(prompts: Sequence[Prompt]) -> list[str]:
    """The texts of prompts, and of all turns of those that are conversations."""
    return [text for one in prompts for text in ([one] if isinstance(one, str) else [turn.content for turn in one])]


def _decoded(kind: TypeAdapter[Any], sent: str | None, what: str) -> Any:
    if not sent:
        return ()
    if len(sent) > _MOST_SENT:
        raise SpecError(f"{what}, but they are {len(sent):,} characters; shorten them")
    try:
        return kind.validate_json(sent)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        at, typed = first["loc"], str(first["input"])
        one = f"row {at[0] + 1} of the {what}" if at and isinstance(at[0], int) else what
        if first["type"] == "string_too_long":
            raise SpecError(f"{one} = {typed[:40]!r}..., but this page takes at most {MOST_CHARACTERS:,} characters; shorten it") from None
        if at[1:] in (("strength",), ("largest",)):
            typed = "" if first["input"] is None else typed[:40]
            raise SpecError(f"{at[1]} in {one} = {typed!r}, but that is no number it can be; write one such as {_USUAL}") from None
        raise SpecError(f"{one} = {typed[:40]!r}, but this page sends no such thing; load it again") from None


def added(state: State, held: Sequence[Turned], name: str, latent: int) -> list[Turned]:
    """The list with one more. Raises ``SpecError`` for one that is in it, cannot be turned, or is one too many."""
    index = state.index(name)
    index.check(latent)
    if any((one.sae, one.latent) == (name, latent) for one in held):
        raise SpecError(f"latent {latent}, but it is in the list; move its slider")
    if len(held) >= MOST_LATENTS:
        raise SpecError(f"latent {latent}, but this page turns at most {MOST_LATENTS} at once; remove one")
    if not index.max_N[latent] > 0:
        raise SpecError(f"latent {latent}, but it was never active, so that its strength has no measure; choose another")
    return [*held, Turned(sae=name, latent=latent)]


def blank(kind: Kind) -> Prompt:
    """A prompt to begin with."""
    return "" if kind == "text" else (Message(role="user", content=""),)


def of_kind(prompts: Sequence[Prompt], kind: Kind) -> list[Prompt]:
    """The same as texts, or as conversations; what cannot be kept of a conversation is its other turns."""
    found: list[Prompt] = []
    for prompt in prompts:
        if isinstance(prompt, str) == (kind == "text"):
            found.append(prompt)
        elif isinstance(prompt, str):
            found.append((Message(role="user", content=prompt),))
        else:
            found.append(next((turn.content for turn in reversed(prompt) if turn.role == "user"), ""))
    return found or [blank(kind)]


def recipe_of_form(
    state: State, turned: Sequence[Turned], prompts: Sequence[Prompt], shown: str, settings: dict[str, Any]
) -> SteeringRecipe:
    """The recipe of a form; ``shown`` is the SAE whose model is meant where nothing is turned. Raises ``SpecError``."""
    for i, prompt in enumerate(prompts, 1):
        if not isinstance(prompt, str) and not (prompt and prompt[-1].content.strip()):
            raise SpecError(f"prompt {i}, but its last turn is empty; write what is said")
    names = list(dict.fromkeys(one.sae for one in turned)) or [shown]
    lms = {state.sae(name).lm.artifact: name for name in names}
    if len(lms) > 1:
        said = ", ".join(f"{name} of {lm}" for lm, name in lms.items())
        raise SpecError(f"latents of {said}, but these are different language models; steer one model, and remove the others' latents")
    pushes = []
    for one in turned:
        index = state.index(one.sae)
        index.check(one.latent)
        known = float(index.max_N[one.latent])
        pushes.append({
            "sae": address_of(state.sae(one.sae).manifest), "latent": one.latent, "mode": one.mode,
            # 0 is off, whatever the mode; to ablate needs none
            "strength": 0.0 if not one.on else 1.0 if one.mode == "ablate" else one.strength,
            "largest": known if one.largest is None else one.largest, "label": index.label(one.latent)[:1000],
        })  # fmt: skip
    body = {
        "lm": described_lm(state.sae(names[0]).lm), "saes": [described(state.sae(name).manifest) for name in names], "pushes": pushes,
        "prompts": [p if isinstance(p, str) else [m.model_dump() for m in p] for p in prompts], "dtype": state.dtype, **settings,
    }  # fmt: skip
    recipe = validated(SteeringRecipe, body, "recipe")
    _check(recipe)
    return recipe


def form_of_recipe(state: State, text: bytes | str) -> tuple[SteeringRecipe, list[Turned]]:
    """A stranger's recipe, and its latents as the page lists them. Raises ``SpecError`` where this page cannot give its texts."""
    begins = text[:40].decode("utf-8", "replace") if isinstance(text, bytes) else text[:40]
    recipe = read(text, begins)
    if recipe.dtype != state.dtype:
        raise SpecError(f"recipe.dtype = {recipe.dtype!r}, but this page computes in {state.dtype}; start saint ui --dtype {recipe.dtype}")
    _check(recipe)
    prompts_in(json.dumps(recipe.model_dump(mode="json")["prompts"]))
    kinds = {isinstance(prompt, str) for prompt in recipe.prompts}
    if len(kinds) > 1:
        raise SpecError("recipe.prompts are texts and conversations, but this page shows one kind at a time; saint steer --recipe takes it")
    for text in said_in(recipe.prompts):
        if "\r" in text or "\0" in text:
            raise SpecError("recipe.prompts has carriage returns, but a field of a page holds none; saint steer --recipe takes it")
    open_recipe(recipe, state.models)  # that all it names is here, and is what it was
    names = {sae.artifact: str(sae_of(state.store, sae).artifact) for sae in recipe.saes}
    turned = []
    for push in recipe.pushes:
        name = names[push.sae]
        index = state.index(name)
        index.check(push.latent)  # whatever the recipe says of its SAE
        known = float(index.max_N[push.latent])
        off = push.strength == 0 and push.mode != "clamp"  # who clamps at 0 is to see that it is off, and what is not
        turned.append(Turned(
            sae=name, latent=push.latent, mode=push.mode, on=not off, largest=None if push.largest == known else push.largest,
            strength=_USUAL if off else push.strength,
        ))  # fmt: skip
    return recipe, turned


def _check(recipe: SteeringRecipe) -> None:
    if recipe.n_tokens > MOST_TOKENS:
        raise SpecError(f"recipe.n_tokens = {recipe.n_tokens}, but this page writes at most {MOST_TOKENS}; saint steer --recipe takes more")
    if len(recipe.pushes) > MOST_LATENTS:
        n = len(recipe.pushes)
        raise SpecError(f"recipe.pushes has {n} latents, but this page turns at most {MOST_LATENTS}; saint steer --recipe takes more")
