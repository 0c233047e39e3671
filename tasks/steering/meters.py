"""What tells that a model was pushed too far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.steering.writing import Written

NGRAM, TAIL = 4, 64
"""Tokens of a run, and tokens at the end of a text among which repeated runs are counted."""

MOST_REPETITION = 0.3
"""seq-rep-4 above which a text is warned about, where the model by itself does not repeat itself as much."""

MOST_GROWTH, LEAST_GROWTH = 1.25, 0.8
"""Mean growth of the pushed activations outside of which a text is warned about. Of a Llama of 5 layers steered at its fourth,
98% of the words were words at a growth of 1.1, 93% at 1.17, and 77% at 1.3."""


def repetition(token_ids: Sequence[int]) -> float:
    """seq-rep-4 of the last 64 tokens: 1 - (different runs of 4 tokens) / (runs of 4 tokens). 0 for fewer than 4 tokens.

    Source: Welleck et al. 2019, arXiv 1908.04319, section 6 (there of whole continuations). A text of one token over
    and over comes near 1; one that says nothing twice has 0.
    """
    tail = list(token_ids[-TAIL:])
    runs = [tuple(tail[i : i + NGRAM]) for i in range(len(tail) - NGRAM + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def warnings(steered: Written, default: Written | None = None) -> Iterator[str]:
    """Sentences about a steered text, of which ``default`` is what the model says by itself with the same draws."""
    said, usual = steered.repetition, 0.0 if default is None else default.repetition
    if said > MOST_REPETITION and said > usual:
        by_itself = "" if default is None else f" ({usual:.0%} without steering)"
        yield f"it repeats itself: {said:.0%} of its last runs of {NGRAM} tokens were said before{by_itself}; use less strength"
    growth = steered.growth
    if not LEAST_GROWTH <= growth <= MOST_GROWTH:
        yield (
            f"the pushed activations are {growth:.2g} times as long as they were, which the rest of the model has not seen; "
            "use less strength"
        )
