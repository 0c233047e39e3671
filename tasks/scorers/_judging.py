"""What scorers share that have windows judged one by one, by the explanation: which windows, asked how, counted how.

The same windows in the same order are put to the judge for every explanation of a latent, so that explanations, and
the blind control, differ in nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from pydantic import Field, field_validator

from tasks.auroc import auroc
from tasks.clients.base import Reply, Request
from tasks.explainers.base import Explanation, LatentExamples, Window, printable
from tasks.kinds import kinds
from tasks.scorers._choosing import by_group, evenly, generator
from tasks.scorers._packs import answers_in, ids, packed, probabilities, question, schema, why_not
from tasks.scorers.base import Answer, Bench, Score, Scorer, balanced_accuracy, trouble, wilson
from tasks.spec import SpecError


class Item(NamedTuple):
    """One thing that the judge says yes or no to."""

    window: Window
    truth: bool
    """What a judge says who knows."""

    shown: Any
    """What the judge sees, as JSON."""

    group: str
    marks: frozenset[int] = frozenset()
    """Tokens of the window that are marked."""


class Judged(Scorer):
    """Shows test windows to a judge, some at a time, and asks of each whether the explanation fits."""

    n_positive: int = Field(20, ge=1)
    """Activating windows judged per latent, drawn evenly from all quantiles."""

    n_negative: int = Field(20, ge=1)
    """Non-activating windows judged per latent."""

    negatives: dict[str, float] = {}
    """Shares of the groups among the non-activating windows, as in ``{near_miss: 2, random: 1}``; empty for equal
    shares of all groups that were mined. A group that has too few is filled up for by the others named."""

    windows_per_request: int = Field(25, ge=1)
    """Windows in one question. More cost less and blur the judge's eye."""

    min_windows: int = Field(5, ge=1)
    """Windows of each class without which there is no score."""

    logprobs: int = Field(5, ge=0)
    """Alternatives asked for at each token of an answer, for the judge's probability of a yes, from clients that give
    them; 0 asks for none."""

    max_tokens: int = Field(2048, ge=1)
    """Most tokens of an answer, thinking included."""

    SYSTEM: ClassVar[str]

    @field_validator("negatives")
    @classmethod
    def _shares_of_known_groups(cls, shares: dict[str, float]) -> dict[str, float]:
        known = {*kinds("tasks.negatives"), "near_miss", "random"}
        for group, share in shares.items():
            if group not in known:
                raise SpecError(
                    f"scorers.negatives = {shares}, but {group!r} is no group of non-activating windows; "
                    f"use some of {', '.join(sorted(known))}"
                )
            if share < 0:
                raise SpecError(f"scorers.negatives.{group} = {share}, but a share is 0 or more; change it")
        if shares and not any(shares.values()):
            raise SpecError(f"scorers.negatives = {shares}, but no group has a share above 0; give one to some, or leave {{}}")
        return shares

    def judged_by_rule(self, explanation: Explanation) -> bool:
        """Whether the explanation's predicate answers in the judge's place."""
        return False

    def chosen(self, examples: LatentExamples, seed: int) -> list[Window]:
        """The test windows to judge, shuffled; empty when there are too few of a class."""
        draw = generator(seed, examples.latent, "windows")
        positive = evenly(examples.test(activating=True), self.n_positive, draw)
        negative = by_group(examples.test(activating=False), self.n_negative, self.negatives, draw)
        if min(len(positive), len(negative)) < self.min_windows:
            return []
        both = positive + negative
        draw.shuffle(both)
        return both

    def items(self, examples: LatentExamples, seed: int) -> list[Item]:
        """What is put to the judge, in order; empty when there is too little."""
        raise NotImplementedError

    def requests(self, explanation: Explanation, examples: LatentExamples, seed: int) -> list[Request]:
        if explanation.status != "ok" or self.judged_by_rule(explanation):
            return []
        return [
            Request(
                self.SYSTEM, question([item.shown for item in part], explanation.label), schema(len(part)),
                self.max_tokens, self.logprobs,
            )
            for part in packed(self.items(examples, seed), self.windows_per_request)
        ]  # fmt: skip

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
        items = self.items(examples, seed)
        if not items:
            return Score(examples.latent, "too_few_examples")
        if self.judged_by_rule(explanation):
            from tasks.predicates import holds

            assert explanation.predicate is not None
            return self.scored(
                examples.latent, [_answer(item, holds(explanation.predicate, item.window)) for item in items], items
            )
        parts = packed(items, self.windows_per_request)
        if len(replies) != len(parts):
            return Score(examples.latent, "no_judge")
        answers: list[Answer] = []
        for reply, part in zip(replies, parts, strict=True):
            found, likely = answers_in(reply), probabilities(reply)
            for name, item in zip(ids(len(part)), part, strict=True):
                said = found.get(name)
                if isinstance(said, bool):
                    answers.append(_answer(item, said, likely.get(name)))
                else:
                    answers.append(_answer(item, None, status=why_not(reply)))
        return self.scored(examples.latent, answers, items)

    def scored(self, latent: int, answers: Sequence[Answer], items: Sequence[Item]) -> Score:
        """The score of some judgements."""
        known = [answer for answer in answers if answer.predicted is not None]
        n, n_positive = len(known), sum(answer.truth for answer in known)
        accuracy = balanced_accuracy(known)
        if accuracy is None:
            return Score(latent, trouble(answers), n=n, n_positive=n_positive, answers=tuple(answers))
        return Score(
            latent, "ok", accuracy.value, accuracy.low, accuracy.high, n, n_positive, n_positive / n, tuple(answers),
            extra=rates(answers),
        )  # fmt: skip


def passage(window: Window) -> str:
    """A window's text, with an ellipsis before it where the text began earlier: only so can a place in a text be told."""
    return before(window) + printable(window.text)


def before(window: Window) -> str:
    """What stands before a window that does not begin its text."""
    return "" if window.starts_context else "\u2026"


def rates(answers: Sequence[Answer]) -> dict[str, Any]:
    """What is told beside the value: both rates, the silent windows by group, the active ones by quantile, the area
    under the curve of the judge's probabilities, and how many judgements are missing."""
    known = [answer for answer in answers if answer.predicted is not None]
    groups = sorted({a.group for a in known if not a.truth})
    quantiles = sorted({a.quantile for a in known if a.truth})
    return {
        "true_positive_rate": _rate([a for a in known if a.truth])["rate"],
        "true_negative_rate": _rate([a for a in known if not a.truth])["rate"],
        "true_negative_rate_by_group": {g: _rate([a for a in known if not a.truth and a.group == g]) for g in groups},
        "true_positive_rate_by_quantile": {
            str(q): _rate([a for a in known if a.truth and a.quantile == q]) for q in quantiles
        },
        "auroc": _area(known),
        "n_missing": len(answers) - len(known),
    }


def _rate(answers: Sequence[Answer]) -> dict[str, Any]:
    if not answers:
        return {"rate": None, "low": None, "high": None, "n": 0}
    n_right = sum(a.predicted == a.truth for a in answers)
    low, high = wilson(n_right, len(answers))
    return {"rate": n_right / len(answers), "low": low, "high": high, "n": len(answers)}


def _area(answers: Sequence[Answer]) -> float | None:
    likely = {truth: [a.probability for a in answers if a.truth == truth and a.probability is not None] for truth in (True, False)}
    found = auroc(likely[True], likely[False])
    return found and found.value


def _answer(item: Item, predicted: bool | None, probability: float | None = None, status: str = "ok") -> Answer:
    quantile = item.window.quantile if item.truth else -1
    return Answer(item.window.window_id, item.truth, predicted, quantile, probability, item.group, status)
