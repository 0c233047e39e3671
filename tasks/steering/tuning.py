"""How far to turn a latent: the strength at which the model's next token has moved by a given amount.

Latents differ by orders of magnitude in what a given multiple of their activation does, so that one strength for all
shows nothing of some and breaks the model with others (Paulo et al., 2410.13928, tune to a KL divergence too).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

WEAKEST, STRONGEST = 1e-3, 1e4
"""Multiples of a latent's largest activation between which a strength is searched."""


class Tuned(NamedTuple):
    """A strength, and what it does."""

    strength: float
    kl: float
    """Mean KL divergence at that strength, in nats."""

    reached: bool
    """Whether that is the target within its tolerance; if not, it is the nearest that was found."""

    n_tries: int


def tuned(
    kl_at: Callable[[Sequence[int], Sequence[float]], Sequence[float]],
    n: int,
    target: float,
    *,
    tolerance: float = 0.1,
    max_tries: int = 12,
) -> list[Tuned]:
    """Bisect, for ``n`` latents at once, the logarithm of the strength until the KL divergence is the target's.

    ``kl_at`` measures some of them (places 0 to n - 1) at a strength each. ``tolerance`` is a share of the target. What
    is not a number is taken for too much: the model has broken. Where the divergence does not grow steadily with the
    strength, what comes out is one strength of several. Ends after ``max_tries`` measurements of each.
    """
    low, high = [math.log(WEAKEST)] * n, [math.log(STRONGEST)] * n
    # begin at the latent's own largest activation, which is the scale that it lives on
    at = [0.0] * n
    best: list[Tuned | None] = [None] * n
    for n_tries in range(1, max_tries + 1):
        open_ = [i for i in range(n) if best[i] is None or not best[i].reached]  # type: ignore[union-attr]
        if not open_:
            break
        for i, kl in zip(open_, kl_at(open_, [math.exp(at[i]) for i in open_]), strict=True):
            best[i] = _nearer(best[i], Tuned(math.exp(at[i]), kl, abs(kl - target) <= tolerance * target, n_tries), target)
            if kl < target:
                low[i] = at[i]
            else:
                high[i] = at[i]
            at[i] = (low[i] + high[i]) / 2
    return [one for one in best if one is not None]


def _nearer(one: Tuned | None, other: Tuned, target: float) -> Tuned:
    """Whose divergence is nearer to the target, with the tries of the later."""
    def distance(tuned: Tuned) -> float:
        return abs(tuned.kl - target) if math.isfinite(tuned.kl) else math.inf

    nearer = other if one is None or distance(other) < distance(one) else one
    return nearer._replace(n_tries=other.n_tries)
