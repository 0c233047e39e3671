"""From an artifact of a store back to its recipe, and on through its inputs, as manifests tell them.

A manifest holds stage, version, spec and inputs: all that a recipe is. So whatever such a recipe rests on can be made again
by it, under the same key. Where a manifest is gone, or from another version of SAINT, what it names is held by its address
alone: that will do while it exists, or while nothing needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn, get_args

from pydantic import ValidationError

from artifacts.errors import ArtifactNotFound
from artifacts.keys import Artifact, Key
from artifacts.manifest import Manifest
from artifacts.store import Store
from tasks.adopt import AdoptSpec, adopt
from tasks.amplify import AmplifySpec, amplify
from tasks.analyse import AnalyseSpec, analyse
from tasks.capture import CaptureSpec, capture
from tasks.corpus import CorpusSpec, corpus
from tasks.encode import EncodeSpec, encode
from tasks.evaluate import EvaluateSpec, evaluate
from tasks.explain import ExplainSpec, explain
from tasks.kinds import decode, spec_class
from tasks.mine import MineSpec, mine
from tasks.normalise import NormaliseSpec, normalise
from tasks.probe import ProbeSpec, probe
from tasks.provide import ProvideSpec, provide
from tasks.score import ScoreSpec, score
from tasks.spec import Spec, SpecError
from tasks.stage import Job, Recipe, Stage, Summary
from tasks.survey import SurveySpec, survey
from tasks.train import TrainSpec, train


def revived(cls: type[Spec], payload: Mapping[str, Any]) -> Any:
    """A spec from what it hashed. Raises ``SpecError`` and pydantic's errors when there is no such spec any more."""
    fields = {**cls.KEEPS_KEY, **payload}
    for name, info in cls.model_fields.items():
        if name in fields:
            fields[name] = _value(_spec_in(info.annotation), fields[name])
    return cls.model_validate(fields)


def _value(cls: type[Spec] | None, value: Any) -> Any:
    if cls is None or isinstance(value, Spec):
        return value
    if isinstance(value, (list, tuple)):
        return tuple(_value(cls, item) for item in value)
    if isinstance(value, Mapping):
        package, _, module = cls.__module__.rpartition(".")
        return revived(spec_class(package, value["kind"]) if module == "base" else cls, value)
    return value


def _spec_in(annotation: Any) -> type[Spec] | None:
    """The spec class in an annotation such as ``tuple[Scorer, ...]`` or ``Client | None``."""
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _spec_in(inner)) is not None), None)


_STAGES: dict[str, tuple[Stage, Callable[[Mapping[str, Any]], Spec]]] = {
    found.name: (found, revive)
    for found, revive in (
        (corpus, lambda payload: CorpusSpec(corpus=decode("tasks.corpora", payload))),
        (provide, lambda payload: ProvideSpec(lm=decode("tasks.lms", payload))),
        (normalise, lambda payload: NormaliseSpec(norm=decode("tasks.norms", payload))),
        (capture, partial(revived, CaptureSpec)),
        (train, partial(revived, TrainSpec)),
        (adopt, partial(revived, AdoptSpec)),
        (evaluate, partial(revived, EvaluateSpec)),
        (encode, partial(revived, EncodeSpec)),
        (mine, partial(revived, MineSpec)),
        (amplify, partial(revived, AmplifySpec)),
        (explain, partial(revived, ExplainSpec)),
        (score, partial(revived, ScoreSpec)),
        (analyse, partial(revived, AnalyseSpec)),
        (survey, partial(revived, SurveySpec)),
        (probe, partial(revived, ProbeSpec)),
    )
}  # fmt: skip
"""Stage to what makes its spec of what it hashed."""


class Held(Recipe):
    """An artifact that is known by its address alone, and cannot be made again."""

    def __init__(self, artifact: Artifact, why: str) -> None:
        super().__init__(Stage(artifact.stage, 0, _unmakeable), Spec(), {})
        self.__dict__.update(key=artifact.key, artifact=artifact, why=why)

    why: str
    """Why it cannot be made again."""


def _unmakeable(job: Job[Spec]) -> Summary:
    raise SpecError(lacking(job.recipe))


def lacking(recipe: Recipe) -> str:
    """The sentence about what is needed, gone, and not to be made again."""
    why = recipe.why if isinstance(recipe, Held) else "it is gone"
    return (
        f"{recipe.artifact} is needed, but {why}; make the SAE anew with saint run, or name an artifact that rests on less"
    )


def recipe_of(store: Store, artifact: Artifact, seen: dict[Artifact, Recipe] | None = None) -> Recipe:
    """The recipe that an artifact was made by, with those of all it rests on."""
    seen = {} if seen is None else seen
    if artifact not in seen:
        manifest = store.find(artifact)
        seen[artifact] = (
            Held(artifact, "neither it nor its recipe is in this store any more") if manifest is None
            else _recipe(store, manifest, seen)
        )  # fmt: skip
    return seen[artifact]


def _recipe(store: Store, manifest: Manifest, seen: dict[Artifact, Recipe]) -> Recipe:
    artifact = manifest.artifact
    if artifact.stage not in _STAGES:
        return Held(artifact, f"this version of saint has no stage {artifact.stage!r}")
    made_by, revive = _STAGES[artifact.stage]
    if made_by.version != manifest.version:
        return Held(artifact, f"it was made by version {manifest.version} of its stage, and this is version {made_by.version}")
    try:
        spec = revive(manifest.spec)
    except (SpecError, ValidationError, KeyError, TypeError) as error:
        return Held(artifact, f"this version of saint cannot read its settings ({' '.join(str(error).split())[:120]})")
    recipe = made_by(spec, **inputs_of(store, manifest, seen))
    if recipe.key != artifact.key:
        return Held(artifact, "another version of saint made it, with settings that this one does not know")
    return recipe


def inputs_of(store: Store, manifest: Manifest, seen: dict[Artifact, Recipe] | None = None) -> dict[str, Any]:
    """Name to recipe, or to a tuple of them, of what an artifact was made from."""
    seen = {} if seen is None else seen
    return {
        name: recipe_of(store, addressed(value), seen) if isinstance(value, str)
        else tuple(recipe_of(store, addressed(item), seen) for item in value)
        for name, value in manifest.inputs.items()
    }  # fmt: skip


def addressed(address: str) -> Artifact:
    """The artifact of ``stage/key``, the whole key."""
    stage, _, key = address.rpartition("/")
    return Artifact(stage, Key(key))


def manifest_of(store: Store, artifact: Artifact) -> Manifest:
    """A manifest that must be there. Raises ``ArtifactNotFound``."""
    found = store.find(artifact)
    if found is None:
        raise ArtifactNotFound(f"{artifact} does not exist, but it is needed; run the stage that makes it")
    return found


def refuse(recipe: Recipe) -> NoReturn:
    """Raise the ``SpecError`` about an artifact that cannot be made."""
    raise SpecError(lacking(recipe))
