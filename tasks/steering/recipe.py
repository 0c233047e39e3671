"""A steering recipe: everything that a steered text depends on, as one small JSON file to hand on.

It names its language model and SAEs by their addresses in a store, which are hashes of how they were made, and the SAEs
also by a digest of their weights, since what a GPU makes twice is not the same twice. What is read is a stranger's:
sizes are bounded, numbers finite, and nothing is obeyed but what is said here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, StringConstraints, Tag, model_validator

from tasks.kinds import validated
from tasks.spec import Spec, SpecError
from tasks.steering.push import Mode, Positions, Push, check_once
from tasks.steering.sampling import MAX_TEMPERATURE

FORMAT, VERSION = "saint-steering", 1

MAX_BYTES = 1 << 22
"""Of a file."""

_SAID = 400
"""Characters of an error, which repeats what was typed."""

MAX_TOKENS, MAX_PROMPTS, MAX_PUSHES = 4096, 64, 256

_Text = Annotated[str, StringConstraints(max_length=100_000)]
_Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
_Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Message(Spec):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: _Text


Prompt = Annotated[
    Annotated[_Text, Tag("text")] | Annotated[tuple[Message, ...], Field(min_length=1, max_length=64), Tag("messages")],
    Discriminator(lambda value: "text" if isinstance(value, str) else "messages"),
]
"""What the model goes on from: a text, or a conversation, for models whose tokenizer has a chat template."""


class RecipeLM(Spec):
    """The language model."""

    artifact: Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,40}/[0-9a-f]{64}$")]
    """Its address in a store, ``provide/KEY``."""

    name: _Name
    """For people."""


class RecipeSAE(Spec):
    """One SAE."""

    artifact: Annotated[str, StringConstraints(pattern=r"^(train|adopt)/[0-9a-f]{64}$")]
    """Its address in a store, ``train/KEY`` or ``adopt/KEY``; also its name among the pushes."""

    hookpoint: Annotated[str, StringConstraints(max_length=2000)]
    n_latents: int = Field(ge=1)

    digest: _Hex
    """SHA-256 of ``sae.safetensors``."""


class RecipePush(Spec):
    """One latent, and how far it is turned; see ``tasks.steering.push.Push``."""

    sae: _Name
    """``artifact`` of one of the SAEs."""

    latent: int = Field(ge=0)

    strength: float
    """Multiple of ``largest``; 0 is off."""

    mode: Mode = "add"

    largest: float = Field(ge=0)
    """The latent's largest observed activation, in units of the SAE's values."""

    label: Annotated[str, StringConstraints(max_length=1000)] = ""
    """What the latent was said to mean when the recipe was written. For people."""

    @property
    def push(self) -> Push:
        """What it is to the model."""
        return Push(self.latent, self.strength, self.largest, self.mode, self.sae)


class SteeringRecipe(Spec):
    """A language model, what is turned in it, what it goes on from, and how its tokens are drawn."""

    format: Literal["saint-steering"] = "saint-steering"
    version: Literal[1] = 1
    name: Annotated[str, StringConstraints(max_length=200)] = ""
    """For people."""

    lm: RecipeLM
    saes: tuple[RecipeSAE, ...] = Field(min_length=1, max_length=64)
    pushes: tuple[RecipePush, ...] = Field((), max_length=MAX_PUSHES)
    """None: the model as it is."""

    prompts: tuple[Prompt, ...] = Field(min_length=1, max_length=MAX_PROMPTS)
    n_tokens: int = Field(60, ge=1, le=MAX_TOKENS)
    """Of a text at most; it ends earlier where the model ends it, or reads no more."""

    temperature: float = Field(1.0, ge=0, le=MAX_TEMPERATURE)
    """0 takes the likeliest token."""

    top_p: float = Field(1.0, gt=0, le=1)
    """Share of the probability that tokens are drawn from; 1: all of it."""

    seed: int = Field(0, ge=-(2**63), lt=2**63)
    positions: Positions = "all"
    """``all``: every token is pushed but special ones; ``last``: from the last token of the prompt on."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the language model."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        sizes = {sae.artifact: sae.n_latents for sae in self.saes}
        if len(sizes) < len(self.saes):
            raise SpecError("recipe.saes names an SAE twice, but pushes are told apart by it; name each once")
        for i, push in enumerate(self.pushes):
            where = f"recipe.pushes.{i}"
            if push.sae not in sizes:
                raise SpecError(f"{where}.sae = {push.sae[:80]!r}, but recipe.saes has no such artifact; name one of {', '.join(sizes)}")
            if push.latent >= sizes[push.sae]:
                raise SpecError(f"{where}.latent = {push.latent}, but the SAE has latents 0 to {sizes[push.sae] - 1}; use one of them")
        check_once((push.push for push in self.pushes), "recipe.pushes")
        return self

    def text(self) -> str:
        """The file's text."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=True, allow_nan=False) + "\n"

    def save(self, path: str | Path) -> Path:
        """Write the file; returns where."""
        where = Path(path).expanduser()
        where.write_text(self.text(), "utf-8")
        return where

    @staticmethod
    def load(path: str | Path) -> SteeringRecipe:
        """Read a file. Raises ``SpecError`` for what is no recipe of this version."""
        where = Path(path).expanduser()
        if not where.is_file():
            raise SpecError(f"recipe = {str(path)!r}, but there is no such file; saint steer --save writes one")
        with where.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise SpecError(f"recipe = {str(path)!r}, but it is larger than {MAX_BYTES >> 20} MiB, and no recipe is; name another file")
        return read(data, str(path))


def read(data: bytes | str | dict[str, Any], where: str = "recipe") -> SteeringRecipe:
    """The recipe that a file, or something pasted, holds. Raises ``SpecError``, in one sentence."""
    body: Any = data
    if not isinstance(data, dict):
        try:
            body = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise SpecError(f"recipe = {where!r}, but it is no JSON ({str(error)[:80]}); saint steer --save writes a recipe") from None
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise SpecError(f"recipe = {where!r}, but it is no steering recipe (format {FORMAT}); saint steer --save writes one")
    version = body.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version != VERSION:
        newer = isinstance(version, int) and version > VERSION
        what = "take a newer SAINT" if newer else "write it again with saint steer --save"
        raise SpecError(f"recipe.version = {str(version)[:40]}, but this SAINT reads version {VERSION}; {what}")
    try:
        return validated(SteeringRecipe, body, "recipe")
    except SpecError as error:
        said = str(error)
        raise SpecError(said if len(said) <= _SAID else f"{said[: _SAID // 2]} ... {said[-_SAID // 2 :]}") from None
