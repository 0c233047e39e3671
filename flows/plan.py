"""The plan: what a run would find, what it would make, and what that would take. Reads the store; writes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from artifacts.errors import ArtifactCorrupt
from artifacts.keys import canonical_json
from artifacts.store import Store
from flows.config import Pipeline
from flows.costs import usd
from flows.lineage import Held, refuse
from flows.recipes import Wanted
from flows.sweep import Job, wanted
from tasks.capture import expected
from tasks.choosing import counted, parsed_latents
from tasks.lms.base import Facts
from tasks.realising import Seen, missing
from tasks.stage import Recipe

_FLOPS = 5e10
"""FLOP/s that a small CPU keeps up, for a first guess where the store has no figures of this stage yet."""

_PAST = 20
"""Artifacts of a stage whose seconds are looked at."""


@dataclass
class Line:
    """A stage in the plan."""

    stage: str
    n: int
    """Artifacts of it in the DAG."""

    cached: int
    missing: int
    skipped: int
    """Gone or never made, and not needed: what rests on them exists."""

    n_tokens: int | None = None
    bytes: int | None = None
    seconds: float | None = None
    """Expected; of earlier runs in this store where there are any, else a guess from FLOPs."""

    usd: float | None = None
    """Expected; None where no price is known."""

    unpriced: bool = False
    """Whether a part of it has no price."""


def _sum(one: Any, other: Any) -> Any:
    return other if one is None else one if other is None else one + other


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
        _Sizes(job.pipeline, whole, mine).add(lines)
    for line in lines.values():
        line.skipped = line.n - line.cached - line.missing
        if line.missing and line.usd is None and line.stage not in ("explain", "score"):
            line.usd = 0.0
        if times := past.get(line.stage):
            line.seconds = round(sorted(times)[len(times) // 2] * line.missing, 1) if line.missing else None
    return Plan(union, list(lines.values()), todo, found, len(jobs), n_recipes, passes(todo))


def passes(todo: Sequence[Recipe]) -> int:
    """How often a model goes over the text, to make these: captures that differ only in hookpoint, split and shard are one."""
    return len({_pass(recipe) for recipe in todo if recipe.stage.name == "capture"})


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
            found[artifact.stage].append(manifest.made_by.get("seconds", 0.0))
    return found


class _Sizes:
    """Expected tokens, bytes, seconds and dollars of what one job has to make."""

    def __init__(self, p: Pipeline, every: list[Recipe], todo: list[Recipe]) -> None:
        self.p, self.facts, self.todo = p, p.lm.facts(), todo
        text = next((recipe for recipe in every if recipe.stage.name == "corpus"), None)
        corpus = p.store.find(text.artifact) if text else None
        self.n_chars = corpus.summary["n_chars"] if corpus else p.corpus.expected_chars()
        self.d_in = self.facts.d_model if self.facts else None
        self.n = Counter(recipe.stage.name for recipe in every)

    def add(self, lines: dict[str, Line]) -> None:
        """Add this job's figures to the lines of their stages; one unknown figure makes a sum unknown."""
        for stage, n in Counter(recipe.stage.name for recipe in self.todo).items():
            line, share = lines[stage], Line(stage, self.n[stage], 0, n, 0)
            n_tokens, size, flops = getattr(self, f"_{stage}", lambda line: (None, None, None))(share)
            usd = self._usd(share) if stage in ("explain", "score") else 0.0
            line.n_tokens = _sum(line.n_tokens, n_tokens)
            line.bytes = _sum(line.bytes, size)
            if flops is not None:
                line.seconds = _sum(line.seconds, round(flops / _FLOPS, 1))
            if usd is None:
                line.usd, line.unpriced = None, True
            elif not line.unpriced:
                line.usd = round((line.usd or 0.0) + usd, 2)

    def _share(self, line: Line) -> float:
        return line.missing / line.n

    def _lm(self, line: Line) -> tuple[Any, Any, Any]:
        spec = self.p.lm
        if self.facts is None or not spec.NEEDS_CORPUS:
            return None, None, 0.0
        n_tokens = getattr(spec, "n_steps", 0) * getattr(spec, "batch_contexts", 0) * (self.facts.context_length or 0)
        d, vocabulary = self.facts.d_model, self.facts.vocab_size or 0
        parameters = 12 * self.facts.n_layers * d * d + d * vocabulary
        return n_tokens, 4 * parameters, 6.0 * n_tokens * parameters

    def _capture(self, line: Line) -> tuple[Any, Any, Any]:
        if self.n_chars is None:
            return None, None, None
        if self.facts is None:
            return round(self._n_tokens() * self._share(line)), None, None
        found = [
            expected(self.n_chars, self.facts, self.p.capture.model_copy(update={"hookpoint": h, "max_tokens": None}))
            for h in self.p.hookpoints
        ]
        share, kept = self._share(line), self._n_tokens() / max(1, sum(f.n_tokens for f in found))
        n_tokens, size, flops = (
            share * kept * whole
            for whole in (
                sum(f.n_tokens for f in found),
                sum(f.n_bytes for f in found),
                max(f.flops for f in found),  # one pass serves all hookpoints
            )
        )
        return round(n_tokens), round(size), flops

    def _n_tokens(self) -> int:
        """Tokens of all text, once for each hookpoint."""
        facts = self.facts or Facts("a model", n_layers=1, d_model=1)
        text = self.p.capture.model_copy(update={"hookpoint": "layers.0", "max_tokens": None})
        n = expected(self.n_chars or 0, facts, text).n_tokens
        if self.p.capture.max_tokens is not None:
            n = min(n, self.p.capture.max_tokens * (self.p.capture.n_shards + 2))
        return n * len(self.p.hookpoints)

    def _train(self, line: Line) -> tuple[Any, Any, Any]:
        n_tokens = self.p.train.n_tokens * line.missing
        if self.d_in is None:
            return n_tokens, None, None
        n_latents = self.p.sae.size(self.d_in)
        return n_tokens, 8 * n_latents * self.d_in * line.missing, 4.0 * self.d_in * n_latents * n_tokens

    def _encode(self, line: Line) -> tuple[Any, Any, Any]:
        if self.n_chars is None:
            return None, None, None
        n_tokens = round(self._n_tokens() * self._share(line))
        k = getattr(self.p.sae, "k", None)  # kinds that fix how many latents are active say what the cache comes to
        size = None if k is None else n_tokens * (8 * k + 12)
        if self.d_in is None:
            return n_tokens, size, None
        return n_tokens, size, 2.0 * self.d_in * self.p.sae.size(self.d_in) * n_tokens

    def _amplify(self, line: Line) -> tuple[Any, Any, Any]:
        if self.facts is None or self.d_in is None:
            return None, None, None
        n_tokens = 0
        for spec in (recipe.spec for recipe in self.todo if recipe.stage.name == "amplify"):
            n_latents = counted(parsed_latents(spec.latents), self.p.sae.size(self.d_in))
            n_prompts = len(spec.prompts) + spec.n_window_prompts
            tries = 1 if spec.strength is not None else 1 + spec.max_tries // 2
            n_tokens += n_latents * n_prompts * (4 * tries + spec.n_tokens)  # prompts have about four
        return n_tokens, None, 24.0 * n_tokens * self.facts.n_layers * self.d_in**2

    def _usd(self, line: Line) -> float | None:
        """Expected cost of what is to be explained or scored; None where the number of latents is not known yet."""
        todo = [recipe for recipe in self.todo if recipe.stage.name == line.stage and recipe.spec.client is not None]
        if not todo:
            return 0.0
        if self.d_in is None and self.p.sae.n_latents is None:
            return None
        found = usd(self.p, todo, self.p.sae.size(self.d_in or 0))
        return None if found is None else round(found, 2)
