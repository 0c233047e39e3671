"""What a job has to make, stage by stage: tokens, bytes, seconds and dollars expected. Of what is not known, None."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from flows.config import Pipeline
from flows.costs import usd
from flows.lineage import Held
from tasks.capture import expected
from tasks.choosing import counted, parsed_latents
from tasks.lm.sites import Sites
from tasks.lms.base import Facts
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

    unpriced: bool = False
    """Whether a part of it has no price."""


def _sum(one: Any, other: Any) -> Any:
    return other if one is None else one if other is None else one + other


class Sizes:
    """Expected tokens, bytes, seconds and dollars of what one job has to make."""

    def __init__(self, p: Pipeline, every: list[Recipe], todo: list[Recipe]) -> None:
        self.p, self.facts, self.every, self.todo = p, p.lm.facts(), every, todo
        text = next((recipe for recipe in every if recipe.stage.name == "corpus"), None)
        corpus = p.store.find(text.artifact) if text else None
        self.n_chars = corpus.summary["n_chars"] if corpus else p.corpus.expected_chars()
        self.sites = [Sites.parse(hookpoint) for hookpoint in p.hookpoints if hookpoint]
        self.n = Counter(recipe.stage.name for recipe in every)

    def add(self, lines: dict[str, Line]) -> None:
        """Add this job's figures to the lines of their stages; one unknown figure makes a sum unknown."""
        for stage, n in Counter(recipe.stage.name for recipe in self.todo).items():
            line, share = lines[stage], Line(stage, self.n[stage], 0, n, 0)
            n_tokens, size, flops = getattr(self, f"_{stage}", lambda line: (None, None, None))(share)
            cost = self._usd(stage) if stage in ("explain", "score") else 0.0
            line.n_tokens = _sum(line.n_tokens, n_tokens)
            line.bytes = _sum(line.bytes, size)
            if flops is not None:
                line.seconds = _sum(line.seconds, round(flops / _FLOPS, 1))
            if cost is None:
                line.usd, line.unpriced = None, True
            elif not line.unpriced:
                line.usd = round((line.usd or 0.0) + cost, 4)

    def _shapes(self) -> list[tuple[int, int, int]] | None:
        """Of each SAE, the numbers that it reads and writes and how many latents it has; None where that is not known."""
        if self.facts is None:
            return None
        found = []
        for sites in self.sites:
            d_in, d_out = sites.widths(self.facts)
            if d_in is None or d_out is None:
                return None
            found.append((d_in, d_out, self.p.sae.size(d_in)))
        return found or None

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
            return round(self._n_tokens() * len(self._captured) * self._share(line)), None, None
        found = [
            expected(self.n_chars, self.facts, self.p.capture.model_copy(update={"hookpoint": h, "max_tokens": None}))
            for h in self._captured
        ]
        share, kept = self._share(line), self._n_tokens() * len(found) / max(1, sum(f.n_tokens for f in found))
        n_tokens, size, flops = (
            share * kept * whole
            for whole in (
                sum(f.n_tokens for f in found),
                sum(f.n_bytes for f in found),
                max(f.flops for f in found),  # one pass serves all hookpoints
            )
        )
        return round(n_tokens), round(size), flops

    @property
    def _captured(self) -> list[str]:
        """Hookpoints, each once."""
        return list(dict.fromkeys(h for sites in self.sites for h in sites.hookpoints))

    def _n_tokens(self) -> int:
        """Tokens of all text."""
        facts = self.facts or Facts("a model", n_layers=1, d_model=1)
        text = self.p.capture.model_copy(update={"hookpoint": "layers.0", "max_tokens": None})
        n = expected(self.n_chars or 0, facts, text).n_tokens
        if self.p.capture.max_tokens is not None:
            n = min(n, self.p.capture.max_tokens * (self.p.capture.n_shards + 2))
        return n

    def _train(self, line: Line) -> tuple[Any, Any, Any]:
        n_tokens, shapes = self.p.train.n_tokens * line.missing, self._shapes()
        if shapes is None:
            return n_tokens, None, None
        n_weights = sum((d_in + d_out) * n_latents for d_in, d_out, n_latents in shapes) * line.missing / line.n
        return n_tokens, round(4 * n_weights), 4.0 * n_weights / 2 * self.p.train.n_tokens

    def _encode(self, line: Line) -> tuple[Any, Any, Any]:
        if self.n_chars is None:
            return None, None, None
        n_tokens, shapes = round(self._n_tokens() * self._share(line)), self._shapes()
        k = getattr(self.p.sae, "k", None)  # kinds that fix how many latents are active say what the cache comes to
        size = None if k is None else n_tokens * len(self.sites) * (8 * k + 12)
        if shapes is None:
            return n_tokens * len(self.sites), size, None
        return n_tokens * len(self.sites), size, sum(2.0 * d_in * n_latents * n_tokens for d_in, _, n_latents in shapes)

    def _amplify(self, line: Line) -> tuple[Any, Any, Any]:
        shapes = self._shapes()
        if self.facts is None or shapes is None:
            return None, None, None
        n_tokens = 0
        for spec in (recipe.spec for recipe in self.todo if recipe.stage.name == "amplify"):
            n_latents = counted(parsed_latents(spec.latents), shapes[0][2])
            n_prompts = len(spec.prompts) + spec.n_window_prompts
            tries = 1 if spec.strength is not None else 1 + spec.max_tries // 2
            n_tokens += n_latents * n_prompts * (4 * tries + spec.n_tokens)  # prompts have about four
        return n_tokens, None, 24.0 * n_tokens * self.facts.n_layers * self.facts.d_model**2

    def _usd(self, stage: str) -> float | None:
        """Expected cost of what is to be explained or scored; None where the number of latents is not known yet."""
        asking = [r for r in self.every if r.stage.name == stage and not isinstance(r, Held) and r.spec.client is not None]
        left = set(self.todo)
        todo, answered = ([recipe for recipe in asking if (recipe in left) == wanted] for wanted in (True, False))
        if not todo:
            return 0.0
        shapes = self._shapes()
        if shapes is None and self.p.sae.n_latents is None:
            return None
        return usd(self.p, todo, shapes[0][2] if shapes else self.p.sae.size(0), answered)
