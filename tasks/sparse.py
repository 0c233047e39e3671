"""Sparse products and an exact row top-k, in plain torch operations that are fast on CPUs and GPUs.

Shapes: B tokens, D width, N latents, K active latents of a token. A dense TopK step costs 12 D N multiply-adds' worth
of FLOPs a token; here only the encoder is dense (2 D N) and everything else touches K rows. All sparse products are one
native family, ``embedding_bag`` and its backward for the weights: summed in a fixed order, so repeatable on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from tasks.lazy import F, torch

if TYPE_CHECKING:
    from torch import Tensor

GROUP = 16
"""Latents in a group of the two-level top-k."""


def topk_rows(pre_BN: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and indices of the k largest of each row, exact, in no particular order.

    The k largest lie in the k groups of largest maximum. Groups are strided (latents n, n + N/g, n + 2N/g, ...), so
    their maxima are one vectorised pass over contiguous memory.
    """
    n_rows, n = pre_BN.shape
    n_groups = n // GROUP
    if n % GROUP or n_groups < 4 * k or pre_BN.is_cuda:
        return pre_BN.topk(k, dim=-1, sorted=False)
    grouped = pre_BN.view(n_rows, GROUP, n_groups)
    best_Bk = grouped.amax(1).topk(k, dim=-1, sorted=False).indices
    index = best_Bk.unsqueeze(1) + (torch.arange(GROUP, device=pre_BN.device) * n_groups).view(1, GROUP, 1)
    index = index.reshape(n_rows, GROUP * k)
    value, place = pre_BN.gather(1, index).topk(k, dim=-1, sorted=False)
    return value, index.gather(1, place)


def encode_topk(
    x_BD: Tensor, W_ND: Tensor, b_N: Tensor, k: int, shadow_ND: Tensor | None = None, chunk_rows: int = 512
) -> tuple[Tensor, Tensor]:
    """Pre-activations (float32) and indices of the k largest latents of each token, B x N never materialised.

    With ``shadow_ND``, a bfloat16 copy of the weights, latents are searched in bfloat16 with a quarter more
    candidates than k, and those scored again in float32: the values are exact, and so, but for ties closer
    than bfloat16's rounding beyond the margin, is the choice.
    """
    n_rows, n = len(x_BD), len(W_ND)
    value_Bk = torch.empty(n_rows, k, dtype=torch.float32, device=x_BD.device)
    index_Bk = torch.empty(n_rows, k, dtype=torch.int64, device=x_BD.device)
    weight = W_ND if shadow_ND is None else shadow_ND
    bias = b_N.to(weight.dtype)
    chunk_rows = 8192 if x_BD.is_cuda else chunk_rows
    buffer = torch.empty(min(chunk_rows, n_rows), n, dtype=weight.dtype, device=x_BD.device)
    weight_DN = weight.t()
    for start in range(0, n_rows, chunk_rows):
        x = x_BD[start : start + chunk_rows]
        pre = torch.addmm(bias, x.to(weight.dtype), weight_DN, out=buffer[: len(x)])
        if shadow_ND is None:
            value, index = topk_rows(pre, k)
        else:
            _, index = topk_rows(pre, min(n, k + max(4, k // 4)))
            exact = sampled_product(x, W_ND, index) + b_N[index]
            value, place = exact.topk(k, dim=-1, sorted=False)
            index = index.gather(1, place)
        value_Bk[start : start + len(x)] = value
        index_Bk[start : start + len(x)] = index
    return value_Bk, index_Bk


def above_rows(pre_BN: Tensor, least: float) -> tuple[Tensor, Tensor, Tensor]:
    """Row, index and value of every entry above ``least``, rows ascending.

    Groups are strided as in ``topk_rows``; only those whose maximum is above are looked into.
    """
    n_rows, n = pre_BN.shape
    if n % GROUP:
        row, index = (pre_BN > least).nonzero(as_tuple=True)
        return row, index, pre_BN[row, index]
    n_groups = n // GROUP
    row, group = (pre_BN.view(n_rows, GROUP, n_groups).amax(1) > least).nonzero(as_tuple=True)
    index = group.unsqueeze(1) + torch.arange(0, n, n_groups, device=pre_BN.device)
    flat = (row * n).unsqueeze(1) + index
    value = pre_BN.view(-1)[flat]
    member = value > least
    return row.unsqueeze(1).expand_as(flat)[member], index[member], value[member]


def encode_above(
    x_BD: Tensor, W_ND: Tensor, b_N: Tensor, threshold: float | Tensor, chunk_rows: int = 512
) -> tuple[Tensor, Tensor]:
    """Pre-activations and indices of all latents above a threshold, B x N never materialised.

    ``threshold``: a number for all latents or one for each ([N]). A row is as long as the fullest one; its padding has
    value 0 and the indices of latents that are not active in it.
    """
    chunk_rows = 8192 if x_BD.is_cuda else chunk_rows
    # one threshold for all is compared with as it is; many are brought to zero, which costs nothing in the bias
    shift_N = threshold if isinstance(threshold, torch.Tensor) and threshold.dim() else None
    least = 0.0 if shift_N is not None else float(threshold)
    bias_N, weight_DN = b_N if shift_N is None else b_N - shift_N, W_ND.t()
    buffer = torch.empty(min(chunk_rows, len(x_BD)), len(W_ND), dtype=x_BD.dtype, device=x_BD.device)
    parts = []
    for start in range(0, len(x_BD), chunk_rows):
        x = x_BD[start : start + chunk_rows]
        row, index, value = above_rows(torch.addmm(bias_N, x, weight_DN, out=buffer[: len(x)]), least)
        parts.append((row + start, index, value if shift_N is None else value + shift_N[index]))
    if not parts:
        return x_BD.new_zeros(0, 1), torch.zeros(0, 1, dtype=torch.int64, device=x_BD.device)
    row_P, index_P, value_P = (torch.cat(column) for column in zip(*parts, strict=True))
    return padded(row_P, index_P, value_P, len(x_BD), len(W_ND))


def padded(row_P: Tensor, index_P: Tensor, value_P: Tensor, n_rows: int, n_latents: int) -> tuple[Tensor, Tensor]:
    """Pairs, rows ascending, as values and indices [B, K] of rows as long as the fullest, one at least.

    Padding has value 0, and indices that are distinct from one another and from the row's own: K of the first K latents are
    either active, and then a place is taken, or free to fill one.
    """
    count_B = torch.bincount(row_P, minlength=n_rows)
    K = max(1, int(count_B.max()) if n_rows else 0)
    place_P = torch.arange(len(row_P), device=row_P.device) - (count_B.cumsum(0) - count_B)[row_P]
    value_BK = value_P.new_zeros(n_rows, K)
    value_BK[row_P, place_P] = value_P
    free_BK = torch.ones(n_rows, K, dtype=torch.bool, device=row_P.device)
    low = index_P < K
    free_BK[row_P[low], index_P[low]] = False
    place_BK = count_B.unsqueeze(1) + free_BK.cumsum(1) - 1
    free_BK &= place_BK < K
    row_F, index_F = free_BK.nonzero(as_tuple=True)
    index_BK = torch.empty(n_rows, K, dtype=torch.int64, device=row_P.device)
    index_BK[row_P, place_P] = index_P
    index_BK[row_F, place_BK[row_F, index_F]] = index_F
    return value_BK, index_BK


def weighted_rows(index_BK: Tensor, weight_ND: Tensor, value_BK: Tensor) -> Tensor:
    """Sum over k of value[b, k] * weight[index[b, k]]: [B, D]."""
    return F.embedding_bag(index_BK, weight_ND, per_sample_weights=value_BK, mode="sum")


def sampled_product(x_BD: Tensor, weight_ND: Tensor, index_BK: Tensor) -> Tensor:
    """x[b] . weight[index[b, k]] for the wanted pairs only: [B, K]."""
    n_rows, k = index_BK.shape
    offsets = torch.arange(0, n_rows * k, k, device=index_BK.device)
    bag_of = torch.arange(n_rows, device=index_BK.device).repeat_interleave(k)
    found = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        x_BD.contiguous(), weight_ND, index_BK.reshape(-1), offsets, bag_of, 0, -1
    )
    return found.view(n_rows, k)


class Transposed(NamedTuple):
    """(token, latent) pairs sorted by latent, so that weight gradients are sums over runs: no atomics."""

    row_P: Tensor
    """Token of each pair."""

    order_P: Tensor
    """Where each pair stood before sorting."""

    starts_N1: Tensor
    """Run of latent n is starts[n] to starts[n + 1]."""

    def rows_of(self, x_BD: Tensor, value_P: Tensor, block: int = 1024) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of [N, D]: for each latent the sum of value * x over its pairs."""
        value_P = value_P[self.order_P]
        starts = self.starts_N1.tolist()[::block] if block < len(self.starts_N1) - 1 else [0]
        n = len(self.starts_N1) - 1
        ends = [*starts[1 : -(-n // block)], int(self.starts_N1[-1])]
        for i, first in enumerate(range(0, n, block)):
            last = min(n, first + block)
            begin, end = starts[i], ends[i]
            bags = self.starts_N1[first:last] - begin
            yield (
                slice(first, last),
                F.embedding_bag(
                    self.row_P[begin:end], x_BD, offsets=bags, per_sample_weights=value_P[begin:end], mode="sum"
                ),
            )


def transposed(index_P: Tensor, row_P: Tensor, n_latents: int) -> Transposed:
    """Sort pairs by latent, stably."""
    ordered, order = index_P.sort(stable=True)
    edges = torch.arange(n_latents + 1, device=index_P.device)
    return Transposed(row_P[order], order, torch.searchsorted(ordered, edges))
