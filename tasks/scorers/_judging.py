"""What scorers share that have windows judged one by one: which windows, packed how, read how.

The same windows in the same order are put to the judge for every explanation of a latent, so that explanations, and
the blind control, differ in nothing else. Draws come from generators of their own, named by seed, latent and purpose.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from random import Random
from typing import Any, ClassVar

from pydantic import Field

from tasks.clients.base import Reply, Request
from tasks.explainers.base import Explanation, LatentExamples, Window, printable
from tasks.scorers.base import Answer, Bench, Score, Scorer, balanced_accuracy

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"answers": {"type": "array", "items": {"type": "boolean"}}},
    "required": ["answers"],
    "additionalProperties": False,
}


def generator(seed: int, latent: int, purpose: str) -> Random:
    """A random generator that depends on nothing but these, here and everywhere."""
    return Random(f"{seed}/{latent}/{purpose}")


class Judged(Scorer):
    """Shows test windows to a judge, some at a time, and asks of each whether the explanation fits."""

    n_positive: int = Field(20, ge=1)
    """Activating windows judged per latent, drawn evenly from all quantiles."""

    n_negative: int = Field(20, ge=1)
    """Non-activating windows judged per latent: half near misses, half random, as far as there are."""

    windows_per_request: int = Field(10, ge=1)
    """Windows in one question. More cost less and blur the judge's eye."""

    min_windows: int = Field(5, ge=1)
    """Windows of each class without which there is no score."""

    max_tokens: int = Field(1024, ge=1)
    """Most tokens of an answer, thinking included."""

    SYSTEM: ClassVar[str]

    def show(self, windows: Sequence[Window], examples: LatentExamples, seed: int) -> list[Any]:
        """What the judge sees of each window, as JSON."""
        raise NotImplementedError

    def judged_by_rule(self, explanation: Explanation) -> bool:
        """Whether the explanation's predicate answers in the judge's place."""
        return False

    def chosen(self, examples: LatentExamples, seed: int) -> list[Window]:
        """The test windows to judge, shuffled; empty when there are too few of a class."""
        draw = generator(seed, examples.latent, "windows")
        positive = _evenly(examples.test(activating=True), self.n_positive, draw)
        negative = _halves(examples.test(activating=False), self.n_negative, draw)
        if min(len(positive), len(negative)) < self.min_windows:
            return []
        both = positive + negative
        draw.shuffle(both)
        return both

    def requests(self, explanation: Explanation, examples: LatentExamples, seed: int) -> list[Request]:
        if explanation.status != "ok" or self.judged_by_rule(explanation):
            return []
        shown = self.show(self.chosen(examples, seed), examples, seed)
        return [
            Request(self.SYSTEM, _question(explanation.label, part), SCHEMA, self.max_tokens)
            for part in packed(shown, self.windows_per_request)
        ]

    def score(
        self,
        replies: list[Reply],
        explanation: Explanation,
        examples: LatentExamples,
        seed: int,
        bench: Bench | None = None,
    ) -> Score:
        if explanation.status != "ok":
            return Score(examples.latent, "no_explanation")
        windows = self.chosen(examples, seed)
        if not windows:
            return Score(examples.latent, "too_few_examples")
        if self.judged_by_rule(explanation):
            from tasks.predicates import holds

            assert explanation.predicate is not None
            return scored(examples.latent, windows, [holds(explanation.predicate, w) for w in windows], "ok")
        parts = packed(windows, self.windows_per_request)
        if len(replies) != len(parts):
            return Score(examples.latent, "no_judge")
        predicted: list[bool | None] = []
        trouble = ""
        for reply, part in zip(replies, parts, strict=True):
            found = answers_in(reply, len(part))
            if found is None:
                trouble = trouble or (reply.status if reply.status != "ok" else "unparsable")
            predicted += found or [None] * len(part)
        return scored(examples.latent, windows, predicted, trouble or "ok")


def scored(latent: int, windows: Sequence[Window], predicted: Sequence[bool | None], trouble: str) -> Score:
    """The score of some judgements. ``trouble`` is its status where a class was left without any."""
    answers = tuple(Answer(w.window_id, w.activating, p, w.quantile, group=w.group) for w, p in zip(windows, predicted, strict=True))
    known = [answer for answer in answers if answer.predicted is not None]
    n, n_positive = len(known), sum(answer.truth for answer in known)
    accuracy = balanced_accuracy(known)
    if accuracy is None:
        return Score(latent, trouble, n=n, n_positive=n_positive, answers=answers)
    rates = {"true_positive_rate": accuracy.true_positive_rate, "true_negative_rate": accuracy.true_negative_rate}
    return Score(
        latent, "ok", accuracy.value, accuracy.low, accuracy.high, n, n_positive, n_positive / n, answers,
        extra={**rates, "n_missing": len(answers) - n},
    )  # fmt: skip


def packed(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """Consecutive parts of nearly equal length, none longer than ``size``."""
    n_parts = -(-len(items) // size)
    bounds = [len(items) * i // n_parts for i in range(n_parts + 1)] if n_parts else []
    return [items[a:b] for a, b in itertools.pairwise(bounds)]


def answers_in(reply: Reply, n: int) -> list[bool] | None:
    """The ``n`` answers of a reply; None when it does not hold just that, since which is whose is then unknown."""
    if reply.status != "ok":
        return None
    try:
        answers = reply.json()["answers"]
    except (ValueError, KeyError, TypeError):
        return None
    if not isinstance(answers, list) or len(answers) != n or not all(isinstance(a, bool) for a in answers):
        return None
    return answers


def _question(label: str, windows: Sequence[Any]) -> str:
    return json.dumps({"description": printable(label), "windows": list(windows)}, ensure_ascii=False)


def _evenly(windows: list[Window], n: int, draw: Random) -> list[Window]:
    """At most ``n`` windows, as many from each quantile; the strongest ones only where the sampled ones do not do."""
    taken: dict[str, Window] = {}
    for sampled in (True, False):
        layers: dict[int, list[Window]] = {}
        for window in windows:
            if (window.group != "top") == sampled:
                layers.setdefault(window.quantile, []).append(window)
        for layer in layers.values():
            draw.shuffle(layer)
        for i in range(max(map(len, layers.values()), default=0)):
            at_i = [layers[q][i] for q in sorted(layers) if i < len(layers[q])]
            draw.shuffle(at_i)
            for window in at_i:
                if len(taken) < n:
                    taken.setdefault(window.window_id, window)
    return list(taken.values())


def _halves(windows: list[Window], n: int, draw: Random) -> list[Window]:
    """At most ``n`` windows: half near misses, half random ones, each filling up for the other."""
    different = list({window.window_id: window for window in windows}.values())
    near = [w for w in different if w.group == "near_miss"]
    other = [w for w in different if w.group != "near_miss"]
    draw.shuffle(near)
    draw.shuffle(other)
    n_near = min(len(near), max(n // 2, n - len(other)))
    return near[:n_near] + other[: n - n_near]
