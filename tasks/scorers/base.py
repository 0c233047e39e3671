"""Scores of explanations and the questions that measure them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

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
    """``ok``, ``no_explanation``, ``too_few_examples``, ``unparsable``, ``errored``, ``expired``, ``refused``."""

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
        """Whether an LLM must judge."""
        return True

    def requests(self, explanation: Explanation, examples: LatentExamples, seed: int) -> list[Request]:
        """The questions to a judge; empty when the explanation's predicate answers them."""
        return []

    def score(self, replies: list[Reply], explanation: Explanation, examples: LatentExamples, seed: int) -> Score:
        """The score, from replies in the order of ``requests``."""
        raise NotImplementedError
