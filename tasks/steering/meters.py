"""What tells that a model was pushed too far."""

from __future__ import annotations

from collections.abc import Sequence

NGRAM, TAIL = 4, 64
"""Tokens of a run, and tokens at the end of a text among which repeated runs are counted."""


def repetition(token_ids: Sequence[int]) -> float:
    """seq-rep-4 of the last 64 tokens: 1 - (different runs of 4 tokens) / (runs of 4 tokens). 0 for fewer than 4 tokens.

    Source: Welleck et al. 2019, arXiv 1908.04319, section 6 (there of whole continuations). A text of one token over
    and over comes near 1; one that says nothing twice has 0.
    """
    tail = list(token_ids[-TAIL:])
    runs = [tuple(tail[i : i + NGRAM]) for i in range(len(tail) - NGRAM + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
