"""Scores of explanations and the questions that measure them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tasks.clients.base import Reply, Request
from tasks.explainers.base import Explanation, LatentExamples
from tasks.spec import Spec


@dataclass(frozen=True)
class Answer:
    """One judged window."""

    window_id: str
    truth: bool
    predicted: bool | None
    """None where the judge gave no readable answer: missing, never wrong."""

    quantile: int = -1


@dataclass(frozen=True)
class Score:
    """How well an explanation predicts a latent on windows that its explainer never saw."""

    latent: int
    status: str
    """``ok``, ``no_explanation``, ``no_judge``, ``too_few_examples``, ``unparsable``, or the status of the replies
    when none could be read (``refused``, ``truncated``, ``errored``, ``expired``, ``canceled``, ``missing``)."""

    value: float | None = None
    """Balanced accuracy, 0 to 1; chance is 0.5."""

    low: float | None = None
    high: float | None = None
    """95% interval."""

    n: int = 0
    n_positive: int = 0
    base_rate: float | None = None
    """Fraction of activating windows among those answered."""

    answers: tuple[Answer, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)


class Scorer(Spec):
    """A kind of scorer. Pure: it makes requests and reads replies."""

    def needs_client(self, explanation_has_predicate: bool) -> bool:
        """Whether an LLM must judge an explanation that has a predicate, or has none."""
        return True

    def requests(self, explanation: Explanation, examples: LatentExamples, seed: int) -> list[Request]:
        """The questions to a judge; empty when the explanation's predicate answers them."""
        return []

    def score(self, replies: list[Reply], explanation: Explanation, examples: LatentExamples, seed: int) -> Score:
        """The score, from replies in the order of ``requests``."""
        raise NotImplementedError


class Accuracy(NamedTuple):
    """Balanced accuracy: the mean of the shares of activating and of non-activating windows that were told."""

    value: float
    low: float
    high: float
    """95% interval."""

    true_positive_rate: float
    true_negative_rate: float


def balanced_accuracy(answers: Sequence[Answer]) -> Accuracy | None:
    """Balanced accuracy over the answers that there are; None when one of the two classes has none.

    The interval combines the Wilson intervals of the two rates by the square-and-add rule (Newcombe 1998, Statistics
    in Medicine 17:873, method 10; Zou and Donner 2008), which keeps its coverage for few windows and rates of 1.
    """
    tally = {truth: [a.predicted == truth for a in answers if a.truth == truth and a.predicted is not None]
             for truth in (True, False)}  # fmt: skip
    if not (tally[True] and tally[False]):
        return None
    rates = {truth: sum(right) / len(right) for truth, right in tally.items()}
    bounds = {truth: wilson(sum(right), len(right)) for truth, right in tally.items()}
    value = (rates[True] + rates[False]) / 2
    below = math.hypot(*(rates[t] - bounds[t][0] for t in rates)) / 2
    above = math.hypot(*(bounds[t][1] - rates[t] for t in rates)) / 2
    return Accuracy(value, max(0.0, value - below), min(1.0, value + above), rates[True], rates[False])


def wilson(n_right: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The Wilson score interval of a share (Wilson 1927), 95% unless told otherwise."""
    share = n_right / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, (centre - half) / (1 + z * z / n)), min(1.0, (centre + half) / (1 + z * z / n))
