"""What ``saint survey`` and ``saint probe`` are made of: what was typed, and what a store has of an SAE. Each makes one artifact."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

from artifacts.keys import Artifact
from artifacts.manifest import Manifest
from artifacts.store import Opened, Store
from flows.belongings import lm_of, manifests, sae_named, said_of
from flows.console import display
from flows.lineage import Held, addressed, recipe_of
from flows.looking import store_of
from tasks.kinds import validated
from tasks.probe import ProbeSpec, check_site, probe
from tasks.spec import Runtime, Spec, SpecError
from tasks.stage import Recipe
from tasks.survey import SurveySpec, survey


class Asked:
    """What was typed after a command: an SAE, fields of the stage's spec, the store."""

    def __init__(self, command: str, about: str, rest: list[str], spec: type[Spec], names: Sequence[str] = ()) -> None:
        """``names`` are further settings that are no field. Raises ``SpecError`` for what is neither."""
        fields = "\n".join(f"  {n}={info.default}  {' '.join((info.description or '').split())}" for n, info in spec.model_fields.items())
        parser = argparse.ArgumentParser(
            prog=f"saint {command}", description=about, allow_abbrev=False, epilog=f"settings:\n{fields}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        parser.add_argument("--json", action="store_true", help="print as JSON")
        parser.add_argument("words", nargs="*", metavar="SAE | name=value", help="an SAE of the store (train/3f2a, adopt/9b1c); settings")
        flags = parser.parse_intermixed_args(rest)
        self.json: bool = flags.json
        saes = [word for word in flags.words if "=" not in word]
        if len(saes) != 1:
            raise SpecError(f"saint {command} takes one SAE, but {len(saes)} are named; name one (saint ls train)")
        overrides = [word for word in flags.words if "=" in word]
        places = [word for word in overrides if word.startswith(("backend", "runtime"))]
        self.words = dict(word.split("=", 1) for word in overrides if word not in places)
        own = {name: _value(text) for name, text in self.words.items() if name not in names}
        if odd := [name for name in own if name not in spec.model_fields]:
            known = ", ".join([*names, *spec.model_fields, "backend...", "runtime..."])
            raise SpecError(f"{odd[0]}={self.words[odd[0]]}, but saint {command} takes {known}; use one of them")
        self.spec: Any = validated(spec, own, command)
        self.store = store_of(places)
        self.sae = sae_named(self.store, saes[0])
        self._places = places

    def made(self, recipe: Recipe) -> Opened:
        """The artifact, made here and now if it is not there."""
        if self.store.find(recipe.artifact) is None:
            from flows.composing import composed
            from flows.realise import StageFailed, realise

            runtime = validated(Runtime, composed(self._places)["runtime"], "runtime")
            self.store.backend.check_writable()
            begun = time.monotonic()
            try:
                with display() as shown:
                    realise([recipe], self.store, runtime, shown)
            except StageFailed as error:
                raise (error.__cause__ or error) from None
            if not self.json:
                print(f"made in {time.monotonic() - begun:,.1f} s")
        return self.store.open(recipe.artifact)


def _value(text: str) -> Any:
    """What was typed for a setting: a number, a word of JSON, or text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def to_survey(store: Store, sae: Manifest, name: str | None, spec: SurveySpec) -> Recipe:
    """The survey of an SAE with all that a store has of it; ``name`` is of another, to match it with. Raises ``SpecError``."""
    inputs = _known(store, sae)
    if name is not None:
        other = sae_named(store, name)
        if other.artifact == sae.artifact:
            raise SpecError(f"with = {name}, but that is {sae.artifact} itself; name another SAE")
        _check_widths(sae, other, name)
        theirs = _known(store, other)
        _pair(inputs, theirs)
        inputs |= {"other": theirs.pop("sae"), **{f"other_{name}": recipe for name, recipe in theirs.items()}}
    return survey(spec, **inputs)


def _known(store: Store, sae: Manifest) -> dict[str, Any]:
    """The inputs of a survey that a store has of an SAE: ``sae``, ``fires``, ``encoded``, ``explain``."""
    own, seen = f"{sae.artifact.stage}/{sae.artifact.key}", dict[Artifact, Recipe]()
    every = [m for m in manifests(store, ("mine", "evaluate", "encode")) if m.inputs.get("sae") == own]
    inputs: dict[str, Any] = {"sae": recipe_of(store, sae.artifact, seen)}
    for stage in ("mine", "evaluate"):  # windows are of more tokens
        if of_it := [m for m in every if m.artifact.stage == stage]:
            inputs["fires"] = recipe_of(store, of_it[-1].artifact, seen)
            break
    caches = [m for m in every if m.artifact.stage == "encode" and m.summary.get("split") == "train"]
    if caches:
        caches.sort(key=lambda m: (str(m.inputs["shard"]), m.artifact))
        inputs["encoded"] = [recipe_of(store, m.artifact, seen) for m in caches]
    if said := said_of(store, sae).explain:
        inputs["explain"] = [recipe_of(store, addressed(address), seen) for address in said]
    return inputs


def _pair(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Keep of latent caches those of tokens that both have, in one order; of tokens that only one has, its own."""
    texts = [{_text(recipe): recipe for recipe in side.pop("encoded", [])} for side in (ours, theirs)]
    both = [text for text in texts[0] if text in texts[1]]
    if both:
        ours["encoded"], theirs["encoded"] = ([side[text] for text in both] for side in texts)
    elif texts[0]:
        ours["encoded"] = list(texts[0].values())


def _text(encoded: Recipe) -> str:
    """What tells on which tokens a latent cache is: its capture, but for the hookpoint."""
    shard = encoded.inputs.get("shard")
    capture = shard[0] if isinstance(shard, tuple) else shard
    if not isinstance(capture, Recipe) or isinstance(capture, Held):
        return str(encoded.input_keys.get("shard", encoded.address))
    return json.dumps([{**capture.spec.payload(), "hookpoint": ""}, capture.input_keys], sort_keys=True)


def _check_widths(sae: Manifest, other: Manifest, name: str) -> None:
    """Raise ``SpecError`` early, where manifests tell that rows are not of one width."""
    widths = [m.summary.get("d_out", m.summary.get("d_in")) for m in (sae, other)]
    if None not in widths and widths[0] != widths[1]:
        raise SpecError(
            f"with = {name}, but {other.artifact} writes rows of {widths[1]} numbers and {sae.artifact} rows of {widths[0]}; "
            "name an SAE of the same model and width"
        )


def to_probe(store: Store, sae: Manifest, spec: ProbeSpec) -> Recipe:
    """The probe of an SAE on activations that a store knows. Raises ``SpecError``."""
    check_site(sae.summary.get("hookpoint", ""), str(sae.artifact))
    seen: dict[Artifact, Recipe] = {}
    inputs: dict[str, Any] = {
        "sae": recipe_of(store, sae.artifact, seen),
        "lm": recipe_of(store, lm_of(store, sae), seen),
        "shards": _captures(store, sae, spec.hold_out == "documents", seen),
    }
    if said := said_of(store, sae).explain:
        inputs["explain"] = [recipe_of(store, addressed(address), seen) for address in said]
    return probe(spec, **inputs)


def _captures(store: Store, sae: Manifest, test: bool, seen: dict[Artifact, Recipe]) -> list[Recipe]:
    """Captures of an SAE's hookpoint that a store knows, of split train and, if asked for, of split test.

    Those that it was trained on, or that it was encoded on. Raises ``SpecError`` where there are none.
    """
    own = f"{sae.artifact.stage}/{sae.artifact.key}"
    known = [recipe for recipe in recipe_of(store, sae.artifact, seen).inputs.get("shards", ()) if not isinstance(recipe, Held)]
    for manifest in manifests(store, ("encode", "evaluate")):
        if manifest.inputs.get("sae") == own:
            found = recipe_of(store, manifest.artifact, seen).inputs
            several = found.get("shards") or (found["shard"],)
            known += [recipe for recipe in several if not isinstance(recipe, Held)]
    known = sorted(set(known), key=lambda recipe: recipe.address)
    train = [recipe for recipe in known if recipe.spec.split == "train"]
    tests = [recipe for recipe in known if recipe.spec.split == "test"]
    if test and train and not tests:  # as a run would make it
        at = {"split": "test", "shard": 0, "n_shards": 1}
        tests = [train[0].stage(train[0].spec.model_copy(update=at), **train[0].inputs)]
    if not train:
        raise SpecError(
            f"{sae.artifact}, but this store knows no activations of its hookpoint any more; saint explain {sae.artifact} makes some"
        )
    return train + (tests if test else [])
