"""Sparse products: each reads and writes rows of matrices, in a fixed order, so that CPUs repeat them. Shapes as in the package."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from tasks.lazy import F, torch

if TYPE_CHECKING:
    from torch import Tensor


class Pairs(NamedTuple):
    """Pairs of token and latent, tokens ascending."""

    starts_B1: Tensor
    """int64; the pairs of token b are starts[b] to starts[b + 1]."""

    index_P: Tensor
    """int64; the latent of each."""

    pre_P: Tensor
    """Its pre-activation."""

    @staticmethod
    def of(index_BK: Tensor, pre_BK: Tensor) -> Pairs:
        """As many pairs of each token."""
        n_rows, k = index_BK.shape
        starts = torch.arange(n_rows + 1, device=index_BK.device) * k
        return Pairs(starts, index_BK.reshape(-1), pre_BK.reshape(-1))

    @staticmethod
    def at(row_P: Tensor, index_P: Tensor, pre_P: Tensor, n_rows: int) -> Pairs:
        """Pairs whose tokens are given, ascending."""
        return Pairs(F.pad(torch.bincount(row_P, minlength=n_rows).cumsum(0), (1, 0)), index_P, pre_P)

    def row_P(self) -> Tensor:
        """The token of each pair."""
        n_rows = len(self.starts_B1) - 1
        rows = torch.arange(n_rows, device=self.index_P.device)
        return rows.repeat_interleave(self.starts_B1.diff(), output_size=len(self.index_P))

    def where(self, kept_P: Tensor) -> Pairs:
        """Some of the pairs."""
        starts = F.pad(kept_P.cumsum(0), (1, 0))[self.starts_B1]
        which = kept_P.nonzero().squeeze(1)
        return Pairs(starts, self.index_P[which], self.pre_P[which])

    def value_P(self) -> Tensor:
        """Activations."""
        return self.pre_P.relu()

    def sum_of(self, weight_ND: Tensor) -> Tensor:
        """For each token the sum of activation times row: [B, D]."""
        return F.embedding_bag(
            self.index_P, weight_ND, self.starts_B1, per_sample_weights=self.value_P(), mode="sum", include_last_offset=True
        )

    def product_of(self, x_BD: Tensor, weight_ND: Tensor) -> Tensor:
        """x[token] . weight[latent] of each pair."""
        return _sampled(x_BD, weight_ND, self.index_P, self.starts_B1)


class Nest(NamedTuple):
    """The active pairs of a batch."""

    groups: list[Pairs]
    """Disjoint; each is added to all before it."""

    weights: list[float]
    """Of the FVU of each group with all before it."""

    main: int = 0
    """The group with which the reconstruction is the SAE's own."""

    least: Tensor | None = None
    """The smallest score chosen, where the kind keeps it."""


def weighted_rows(index_BK: Tensor, weight_ND: Tensor, value_BK: Tensor) -> Tensor:
    """Sum over k of value[b, k] * weight[index[b, k]]: [B, D]."""
    return F.embedding_bag(index_BK, weight_ND, per_sample_weights=value_BK, mode="sum")


def sampled_product(x_BD: Tensor, weight_ND: Tensor, index_BK: Tensor) -> Tensor:
    """x[b] . weight[index[b, k]] for the wanted pairs only: [B, K]."""
    n_rows, k = index_BK.shape
    starts = torch.arange(n_rows + 1, device=index_BK.device) * k
    return _sampled(x_BD, weight_ND, index_BK.reshape(-1), starts).view(n_rows, k)


def _sampled(x_BD: Tensor, weight_ND: Tensor, index_P: Tensor, starts_B1: Tensor) -> Tensor:
    rows = torch.arange(len(x_BD), device=index_P.device)
    row_P = rows.repeat_interleave(starts_B1.diff(), output_size=len(index_P))
    if x_BD.device.type != "cpu":
        return torch.ops.aten._embedding_bag_per_sample_weights_backward(
            x_BD.contiguous(), weight_ND, index_P, starts_B1[:-1], row_P, 0, -1
        )
    if len(index_P) < 2 * len(weight_ND):
        return _products(x_BD, weight_ND, index_P, starts_B1)
    # rows of x fit the cache, and those of the weights do not: latent by latent each is fetched once, which pays for sorting
    by_latent = transposed(index_P, len(weight_ND))
    found_P = x_BD.new_empty(len(index_P))
    found_P[by_latent.order_P] = by_latent.product_of(weight_ND, x_BD, row_P[by_latent.order_P])
    return found_P


def _products(x_BD: Tensor, y_CD: Tensor, index_P: Tensor, starts_B1: Tensor) -> Tensor:
    """x[b] . y[index] of pairs from starts[b] to starts[b + 1]."""
    if x_BD.device.type != "cpu":
        return _sampled(x_BD, y_CD, index_P, starts_B1)
    if len(index_P) == 0:
        return x_BD.new_zeros(0)
    _hear_the_warning()
    wanted = torch.sparse_csr_tensor(
        starts_B1, index_P, x_BD.new_zeros(len(index_P)), (len(x_BD), len(y_CD)), check_invariants=False
    )
    return torch.sparse.sampled_addmm(wanted, x_BD.contiguous(), y_CD.t(), beta=0.0).values()


@functools.cache
def _hear_the_warning() -> None:
    """torch says once in a process that its CSR tensors are in beta: no news for a user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor([0, 0], [], torch.zeros(0), (1, 1))


class Transposed(NamedTuple):
    """Pairs sorted by latent, so that weight gradients are sums over runs: no atomics."""

    order_P: Tensor
    """Where each pair stood before sorting."""

    starts_N1: Tensor
    """Run of latent n is starts[n] to starts[n + 1]."""

    def product_of(self, weight_ND: Tensor, x_BD: Tensor, row_P: Tensor) -> Tensor:
        """weight[latent] . x[row] of each pair, sorted as ``row_P`` is."""
        return _products(weight_ND, x_BD, row_P, self.starts_N1)

    def rows_of(
        self, x_BD: Tensor, row_P: Tensor, value_P: Tensor, block: int = 1024, are_sorted: bool = False
    ) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of [N, D]: for each latent the sum of value * x[row] over its pairs. Rows and values are as the pairs stood,
        unless they ``are_sorted``."""
        if not are_sorted:
            row_P, value_P = row_P[self.order_P], value_P[self.order_P]
        n = len(self.starts_N1) - 1
        edges = [*self.starts_N1[:-1:block].tolist(), len(row_P)]
        for i, first in enumerate(range(0, n, block)):
            begin, end = edges[i], edges[i + 1]
            last = min(n, first + block)
            bags = self.starts_N1[first:last] - begin
            yield (
                slice(first, last),
                F.embedding_bag(row_P[begin:end], x_BD, offsets=bags, per_sample_weights=value_P[begin:end], mode="sum"),
            )


def transposed(index_P: Tensor, n_latents: int) -> Transposed:
    """Sort pairs by latent, stably."""
    order = index_P.argsort(stable=True)
    return Transposed(order, F.pad(torch.bincount(index_P, minlength=n_latents).cumsum(0), (1, 0)))


def squared(x: Tensor) -> Tensor:
    """Sum of squares, in one pass and without a temporary."""
    flat = x.reshape(-1)
    return flat @ flat
