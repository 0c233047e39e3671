"""Latents that stand for one token."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from tasks.lazy import np
from tasks.spec import Spec

if TYPE_CHECKING:
    import numpy as np


class SingleTokenSpec(Spec):
    """When a latent counts as standing for one token, by the peaks of its train windows.

    It is ``weak`` when its strongest windows nearly all peak at one token, and ``strong`` when, besides, windows drawn from
    all of its range mostly peak at that same token. Weak ones mean one token when they are loud; strong ones mean little
    else when they are faint. The top token of a latent that is neither is only its commonest one.
    """

    n_top: int = Field(50, ge=1)
    """Strongest windows looked at."""

    top_share: float = Field(0.9, gt=0, le=1)
    """Share of them that peak at one token."""

    n_sample: int = Field(100, ge=1)
    """Windows drawn at random from all of the latent's, without replacement."""

    sample_share: float = Field(0.75, gt=0, le=1)
    """Share of them that peak at the same token."""

    min_windows: int = Field(5, ge=1)
    """Windows without which a latent is neither."""


class TokenShare(NamedTuple):
    """The commonest token at some peaks."""

    token: int
    """Its id; -1 without peaks."""

    share: float
    """Part of the peaks that it stands at."""


def commonest(tokens: np.ndarray) -> TokenShare:
    """The commonest of some tokens; of equally common ones the smallest id."""
    if not len(tokens):
        return TokenShare(-1, 0.0)
    ids, counts = np.unique(tokens, return_counts=True)
    best = int(counts.argmax())
    return TokenShare(int(ids[best]), float(counts[best] / len(tokens)))


class SingleTokens:
    """What was found of each latent. Shapes: N latents."""

    def __init__(self, spec: SingleTokenSpec, n_latents: int) -> None:
        self._spec = spec
        self.share = np.zeros(n_latents)
        """float64 (N,): of the windows drawn at random, those that peak at the commonest token; 0 without windows."""

        self.token = np.full(n_latents, -1, np.int32)
        """int32 (N,): that token; -1 without windows."""

        self.weak, self.strong = np.zeros(n_latents, bool), np.zeros(n_latents, bool)

    def look(self, latent: int, tokens: np.ndarray, random: Random) -> None:
        """Judge a latent by the tokens at the peaks of all its windows, the strongest first."""
        spec, m = self._spec, len(tokens)
        sample = tokens if m <= spec.n_sample else tokens[random.sample(range(m), spec.n_sample)]
        loud, everywhere = commonest(tokens[: spec.n_top]), commonest(sample)
        self.share[latent], self.token[latent] = everywhere.share, everywhere.token
        self.weak[latent] = m >= spec.min_windows and loud.share >= spec.top_share
        same = everywhere.token == loud.token and everywhere.share >= spec.sample_share
        self.strong[latent] = self.weak[latent] and same
