"""The plan: what a run would find, what it would make, and what that would take. Reads the store; writes nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from artifacts.errors import ArtifactCorrupt
from artifacts.store import Store
from flows.config import Pipeline
from flows.recipes import Wanted, recipes
from tasks.asking import parsed_latents, selected
from tasks.realising import missing
from tasks.stage import Recipe

_FLOPS = 5e10
"""FLOP/s that a small CPU keeps up, for a first guess where the store has no figures of this stage yet."""


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


@dataclass
class Plan:
    """All stages of a run."""

    wanted: Wanted
    lines: list[Line]
    todo: list[Recipe]

    @property
    def json(self) -> dict[str, Any]:
        """The same as documented JSON (README, "Output for scripts")."""
        total = {name: sum(getattr(line, name) or 0 for line in self.lines) for name in ("bytes", "seconds", "usd")}
        return {
            "stages": [asdict(line) for line in self.lines],
            "artifacts": [
                {"stage": r.stage.name, "key": r.key, "missing": r in set(self.todo)} for r in self.wanted.all()
            ],
            "missing": len(self.todo),
            "total": total,
        }


def plan(p: Pipeline) -> Plan:
    """What running a pipeline would take. Opens no socket, writes nothing."""
    wanted = recipes(p)
    every, todo = wanted.all(), missing(wanted.reports, p.store)
    lines: dict[str, Line] = {}
    for recipe in every:
        line = lines.setdefault(recipe.stage.name, Line(recipe.stage.name, 0, 0, 0, 0))
        line.n += 1
        if recipe in set(todo):
            line.missing += 1
        elif p.store.find(recipe.artifact) is not None:
            line.cached += 1
        else:
            line.skipped += 1
    sizes = _Sizes(p, p.store, every)
    for line in lines.values():
        if line.missing:
            line.n_tokens, line.bytes, line.seconds, line.usd = sizes.of(line)
    return Plan(wanted, list(lines.values()), todo)


class _Sizes:
    """Expected tokens, bytes, seconds and dollars per stage."""

    def __init__(self, p: Pipeline, store: Store, every: list[Recipe]) -> None:
        self.p, self.facts = p, p.lm.facts()
        corpus = store.find(every[0].artifact)
        self.n_chars = corpus.summary["n_chars"] if corpus else p.corpus.expected_chars()
        self.d_in = self.facts.d_model if self.facts else None
        self.past: dict[str, list[float]] = {}
        for artifact in store.artifacts():
            try:
                manifest = store.find(artifact)
            except ArtifactCorrupt:
                continue  # not one of ours, or ``missing`` would have said so: saint verify tells
            if manifest is not None:
                self.past.setdefault(artifact.stage, []).append(manifest.made_by.get("seconds", 0.0))

    def of(self, line: Line) -> tuple[int | None, int | None, float | None, float | None]:
        n_tokens, size, flops = getattr(self, f"_{line.stage}", lambda line: (None, None, None))(line)
        past = sorted(self.past.get(line.stage, []))
        seconds = None
        if past:
            seconds = past[len(past) // 2] * line.missing
        elif flops is not None:
            seconds = flops / _FLOPS
        usd = self._usd(line) if line.stage in ("explain", "score") else 0.0
        return n_tokens, size, seconds and round(seconds, 1), usd

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
        from tasks.capture import expected

        if self.facts is None or self.n_chars is None:
            return None, None, None
        found = [
            expected(self.n_chars, self.facts, self.p.capture.model_copy(update={"hookpoint": h, "max_tokens": None}))
            for h in self.p.hookpoints
        ]
        share = self._share(line)
        n_tokens, size = sum(f.n_tokens for f in found) * share, sum(f.n_bytes for f in found) * share
        if self.p.capture.max_tokens is not None:
            most = self.p.capture.max_tokens * line.missing
            size, n_tokens = size * min(1.0, most / max(1.0, n_tokens)), min(n_tokens, most)
        return round(n_tokens), round(size), max(f.flops for f in found) * share  # one pass serves all hookpoints

    def _train(self, line: Line) -> tuple[Any, Any, Any]:
        if self.d_in is None:
            return None, None, None
        n_latents, n_tokens = self.p.sae.size(self.d_in), self.p.train.n_tokens * line.missing
        return n_tokens, 8 * n_latents * self.d_in * line.missing, 4.0 * self.d_in * n_latents * n_tokens

    def _mine_shard(self, line: Line) -> tuple[Any, Any, Any]:
        if self.d_in is None or self.n_chars is None:
            return None, None, None
        n_tokens = round(self.n_chars / 4 * self._share(line))
        return n_tokens, None, 8.0 * self.d_in * self.p.sae.size(self.d_in) * n_tokens

    def _usd(self, line: Line) -> float | None:
        client = self.p.client
        if client is None or self.d_in is None or (line.stage == "explain" and not self.p.explainer.NEEDS_CLIENT):
            return 0.0
        from tasks.clients.base import Request

        chosen = parsed_latents(self.p.explain.get("latents", "all"))
        n_latents = len(selected(chosen, self.p.sae.size(self.d_in)))
        # Five characters a token, JSON around each: what a prompt of this many windows comes to.
        windows = self.p.mine.n_top + self.p.mine.n_quantile + self.p.mine.n_random
        text = "x" * (2000 + windows * self.p.mine.window_tokens * 10)
        one = client.estimate([Request(system="", user=text, max_tokens=400)]).usd
        times = 1 if line.stage == "explain" else 2 * line.missing if self.p.score.get("control", True) else line.missing
        return None if one is None else round(one * n_latents * times, 2)
