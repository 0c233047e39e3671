"""Two dictionaries, latent against latent. Shapes: N and M latents, D width, K candidates of each latent, P pairs.

The nearest of each latent (``nearest``) may be the same for many; ``pairs`` are one to one, of the largest sum of cosines.
Cosines are signed: a latent only ever adds its row, so a row that points the other way is no match.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.dictionary.directions import Nearest, between, cosines, lengths, mean_max
from tasks.lazy import np, torch
from tasks.spec import SpecError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from tasks.trained import TrainedSAE

EXACT = 4096
"""Latents of the larger dictionary up to which every pair may be matched; beyond it, candidates only."""

THRESHOLDS = (0.5, 0.7, 0.9)
"""Cosines above which a latent counts as found again."""


class Pairs(NamedTuple):
    """A one-to-one matching; arrays of equal length, by the first's latents."""

    first_P: np.ndarray
    """int64."""

    second_P: np.ndarray
    """int64."""

    cosine_P: np.ndarray
    """float32."""


class Matching(NamedTuple):
    """What two dictionaries have of each other."""

    to_second: Nearest
    """Of each latent of the first its nearest of the second."""

    to_first: Nearest
    """Of each latent of the second its nearest of the first."""

    pairs: Pairs
    exact: bool
    """Whether all pairs were weighed, and not each latent's nearest alone; of these the best matching is found, too, but
    its mean is then a lower bound."""

    @property
    def figures(self) -> dict[str, Any]:
        """JSON: MMCS both ways, MCC, and the shares of latents that are found again in the other."""
        found: dict[str, Any] = {}
        for name, best in (("first", self.to_second), ("second", self.to_first)):
            value = best.value_NK[:, 0].nan_to_num(neginf=0.0)
            found[name] = {
                "n_latents": len(value),
                "mmcs": mean_max(best),
                "above": {str(t): float((value > t).double().mean()) for t in THRESHOLDS},
                "distinct": int(best.index_NK[:, 0].unique().numel()) / max(1, len(value)),
            }
        n = min(len(self.to_second.value_NK), len(self.to_first.value_NK))
        mutual = self.to_first.index_NK[:, 0][self.to_second.index_NK[:, 0]]
        found["mutual"] = float((mutual == torch.arange(len(mutual), device=mutual.device)).double().mean())
        found["mcc"] = float(self.pairs.cosine_P.astype(np.float64).sum()) / max(1, n)
        found["n_pairs"], found["exact"] = len(self.pairs.first_P), self.exact
        return found


def matched(
    A_ND: Tensor, B_MD: Tensor, k: int = 32, exact: int = EXACT, step: Callable[[int], None] = lambda n: None
) -> Matching:
    """Match two dictionaries of one width. ``k``: candidates of each latent where there are more than ``exact`` of them."""
    k = min(k, len(A_ND), len(B_MD))
    to_second, to_first = between(A_ND, B_MD, k, step)
    whole = max(len(A_ND), len(B_MD)) <= exact
    pairs = one_to_one(cosines(A_ND, B_MD, lengths(B_MD)).cpu().numpy()) if whole else among(to_second, to_first)
    return Matching(to_second, to_first, pairs, whole)


def in_common(sae: TrainedSAE, other: TrainedSAE) -> tuple[Tensor, Tensor]:
    """Decoder rows of two SAEs as directions of one space: their own where both see activations through the same norm, else
    the model's. Raises ``SpecError`` for rows of two widths.

    A norm that takes its numbers from each token by itself turns no direction, but for its length.
    """
    widths = [one.W_dec_ND.shape[1] for one in (sae, other)]
    if widths[0] != widths[1]:
        raise SpecError(f"two SAEs write rows of {widths[0]} and {widths[1]} numbers, but only equal widths match; name others")
    if _normed(sae) == _normed(other):
        return sae.W_dec_ND, other.W_dec_ND
    found = []
    for one in (sae, other):
        parts = []
        for hookpoint, rows in one.written(one.W_dec_ND).items():
            norm, rows = one.norm_at(hookpoint), rows.double()  # what is taken off may be much longer than the rows
            if not norm.norm.PER_TOKEN:
                rows = norm.invert(rows, None) - norm.invert(torch.zeros_like(rows[:1]), None)
            parts.append(rows.float())
        found.append(torch.cat(parts, 1))
    return found[0], found[1]


def _normed(sae: TrainedSAE) -> list[Any]:
    """Which norm there is of each hookpoint that is written, with its numbers."""
    norms = [sae.norm_at(hookpoint) for hookpoint in sae.written(sae.W_dec_ND)]
    return [(norm.norm, {name: value.tolist() for name, value in norm.state.items()}) for norm in norms]


def one_to_one(similarity_NM: np.ndarray) -> Pairs:
    """The one-to-one matching with the largest sum, over all pairs (Hungarian method, by scipy's implementation)."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(similarity_NM, maximize=True)
    return Pairs(rows, columns, similarity_NM[rows, columns].astype(np.float32))


def among(to_second: Nearest, to_first: Nearest) -> Pairs:
    """The one-to-one matching with the largest sum among candidates: each latent's nearest, of either side.

    Latents stay alone where that is better, so there may be fewer pairs than latents; candidates with a cosine of 0 or less
    are none.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    n, m = len(to_second.value_NK), len(to_first.value_NK)
    sides = [
        (np.arange(n).repeat(to_second.index_NK.shape[1]), to_second.index_NK.cpu().numpy().ravel(), to_second.value_NK),
        (to_first.index_NK.cpu().numpy().ravel(), np.arange(m).repeat(to_first.index_NK.shape[1]), to_first.value_NK),
    ]
    rows, columns = (np.concatenate([side[i] for side in sides]) for i in (0, 1))
    value = np.concatenate([side[2].cpu().numpy().ravel() for side in sides]).astype(np.float64)
    _, once = np.unique(rows * np.int64(m) + columns, return_index=True)
    once = once[value[once] > 0]
    rows, columns, value = rows[once], columns[once], value[once]
    # Every latent of the first also has a partner of its own, who is nobody: so a full matching always exists. Weights are
    # what a pair costs, above 0, since a weight of 0 would be no edge.
    costs = np.concatenate([2.0 - value, np.full(n, 2.0)])
    edges = (np.concatenate([rows, np.arange(n)]), np.concatenate([columns, m + np.arange(n)]))
    left, right = min_weight_full_bipartite_matching(csr_array((costs, edges), shape=(n, m + n)))
    real = right < m
    left, right = left[real], right[real]
    keys = rows * np.int64(m) + columns
    order = np.argsort(keys)
    cosine = value[order][np.searchsorted(keys[order], left * np.int64(m) + right)]
    return Pairs(left.astype(np.int64), right.astype(np.int64), cosine.astype(np.float32))
