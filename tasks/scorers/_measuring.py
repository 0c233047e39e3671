"""What scorers share that give every window a number by a model of their own: which windows, and how well it parts them.

Such scorers ask no LLM. The same windows are measured for every explanation of a latent, so that explanations, and the
blind control, differ in nothing else.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from tasks.auroc import auroc
from tasks.clients.base import Reply
from tasks.explainers.base import Explanation, LatentExamples, Window
from tasks.scorers._choosing import by_group, evenly, generator
from tasks.scorers.base import Answer, Bench, Score, Scorer, trouble


class Measured(Scorer):
    """Gives a number to each of some test windows, higher where the latent should be active."""

    n_positive: int = Field(50, ge=1)
    """Activating windows measured per latent, drawn evenly from all quantiles."""

    n_negative: int = Field(50, ge=1)
    """Non-activating windows measured per latent, drawn evenly from all kinds of them."""

    min_windows: int = Field(5, ge=1)
    """Windows of each class without which there is no score."""

    METRIC: ClassVar[str] = "AUROC"

    def needs_client(self, explanation_has_predicate: bool) -> bool:
        return False

    def measure(
        self, windows: Sequence[Window], explanation: Explanation, examples: LatentExamples, seed: int, bench: Bench
    ) -> Sequence[float | None]:
        """A number for each window; None where there is none, and no numbers at all where examples are too few."""
        raise NotImplementedError

    def score(
        self,
        replies: list[Reply],
        explanation: Explanation,
        examples: LatentExamples,
        seed: int,
        bench: Bench | None = None,
    ) -> Score:
        if self.USES_EXPLANATION and explanation.status != "ok":
            return Score(examples.latent, "no_explanation")
        draw = generator(seed, examples.latent, "windows")
        positive = evenly(examples.test(True), self.n_positive, draw)
        negative = by_group(examples.test(False), self.n_negative, {}, draw)
        if min(len(positive), len(negative)) < self.min_windows:
            return Score(examples.latent, "too_few_examples")
        assert bench is not None, "a scorer that measures needs a bench"
        windows = positive + negative
        values = self.measure(windows, explanation, examples, seed, bench)
        return separation(examples.latent, windows, values) if values else Score(examples.latent, "too_few_examples")


def separation(latent: int, windows: Sequence[Window], values: Sequence[float | None]) -> Score:
    """How well some numbers part activating windows from others, and from each kind of others.

    Answers hold the number of each window as ``probability``, and predict nothing: where yes begins is not known. What is
    not finite is missing.
    """
    numbers = [float(value) if value is not None and math.isfinite(value) else None for value in values]
    answers = tuple(
        Answer(w.window_id, w.activating, None, w.quantile, v, w.group, "missing" if v is None else "ok")
        for w, v in zip(windows, numbers, strict=True)
    )
    known = [(a, a.probability) for a in answers if a.probability is not None]
    positive = [value for answer, value in known if answer.truth]
    others: dict[str, list[float]] = defaultdict(list)
    for answer, value in known:
        if not answer.truth:
            others[answer.group].append(value)
    negative = [value for values in others.values() for value in values]
    n, whole = len(known), auroc(positive, negative)
    if whole is None:
        return Score(latent, trouble(answers), n=n, n_positive=len(positive), answers=answers)
    parts = {group: auroc(positive, some) for group, some in sorted(others.items())}
    means = {"mean_positive": statistics.fmean(positive), "mean_negative": statistics.fmean(negative)}
    areas = {group: part.value for group, part in parts.items() if part is not None}
    return Score(
        latent, "ok", *whole, n=n, n_positive=len(positive), base_rate=len(positive) / n, answers=answers,
        extra={**means, "auroc_by_group": areas, "n_missing": len(answers) - n},
    )  # fmt: skip
