"""Recall: which share of the activating windows does the explanation recognise?

It puts the very questions that detection puts, so that beside detection it costs nothing, and reads from the answers
how much of the latent the explanation covers. An explanation that fits everything covers everything, so beside the
value stands what it recognises where the latent is silent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from tasks.scorers._judging import Item, rates
from tasks.scorers.base import Answer, Score, trouble, wilson
from tasks.scorers.detection import Detection


class Recall(Detection):
    """Share of activating windows recognised. ``extra["chance"]`` is the share of the silent ones recognised."""

    kind: Literal["recall"] = "recall"  # type: ignore[assignment]

    METRIC: ClassVar[str] = "recall"

    CHANCE: ClassVar[float] = 0.0
    """Of an explanation that fits nothing; where any silent window was judged, what was recognised there takes its
    place."""

    def scored(self, latent: int, answers: Sequence[Answer], items: Sequence[Item]) -> Score:
        known = [answer for answer in answers if answer.predicted is not None]
        positive = [answer for answer in known if answer.truth]
        n, n_positive = len(known), len(positive)
        if not positive:
            return Score(latent, trouble(answers), n=n, answers=tuple(answers))
        n_found = sum(bool(answer.predicted) for answer in positive)
        low, high = wilson(n_found, n_positive)
        extra = rates(answers)
        told = extra["true_negative_rate"]
        false_positives = None if told is None else 1 - told
        return Score(
            latent, "ok", n_found / n_positive, low, high, n, n_positive, n_positive / n, tuple(answers),
            extra={"chance": false_positives, "false_positive_rate": false_positives, **extra},
        )  # fmt: skip
