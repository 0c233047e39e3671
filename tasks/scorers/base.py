"""Scores of explanations and the questions that measure them."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from tasks.clients.base import Reply, Request
from tasks.explainers.base import Explanation, LatentExamples
from tasks.spec import Runtime, Spec

if TYPE_CHECKING:
    from tasks.steering.subject import Subject

T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """One judged window."""

    window_id: str
    truth: bool
    predicted: bool | None
    """None where the judge gave no readable answer: missing, never wrong."""

    quantile: int = -1

    probability: float | None = None
    """The judge's, that the answer is yes, where it gives one; or the number that a measuring scorer gave the window."""

    group: str = ""
    """The window's: which sort of non-activating windows is told apart how well."""

    status: str = "ok"
    """Why there is no answer: ``unparsable``, or the status of the reply; ``missing`` where a measure gave no number."""


@dataclass(frozen=True)
class Score:
    """How well an explanation predicts a latent on windows that its explainer never saw."""

    latent: int
    status: str
    """``ok``, ``no_explanation``, ``no_judge``, ``too_few_examples``, or where too few answers are left, the status of the
    first that is missing (``unparsable``, ``refused``, ``truncated``, ``errored``, ``expired``, ``canceled``, ``missing``)."""

    value: float | None = None
    """In the scorer's ``METRIC``: the more the better; a scorer of no worth comes to ``CHANCE``."""

    low: float | None = None
    high: float | None = None
    """95% interval."""

    n: int = 0
    n_positive: int = 0
    base_rate: float | None = None
    """Fraction of activating windows among those answered."""

    answers: tuple[Answer, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)


def trouble(answers: Sequence[Answer]) -> str:
    """The status of a score for which some answers do not suffice."""
    return next((answer.status for answer in answers if answer.status != "ok"), "too_few_examples")


class Bench:
    """What a scorer measures with, beside the replies of an LLM. Everything is opened once, when it is first asked for."""

    def __init__(
        self,
        runtime: Runtime,
        open_subject: Callable[[], Subject] | None = None,
        take_device: Callable[[], None] = lambda: None,
    ) -> None:
        """``take_device`` is called before the first model is opened: from then on the device is this job's."""
        self.runtime = runtime
        self._open_subject, self._take_device = open_subject, take_device
        self._opened: dict[Hashable, Any] = {}

    @property
    def subject(self) -> Subject:
        """The language model and the SAE in it; for kinds with ``lm`` and ``sae`` among their ``INPUTS``."""
        assert self._open_subject is not None, "a scorer that measures on the subject lists lm and sae in INPUTS"
        return self.once("subject", self._open_subject)

    def once(self, name: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` returned the first time: a scorer's own model, loaded once for all latents."""
        if name not in self._opened:
            if not self._opened:
                self._take_device()
            self._opened[name] = make()
        return self._opened[name]


class Scorer(Spec):
    """A kind of scorer. Pure: it makes requests and reads replies, or measures on a bench that it is handed."""

    METRIC: ClassVar[str] = "balanced accuracy"
    """What ``Score.value`` is: also ``recall``, ``accuracy``, ``correlation``, ``AUROC``."""

    CHANCE: ClassVar[float] = 0.5
    """The value that an explanation without worth comes to; ``Score.extra["chance"]`` takes its place where a score
    has one of its own."""

    RANGE: ClassVar[tuple[float, float]] = (0.0, 1.0)
    """Least and greatest value that there can be."""

    INPUTS: ClassVar[frozenset[str]] = frozenset()
    """Artifacts that it rests on beside ``mine`` and ``explain``: ``lm``, ``sae``, ``amplify``."""

    USES_EXPLANATION: ClassVar[bool] = True
    """False for a scorer that tells how clear a latent is in itself: it has no blind control, since another latent's
    explanation changes nothing, and it measures latents that nobody could explain, too."""

    def needs_client(self, explanation_has_predicate: bool) -> bool:
        """Whether an LLM must judge an explanation that has a predicate, or has none."""
        return True

    def requests(self, explanation: Explanation, examples: LatentExamples, seed: int) -> list[Request]:
        """The questions to a judge; empty when the explanation's predicate answers them."""
        return []

    def score(
        self,
        replies: list[Reply],
        explanation: Explanation,
        examples: LatentExamples,
        seed: int,
        bench: Bench | None = None,
    ) -> Score:
        """The score, from replies in the order of ``requests`` and from what the bench measures."""
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
    low, high = (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)
    return max(0.0, min(share, low)), min(1.0, max(share, high))  # rounding leaves 1 below a share of 1
