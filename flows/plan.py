"""The plan: what a run would find, what it would make, and what that would take. Reads the store; writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from artifacts.errors import ArtifactCorrupt
from artifacts.keys import canonical_json
from artifacts.store import Store
from flows.lineage import Held, refuse
from flows.ordering import Seen, lanes, missing
from flows.recipes import Wanted
from flows.sizes import Line, Sizes
from flows.sweep import Job, wanted
from tasks.realising import units
from tasks.stage import Recipe

_PAST = 20
"""Artifacts of a stage whose seconds are looked at."""


@dataclass
class Plan:
    """All stages of a run, or of all runs of a sweep together."""

    wanted: Wanted
    lines: list[Line]
    todo: list[Recipe]
    found: list[Recipe]
    """What exists, of all that the wanted rests on."""

    n_jobs: int = 1
    n_recipes: int = 0
    """Recipes of all jobs, before those of one key are counted once."""

    passes: int = 0
    """Times that a language model goes over the text: hookpoints of one model and one text share it."""

    reads: int = 0
    """Times that activations are read to train on them: SAEs that differ in nothing else share a read, up to
    ``runtime.saes_together`` of them."""

    @property
    def json(self) -> dict[str, Any]:
        """The same as documented JSON (README, "Output for scripts")."""
        todo = set(self.todo)
        working = [line for line in self.lines if line.missing]
        total: dict[str, Any] = {
            name: sum(getattr(line, name) or 0 for line in working) for name in ("bytes", "seconds", "usd")
        }
        if any(line.usd is None for line in working):
            total["usd"] = None
        if any(line.stage == "capture" and line.bytes is None for line in working):
            total["bytes"] = total["seconds"] = None
        return {
            "stages": [asdict(line) for line in self.lines],
            "artifacts": [
                {"stage": r.stage.name, "key": r.key, "missing": r in todo} for r in self.wanted.all()
            ],
            "missing": len(self.todo),
            "jobs": self.n_jobs,
            "recipes": self.n_recipes,
            "model_passes": self.passes,
            "training_reads": self.reads,
            "total": total,
        }


def plan(jobs: Sequence[Job]) -> Plan:
    """What running some jobs would take. Opens no socket, writes nothing."""
    union = wanted(jobs)
    store = jobs[0].pipeline.store
    seen = Seen(store)
    todo = missing(union.finals, store, seen)
    for recipe in todo:
        if isinstance(recipe, Held):
            refuse(recipe)
    to_make, every = set(todo), union.all()
    found = [r for r in every if r not in to_make and seen.has(r.artifact)]
    lines: dict[str, Line] = {}
    for recipe in every:
        line = lines.setdefault(recipe.stage.name, Line(recipe.stage.name, 0, 0, 0, 0))
        line.n += 1
        line.missing += recipe in to_make
    for recipe in found:
        lines[recipe.stage.name].cached += 1
    past, told = _past(store, todo), set[Recipe]()
    n_recipes = 0
    for job in jobs:
        whole = job.wanted.all()
        n_recipes += len(whole)
        mine = [r for r in whole if r in to_make and r not in told]
        told.update(mine)
        Sizes(job.pipeline, whole, mine).add(lines)
    for line in lines.values():
        line.skipped = line.n - line.cached - line.missing
        if line.missing and line.usd is None and line.stage not in ("explain", "score"):
            line.usd = 0.0
        if times := past.get(line.stage):
            line.seconds = round(sorted(times)[len(times) // 2] * line.missing, 1) if line.missing else None
    shared = reads(todo, jobs[0].pipeline.runtime.saes_together)
    return Plan(union, list(lines.values()), todo, found, len(jobs), n_recipes, passes(todo), shared)


def passes(todo: Sequence[Recipe]) -> int:
    """How often a model goes over the text, to make these: captures that differ only in hookpoint, split and shard are one."""
    return len({_pass(recipe) for recipe in todo if recipe.stage.name == "capture"})


def reads(todo: Sequence[Recipe], most: int) -> int:
    """How often activations are read, by one process, to train what is to be trained of these."""
    return sum(len(units(lane, most)) for lane in lanes([r for r in todo if r.stage.name == "train"]))


def _pass(recipe: Recipe) -> bytes:
    spec = {n: v for n, v in recipe.spec.payload().items() if n not in ("hookpoint", "split", "shard", "n_shards")}
    return canonical_json({"spec": spec, "inputs": recipe.input_keys})


def _past(store: Store, todo: Sequence[Recipe]) -> dict[str, list[float]]:
    """Seconds that artifacts of the stages to come took in this store; of each stage a few."""
    stages = {recipe.stage.name for recipe in todo}
    found: dict[str, list[float]] = {name: [] for name in stages}
    for artifact in store.artifacts() if stages else ():
        if artifact.stage not in stages or len(found[artifact.stage]) >= _PAST:
            continue
        try:
            manifest = store.find(artifact)
        except ArtifactCorrupt:
            continue  # not one of ours, or ``missing`` would have said so: saint verify tells
        if manifest is not None:
            by = manifest.made_by
            found[artifact.stage].append(by.get("seconds", 0.0) / by.get("together", 1))
    return found
