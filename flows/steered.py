"""Steering recipes at work: from a file, or from what was typed, to the texts with and without, in three lines.

    from flows.api import load_recipe
    recipe = load_recipe("her.json")                # finds the SAEs and their model in the store
    print(recipe.run().steered)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from artifacts.keys import Artifact
from artifacts.manifest import Manifest
from artifacts.store import Store
from flows.belongings import FILE, lm_of, manifests
from flows.lineage import addressed
from flows.models import Models
from tasks.spec import Runtime, SpecError
from tasks.steering.recipe import Prompt, RecipeSAE, SteeringRecipe

if TYPE_CHECKING:
    from tasks.steering.push import Row, Watched
    from tasks.steering.subject import Subject
    from tasks.steering.writing import Writing, Written

Side = Literal["default", "steered"]

WEIGHTS = "sae.safetensors"
"""The file of an SAE's artifact that a recipe has a digest of."""


def sae_of(store: Store, wanted: RecipeSAE) -> Manifest:
    """The artifact with the weights that a recipe means: under its address, else wherever in the store they are.

    Raises ``SpecError`` where they are nowhere, or are not of what the recipe says.
    """
    artifact = addressed(wanted.artifact)
    own = store.find(artifact)
    if own is not None and _digest(own) == wanted.digest:
        return _as_said(wanted, own)
    for manifest in manifests(store, ("train", "adopt")):
        if any(file.path == FILE for file in manifest.files) and _digest(manifest) == wanted.digest:
            return _as_said(wanted, manifest)
    fact = (
        "it is not in this store" if own is None
        else f"its weights here have digest {_digest(own)[:12]}..., not {wanted.digest[:12]}..., so that its latents mean something else"
    )  # fmt: skip
    raise SpecError(f"recipe.saes names {artifact} at {wanted.hookpoint}, but {fact}; {_how(artifact)}, or saint import the same files")


def _as_said(wanted: RecipeSAE, manifest: Manifest) -> Manifest:
    for name in ("hookpoint", "n_latents"):
        said, own = getattr(wanted, name), manifest.summary[name]
        if said != own:
            raise SpecError(
                f"recipe.saes.{name} = {repr(said)[:80]}, but {manifest.artifact}, which has these weights, has {own!r}; write that, or "
                "make the recipe again (saint steer --save)"
            )
    return manifest


def _how(artifact: Artifact) -> str:
    """How an artifact comes from another store."""
    return f"copy {artifact.stage}/{artifact.key[:2]}/{artifact.key} from a store that has it into this one"


def _digest(manifest: Manifest) -> str:
    return next((file.digest for file in manifest.files if file.path == WEIGHTS), "")


@dataclass(frozen=True)
class Told:
    """One prompt, and what followed."""

    prompt: Prompt
    default: Written | None
    steered: Written | None

    @property
    def warnings(self) -> list[str]:
        """Sentences about what looks like too strong a push."""
        from tasks.steering.meters import warnings

        return [] if self.steered is None else list(warnings(self.steered, self.default))


@dataclass(frozen=True)
class Steered:
    """The texts of a recipe."""

    recipe: SteeringRecipe
    watched: tuple[Watched, ...]
    """SAE and latent of each column of ``Written.activation_TL``: the latents pushed."""

    told: tuple[Told, ...]
    """By prompt."""

    words: Sequence[str]
    """Text of each token id."""

    @property
    def default(self) -> str | list[str]:
        """What the model says by itself; a list where there are several prompts."""
        return self._texts("default")

    @property
    def steered(self) -> str | list[str]:
        """What it says when it is steered, from the same draws."""
        return self._texts("steered")

    def _texts(self, side: Side) -> str | list[str]:
        found = [one.text if (one := getattr(each, side)) else "" for each in self.told]
        return found[0] if len(found) == 1 else found

    @property
    def json(self) -> dict[str, Any]:
        """All of it in plain data."""
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "watched": [{"sae": name, "latent": latent} for name, latent in self.watched],
            "prompts": [
                {
                    "prompt": prompt,
                    **{side: None if one is None else self._plain(one) for side, one in sides},
                    "warnings": each.warnings,
                }
                for each, prompt in zip(self.told, self.recipe.model_dump(mode="json")["prompts"], strict=True)
                for sides in [(("default", each.default), ("steered", each.steered))]
            ],
        }

    def _plain(self, one: Written) -> dict[str, Any]:
        first = len(one.row.prompt.token_id)
        rows = zip(one.token_ids, one.activation_TL[first:].tolist(), one.growth_T[first:].tolist(), strict=False)
        return {
            "text": one.text,
            "repetition": one.repetition,
            "growth": one.growth,
            "tokens": [{"token": self.words[i], "activations": value, "growth": growth} for i, value, growth in rows],
        }


@dataclass(frozen=True)
class OpenRecipe:
    """A recipe with its model and SAEs."""

    recipe: SteeringRecipe
    models: Models
    found: Mapping[str, Artifact]
    """The SAEs' artifacts in this store, by the address that the recipe gives."""

    @cached_property
    def subject(self) -> Subject:
        from tasks.steering.subject import Subject

        lm = self.models.lm(addressed(self.recipe.lm.artifact), self.recipe.dtype)
        held = {name: self.models.sae(artifact) for name, artifact in self.found.items()}
        return Subject(lm, next(iter(held.values())), self.models.runtime.lm_batch_tokens, held)

    @property
    def watched(self) -> tuple[Watched, ...]:
        """The latents that are pushed, each once."""
        return tuple(dict.fromkeys((push.sae, push.latent) for push in self.recipe.pushes))

    def rows(self, side: Side) -> list[Row]:
        """A row for each prompt. Raises ``SpecError`` for a prompt that the model cannot go on from."""
        from tasks.steering.prompts import beginnings
        from tasks.steering.push import Row

        pushes = () if side == "default" else tuple(push.push for push in self.recipe.pushes)
        # equal prompts are told apart by their draws, or they would be continued alike
        seen: dict[bytes, int] = {}
        rows = []
        for context in beginnings(self.subject.lm, self.recipe.prompts):
            sample = seen[name] = seen.get(name := context.token_id.tobytes(), -1) + 1
            rows.append(Row(context, pushes, sample))
        return rows

    def write(self, sides: Sequence[Side] = ("default", "steered")) -> Writing:
        """Begin: rows of all prompts for each side, which go on together. See ``Subject.write``."""
        recipe = self.recipe
        return self.subject.write(
            [row for side in sides for row in self.rows(side)], recipe.n_tokens, temperature=recipe.temperature,
            top_p=recipe.top_p, seed=recipe.seed, positions=recipe.positions, watched=self.watched,
        )  # fmt: skip

    def told(self, writing: Writing, sides: Sequence[Side] = ("default", "steered")) -> Steered:
        """What has been written so far."""
        n = len(self.recipe.prompts)
        by_side = {side: writing.rows[i * n : (i + 1) * n] for i, side in enumerate(sides)}
        told = tuple(
            Told(prompt, *(by_side[side][i] if side in by_side else None for side in ("default", "steered")))
            for i, prompt in enumerate(self.recipe.prompts)
        )
        return Steered(self.recipe, self.watched, told, self.models.words(addressed(self.recipe.lm.artifact), self.recipe.dtype))

    def stream(self, sides: Sequence[Side] = ("default", "steered")) -> Iterator[Steered]:
        """The texts so far, after every token; close it to stop."""
        writing = self.write(sides)
        try:
            for _ in writing:
                yield self.told(writing, sides)
            yield self.told(writing, sides)  # with what the last tokens evoke
        finally:
            writing.close()

    def run(self, sides: Sequence[Side] = ("default", "steered")) -> Steered:
        """The texts, to their end."""
        writing = self.write(sides)
        writing.finish()
        return self.told(writing, sides)


def open_recipe(recipe: SteeringRecipe, models: Models) -> OpenRecipe:
    """A recipe with what it names, found in the store. Raises ``SpecError`` for what is missing, or is not what was meant."""
    found = {sae.artifact: sae_of(models.store, sae) for sae in recipe.saes}
    wanted = addressed(recipe.lm.artifact)
    said = f"recipe.lm = {recipe.lm.name!r} ({wanted})"
    if models.store.find(wanted) is None:
        raise SpecError(f"{said}, but it is not in this store; {_how(wanted)}, or give saint run that model (lm=hf lm.path=DIR) here")
    for name, manifest in found.items():
        try:
            lm = lm_of(models.store, manifest)
        except SpecError:  # what it was trained on is not here: then the recipe is all that tells
            continue
        if lm != wanted:
            raise SpecError(
                f"{said}, but {addressed(name)} is an SAE of {lm} here; a recipe is of one language model, so make one of that SAE "
                "(saint steer --save)"
            )
    return OpenRecipe(recipe, models, {name: manifest.artifact for name, manifest in found.items()})


def load_recipe(
    recipe: str | Path | Mapping[str, Any] | SteeringRecipe, store: str | Path | Store | None = None, *, device: str = "auto"
) -> OpenRecipe:
    """A recipe, from a file or as plain data, with what it names in a store; for ``store`` see ``flows.api.open_sae``.

    Raises ``SpecError`` for what is no recipe, and for a model or SAE that is not in the store, saying how to get it there.
    """
    from flows.places import store_at
    from tasks.steering.recipe import read

    if isinstance(recipe, Mapping):
        recipe = read(dict(recipe))
    elif not isinstance(recipe, SteeringRecipe):
        recipe = SteeringRecipe.load(recipe)
    held = store if isinstance(store, Store) else store_at(store)
    return open_recipe(recipe, Models(held, Runtime(mode="inline", device=device)))
