"""Stages and recipes. Calling a stage is lazy: it returns a ``Recipe`` whose key is known at once.

A stage is a plain function from a ``Job`` to a summary::

    @stage("normalise", version=1)
    def normalise(job: Job[NormaliseSpec]) -> Summary:
        shards = job.many("shards")
        ...
        return {"n_rows": n}

    recipe = normalise(NormaliseSpec(norm=norm), shards=[shard_0, shard_1])     # no work is done here

A stage that makes several artifacts in one pass (one shard, many hookpoints) says in which field of its spec
those differ, ``together="hookpoint"``, and gets an iterator of units instead of one job. One that can do without some of
its artifacts puts what went wrong into their jobs' ``failure``, and makes the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from artifacts.keys import Artifact, Key, key_of, recipe_json
from tasks.progress import Progress
from tasks.spec import Runtime, Spec

if TYPE_CHECKING:
    from artifacts.journal import Journal
    from artifacts.store import Attempt, Opened

S = TypeVar("S", bound=Spec)
Summary = dict[str, Any]
"""Small JSON figures of an artifact (counts, losses), kept in its manifest for ``saint ls`` and ``show``."""

Input = "Recipe | Sequence[Recipe]"


@dataclass
class Job(Generic[S]):
    """One artifact in the making, as a stage's function sees it."""

    recipe: Recipe
    spec: S
    inputs: Mapping[str, Any]
    """Input name to ``Opened`` (or to a tuple of them): ``.path`` is a folder of files, ``.summary`` its figures."""

    attempt: Attempt
    """Write files under ``attempt.path``; all that lies there at the end becomes the artifact."""

    runtime: Runtime
    progress: Progress
    journal: Journal
    summary: Summary = field(default_factory=dict)
    failure: Exception | None = None
    """Why this artifact cannot be made, where that is no reason not to make the others of its unit."""

    @property
    def out(self) -> Path:
        """The folder to write to."""
        return self.attempt.path

    def one(self, name: str) -> Opened:
        """The input of that name, which is a single artifact."""
        return self.inputs[name]

    def many(self, name: str) -> tuple[Opened, ...]:
        """The inputs of that name, in order; a single one is all there is."""
        found = self.inputs[name]
        return found if isinstance(found, tuple) else (found,)


Unit = tuple[Job, ...]
"""Jobs of one pass: equal but for the field named by ``together``."""


@dataclass(frozen=True)
class Stage:
    """A named, versioned function that makes artifacts. Bump ``version`` when the same spec would mean other bytes."""

    name: str
    version: int
    run: Callable[..., Any]
    together: str | None = None
    at_most: str | None = None
    """The field of the runtime that bounds how many artifacts one pass makes; without it, a pass makes all there are. Passes
    with a bound spread over the processes that work side by side."""

    tags: tuple[str, ...] = ()
    """What it needs, for limits and lanes: ``gpu``, ``llm``."""

    def __call__(self, spec: Spec, **inputs: Any) -> Recipe:
        frozen = {
            name: value if isinstance(value, Recipe) else tuple(value) for name, value in sorted(inputs.items())
        }
        return Recipe(self, spec, frozen)


def stage(
    name: str, *, version: int, together: str | None = None, at_most: str | None = None, tags: Iterable[str] = ()
) -> Callable[[Callable[..., Any]], Stage]:
    """Make a lazy stage of a function."""

    def decorate(run: Callable[..., Any]) -> Stage:
        return Stage(name, version, run, together, at_most, tuple(tags))

    return decorate


@dataclass(frozen=True, eq=False)
class Recipe:
    """A stage, a spec and inputs: what an artifact is made from, and so what it is called."""

    stage: Stage
    spec: Spec
    inputs: Mapping[str, Recipe | tuple[Recipe, ...]]

    @cached_property
    def key(self) -> Key:
        """SHA-256 of stage name, stage version, spec and input keys."""
        return key_of(self.stage.name, self.stage.version, self.spec.payload(), self.input_keys)

    @cached_property
    def artifact(self) -> Artifact:
        """The address of what this recipe makes."""
        return Artifact(self.stage.name, self.key)

    @property
    def address(self) -> str:
        """``stage/key``, the whole key: as JSON names it."""
        return f"{self.stage.name}/{self.key}"

    @cached_property
    def input_keys(self) -> dict[str, Any]:
        """Input names to ``stage/key`` strings, or lists of them."""
        return {
            name: value.address if isinstance(value, Recipe) else [item.address for item in value]
            for name, value in self.inputs.items()
        }

    @property
    def json(self) -> dict[str, Any]:
        """What the key hashes; lies beside the hash in the manifest, so that ``saint why`` can print a difference."""
        return recipe_json(self.stage.name, self.stage.version, self.spec.payload(), self.input_keys)

    def parents(self) -> Iterator[Recipe]:
        """The recipes of the inputs, in order."""
        for value in self.inputs.values():
            if isinstance(value, Recipe):
                yield value
            else:
                yield from value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.artifact == other.artifact

    def __hash__(self) -> int:
        return hash(self.artifact)

    def __repr__(self) -> str:
        return f"<{self.artifact}>"
