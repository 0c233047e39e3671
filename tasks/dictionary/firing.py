"""How the latents of a dictionary fire: how often, how strongly, and with which others. Shapes: N and M latents, R tokens,
S sampled tokens, P pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.lazy import np
from tasks.metrics import DENSE
from tasks.mining.cache import LatentCache

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse import csr_array

    from tasks.mining.cache import Encoded

RARE = 1e-5
"""A latent that fires, but on fewer than this fraction of tokens, is called rare (SAELens: below_1e-5)."""

EDGES = tuple(round(-8 + 0.2 * i, 1) for i in range(41))
"""Of the histogram of log10 density; what is below the first counts there."""

_AT_ONCE = 1 << 22
_LATENTS = 512
"""Latents whose correlations with all others are in memory at a time."""


def densities(n_fires_N: np.ndarray, n_tokens: int) -> dict[str, Any]:
    """JSON: how many latents are dead, rare and dense, and the histogram of log10 density of those that fire."""
    density = n_fires_N / max(1, n_tokens)
    alive = density[density > 0]
    counts, _ = np.histogram(np.maximum(np.log10(alive), EDGES[0]), np.array(EDGES))
    return {
        "n_tokens": int(n_tokens),
        "n_dead": int((n_fires_N == 0).sum()),
        "n_rare": int((alive < RARE).sum()),
        "n_dense": int((alive > DENSE).sum()),
        "median": float(np.median(alive)) if len(alive) else None,
        "l0": float(density.sum()),
        "edges": list(EDGES),
        "counts": counts.tolist(),
    }


class Together(NamedTuple):
    """How two latents fire on the same tokens; arrays of equal length."""

    n_both_P: np.ndarray
    """int64: tokens on which both fire."""

    jaccard_P: np.ndarray
    """float32: these, of the tokens on which either does."""

    expected_P: np.ndarray
    """float32: tokens on which both would fire if neither knew of the other."""


def together(cache: LatentCache, pairs: Sequence[tuple[int, int]]) -> Together:
    """Co-firing of some pairs of latents, counted over all tokens of a cache."""
    held: dict[int, np.ndarray] = {}

    def rows(latent: int) -> np.ndarray:
        if latent not in held:
            held[latent] = cache.of(latent)[0]
        return held[latent]

    both, jaccard, expected = [], [], []
    for one, other in pairs:
        a, b = rows(one), rows(other)
        n = len(np.intersect1d(a, b, assume_unique=True))
        both.append(n)
        jaccard.append(n / max(1, len(a) + len(b) - n))
        expected.append(len(a) * len(b) / max(1, cache.n_rows))
    return Together(np.array(both, np.int64), np.array(jaccard, np.float32), np.array(expected, np.float32))


def sampled(shards: Sequence[Encoded], n_rows: int) -> csr_array:
    """Activations (N, S) on about ``n_rows`` tokens at even distances, counted through all shards."""
    from scipy.sparse import csr_array

    cache = LatentCache(shards)
    every = max(1, cache.n_rows // n_rows)
    latents, columns, values = [], [], []
    for shard, start in zip(cache.shards, cache.starts, strict=False):
        of = np.repeat(np.arange(cache.n_latents), np.diff(shard.offsets))
        for first in range(0, len(shard.row), _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            place = shard.row[part].astype(np.int64) + start
            kept = place % every == 0
            latents.append(of[part][kept])
            columns.append(place[kept] // every)
            values.append(np.asarray(shard.value[part])[kept])
    shape = (cache.n_latents, -(-cache.n_rows // every))
    return csr_array((np.concatenate(values), (np.concatenate(latents), np.concatenate(columns))), shape=shape)


class Correlated(NamedTuple):
    """Of each latent of one dictionary the latent of another whose activations go with it best."""

    index_N: np.ndarray
    """int64; -1 for a latent that fires on no sampled token together with any."""

    value_N: np.ndarray
    """Pearson's correlation over the sampled tokens, silent ones included, float32; NaN without a partner."""

    asked_N: np.ndarray
    """The correlation with the partner that was asked for; NaN where either never fires."""


def correlated(ours_NS: csr_array, theirs_MS: csr_array, asked_N: np.ndarray) -> Correlated:
    """Correlations of activations on the same tokens, sparse throughout: pairs that never fire together are left out."""
    n, n_tokens = ours_NS.shape
    (mean_N, std_N), (mean_M, std_M) = _moments(ours_NS), _moments(theirs_MS)
    theirs_SM = theirs_MS.T.tocsr()
    index, value, asked = np.full(n, -1, np.int64), np.full(n, np.nan, np.float32), np.full(n, np.nan, np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        for start in range(0, n, _LATENTS):
            block = (ours_NS[start : start + _LATENTS] @ theirs_SM).tocsr()
            rows = np.arange(start, start + block.shape[0])
            partner = asked_N[rows]
            product = np.asarray(block[np.arange(len(rows)), partner]).ravel()
            asked[rows] = (product / n_tokens - mean_N[rows] * mean_M[partner]) / (std_N[rows] * std_M[partner])
            of = np.repeat(rows, np.diff(block.indptr))
            at = block.indices
            value_A = (block.data / n_tokens - mean_N[of] * mean_M[at]) / (std_N[of] * std_M[at])
            there = np.flatnonzero(np.isfinite(value_A))
            order = there[np.lexsort((value_A[there], of[there]))]  # the best of each row comes last
            last = order[np.flatnonzero(np.diff(of[order], append=-1))]
            index[of[last]], value[of[last]] = at[last], value_A[last]
    return Correlated(index, value, np.where(np.isfinite(asked), asked, np.nan))


def _moments(x_NS: csr_array) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each row, zeros included, float64; NaN for a row that hardly varies."""
    n = x_NS.shape[1]
    mean = np.asarray(x_NS.sum(axis=1, dtype=np.float64)).ravel() / n
    square = np.asarray(x_NS.astype(np.float64).power(2).sum(axis=1)).ravel() / n
    variance = square - mean**2
    return mean, np.sqrt(np.where(variance > 1e-9 * square, variance, np.nan))  # below it, all is rounding
