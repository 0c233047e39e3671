"""What ``saint explain`` and ``saint score`` are to end with: part of a pipeline, on an SAE that a store may have already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from artifacts.errors import ArtifactCorrupt
from artifacts.keys import Artifact
from artifacts.manifest import Manifest
from artifacts.store import Store
from flows.config import Pipeline, pipeline
from flows.lineage import Held, addressed, inputs_of, manifest_of, recipe_of
from flows.recipes import Wanted, asking, captured, flat, page, recipes, windows
from tasks.capture import capture
from tasks.choosing import counted, parsed_latents
from tasks.corpus import CorpusSpec, corpus
from tasks.evaluate import evaluate
from tasks.lm.sites import Sites, grouped
from tasks.lms.base import Facts, LMSpec
from tasks.spec import SpecError
from tasks.stage import Recipe

TAKES = {command: ("train", "adopt", "mine", "explain") for command in ("explain", "score")}
"""Command to the stages of which it takes an artifact."""

_ABOVE = {
    "train": {"corpus", "lm", "norm", "sae", "capture", "train"},
    "adopt": {"lm", "norm", "sae", "train"},
    "mine": {"corpus", "lm", "norm", "sae", "capture", "train", "mine"},
    "explain": {"corpus", "lm", "norm", "sae", "capture", "train", "mine", "explainer", "explain"},
}
"""Stage of a named artifact to the sections of the configuration that are settled by it."""


@dataclass(frozen=True)
class Goal:
    """A command, and the artifact that it begins with."""

    command: str
    """``explain``, ``score`` or ``import``."""

    address: str | None = None
    """``stage/key`` of an SAE, of its windows, or of explanations; null makes what the pipeline wants."""

    report: bool = False
    """Also the whole report, for which the SAE is evaluated."""

    @property
    def json(self) -> dict[str, Any]:
        return {"command": self.command, "address": self.address, "report": self.report}

    @property
    def artifact(self) -> Artifact | None:
        return None if self.address is None else addressed(self.address)

    @property
    def settled(self) -> str:
        """Up to which stage all is settled; the windows of explanations serve another explainer as well."""
        stage = "" if self.artifact is None else self.artifact.stage
        return "mine" if stage == "explain" and self.command == "explain" else stage

    def check(self, overrides: Sequence[str]) -> None:
        """Raise ``SpecError`` for an override of what is settled already."""
        for override in overrides:
            name = override.lstrip("+~").partition("=")[0]
            section = name.partition(".")[0].partition("@")[0]
            if section in _ABOVE.get(self.settled, ()) or (self.settled == "adopt" and name == "capture.hookpoints"):
                raise SpecError(
                    f"{override}, but {self.artifact} is made already and has its own; leave it out, or give no name to make another"
                )


@dataclass(frozen=True)
class Source:
    """What a named artifact gives to begin with."""

    sae: Recipe
    lm: Recipe
    mined: Recipe | None
    shards: tuple[Recipe, ...]
    """Captures of the train split, at all of its hookpoints; none where their recipes are gone."""

    explained: Recipe | None
    n_latents: int
    hookpoint: str


def pipeline_of(config: Mapping[str, Any], goal: Goal | None) -> Pipeline:
    """The typed pipeline of a configuration and a goal: what is settled is as the store has it. Raises ``SpecError``."""
    if goal is None or goal.artifact is None:
        return pipeline(config)
    p = pipeline(config, given=goal.settled)
    source = source_of(p, goal)
    if goal.settled == "explain":
        spec = manifest_of(p.store, goal.artifact).spec
        p = replace(p, explain={**p.explain, "latents": spec["latents"]})
        if source.explained is not None and not isinstance(source.explained, Held):
            p = replace(p, explainer=source.explained.spec.explainer)
    else:
        counted(parsed_latents(p.explain.get("latents", "all")), source.n_latents)
        p.explainer.check(source.n_latents, source.sae.address)
    counted(parsed_latents(p.score.get("latents", "all"), "score.latents"), source.n_latents, "score.latents")
    more: dict[str, Any] = {"lm": Unknown(), "hookpoints": (source.hookpoint,)}
    trained = source.sae.artifact.stage == "train" and not isinstance(source.sae, Held)
    shape = source.sae.spec.sae if trained else p.sae
    more["sae"] = shape.model_copy(update={"n_latents": source.n_latents, "expansion_factor": None})
    if trained:
        more["train"] = source.sae.spec
    if source.shards and not isinstance(source.shards[0], Held):
        more["capture"] = source.shards[0].spec
        if not isinstance(text := source.shards[0].inputs["corpus"], Held):
            more["corpus"] = text.spec.corpus
    if (made := p.store.find(source.lm.artifact)) is not None:
        more["lm"] = Unknown(known={n: made.summary.get(n) for n in Facts._fields})
    return replace(p, **more)


class Unknown(LMSpec):
    """A language model of which a plan knows what its artifact says."""

    known: dict[str, Any] | None = None

    def facts(self) -> Facts | None:
        known = self.known or {}
        return Facts(**known) if known.get("n_layers") and known.get("d_model") else None


def wanted(p: Pipeline, goal: Goal | None) -> Wanted:
    """What a job wants: all of its pipeline, or what its command is to end with."""
    if goal is None:
        return recipes(p)
    if goal.command == "score" and not p.scorers:
        raise SpecError("scorers = [], but saint score needs one at least; use scorers=[detection]")
    each = recipes(p).named if goal.artifact is None else dict([_named(p, goal)])
    final = "report" if goal.report else {"explain": "explain", "score": "analyse", "import": "train"}[goal.command]
    found = Wanted()
    for hookpoint, named in each.items():
        rests = {recipe.artifact for recipe in Wanted([named[final]]).all()}
        found.finals.append(named[final])
        found.named[hookpoint] = {name: recipe for name, recipe in named.items() if recipe.artifact in rests}
    return found


def _named(p: Pipeline, goal: Goal) -> tuple[str, dict[str, Recipe]]:
    """Hookpoint, and stage name to recipe, of what begins with a named artifact."""
    source = source_of(p, goal)
    sae, lm, mined, test = source.sae, source.lm, source.mined, None
    if source.shards:
        sites = Sites.parse(source.hookpoint)
        training = grouped(source.shards, sites.hookpoints, lambda recipe: recipe.spec.hookpoint)
        at = {"split": "test", "shard": 0, "n_shards": 1}
        test = tuple(capture(one.spec.model_copy(update=at), **one.inputs) for one in training[0])
    if mined is None:
        assert test is not None, "an SAE without windows has its captures, or source_of would have raised"
        mined = windows(p, lm, sae, sites, [*training, test])
    given = {"lm": lm, "sae": sae} | ({} if test is None else {"corpus": test[0].inputs["corpus"]})
    named = {"lm": lm, "train": sae, "mine": mined, **asking(p, given, mined, source.explained)}
    if goal.report:
        if test is None:
            raise SpecError(
                f"--report, but the activations that {sae.artifact} was trained on are gone, with the recipe to make them again, "
                "and a report evaluates the SAE on more of them; leave it out"
            )
        named |= {"corpus": test[0].inputs["corpus"], "evaluate": evaluate(p.evaluate, lm=lm, sae=sae, shards=list(test))}
        named["report"] = page(p, named)
    return source.hookpoint, named


def source_of(p: Pipeline, goal: Goal) -> Source:
    """What a goal's artifact rests on, as far as the store tells. Raises ``SpecError`` where that is not enough."""
    store, artifact = p.store, goal.artifact
    assert artifact is not None
    explained = mined = None
    seen: dict[Artifact, Recipe] = {}
    if artifact.stage == "explain":
        explained = recipe_of(store, artifact, seen) if goal.command == "score" else None
        artifact = addressed(manifest_of(store, artifact).inputs["mine"])
    if artifact.stage == "mine":
        mined, manifest = recipe_of(store, artifact, seen), store.find(artifact)
    else:
        manifest = _windows_of(p, artifact, seen)
        mined = None if manifest is None else recipe_of(store, manifest.artifact, seen)
    if manifest is not None:
        inputs = inputs_of(store, manifest, seen)
        sae, lm = inputs["sae"], inputs["lm"]
    elif artifact.stage in ("train", "adopt"):
        sae = recipe_of(store, artifact, seen)
        lm = _captures(p, artifact, seen)[0].inputs["lm"]
    else:
        raise SpecError(
            f"{goal.artifact}, but the windows that it rests on ({artifact}) are gone and with them which SAE they were of; "
            "name the SAE itself (saint ls train)"
        )
    shards = _captures(p, sae.artifact, seen, manifest) if store.find(sae.artifact) is not None else ()
    summary = _summary(store, sae, mined)
    return Source(sae, lm, mined, shards, explained, summary["n_latents"], summary["hookpoint"])


def _summary(store: Store, sae: Recipe, mined: Recipe | None) -> dict[str, Any]:
    for recipe in (sae, mined):
        if recipe is not None and (manifest := store.find(recipe.artifact)) is not None:
            return {"hookpoint": "", **manifest.summary}
    raise SpecError(f"{sae.artifact} is needed, but neither it nor the windows of it are in this store; make it with saint run")


def _captures(
    p: Pipeline, sae: Artifact, seen: dict[Artifact, Recipe], windows: Manifest | None = None
) -> tuple[Recipe, ...]:
    """The captures that an SAE was trained on; none where their recipes are gone.

    One that was adopted was trained on none: its are those that its windows were cut from, else the pipeline's own.
    """
    inputs = inputs_of(p.store, manifest_of(p.store, sae), seen)
    if sae.stage != "adopt":
        found = inputs.get("shards", ())
        return () if any(isinstance(shard, Held) for shard in found) else found
    sites = Sites.parse(manifest_of(p.store, sae).summary["hookpoint"])
    if windows is None:
        return tuple(flat(captured(p, sites, "train", p.capture.n_shards, corpus(CorpusSpec(corpus=p.corpus)), inputs["lm"])))
    encoded = inputs_of(p.store, windows, seen)["encoded"]
    read = [one.inputs.get("shard") for one in encoded if not isinstance(one, Held)]
    first = [one[0] if isinstance(one, tuple) else one for one in read]
    if len(first) < len(encoded) or any(one is None or isinstance(one, Held) for one in first):
        return ()
    of_split = [one for one in first if one is not None and one.spec.split == "train"]
    return tuple(capture(one.spec.model_copy(update={"hookpoint": h}), **one.inputs) for one in of_split for h in sites.hookpoints)


def _windows_of(p: Pipeline, sae: Artifact, seen: dict[Artifact, Recipe]) -> Manifest | None:
    """Windows of an SAE whose own captures nobody knows how to make any more; None where they can be made.

    Raises ``SpecError`` where there are none either.
    """
    store = p.store
    if _captures(p, sae, seen):
        return None
    for artifact in store.artifacts():
        if artifact.stage == "mine":
            try:
                manifest = store.find(artifact)
            except ArtifactCorrupt:
                continue
            same = manifest is not None and manifest.inputs.get("sae") == f"{sae.stage}/{sae.key}"
            if same and manifest is not None and manifest.spec == p.mine.payload():
                return manifest
    raise SpecError(
        f"{sae}, but the activations it was trained on are gone, with the recipe to make them again, and this store has no "
        "windows of it under these settings of mine; name windows that there are (saint ls mine), or make all anew with saint run"
    )


