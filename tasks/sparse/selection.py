"""Exact selection in dense scores: the k largest of each row, and all above a bound. Shapes as in the package.

Groups are strided (latents n, n + N/g, n + 2 N/g, ...), so that their maxima are one vectorised pass over contiguous memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.lazy import np, torch

if TYPE_CHECKING:
    from torch import Tensor

_FAN = 4
"""Entries in a group."""

_FEW_THREADS = 8
"""Up to so many threads numpy's vectorised partition, on one, is faster than torch's on all."""


def topk_rows(score_BN: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and indices of the k largest of each row, exact, in no particular order.

    The k largest lie in the k groups of largest maximum, which are found in the same way, by groups of groups.
    """
    n_rows, n = score_BN.shape
    if n % _FAN or n // _FAN < 2 * k or score_BN.is_cuda:
        return _topk(score_BN, k)
    n_groups = n // _FAN
    _, group_Bk = topk_rows(_maxima(score_BN), k)
    index = group_Bk.unsqueeze(1) + torch.arange(0, n, n_groups, device=score_BN.device).view(1, _FAN, 1)
    index = index.view(n_rows, _FAN * k)
    value, place = _topk(score_BN.gather(1, index), k)
    return value, index.gather(1, place)


def _topk(score_BC: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``torch.topk``; on a few threads of a CPU by one partition of whole numbers that hold value and place."""
    n = score_BC.shape[1]
    wide = score_BC.dtype == torch.float32
    if score_BC.device.type != "cpu" or torch.get_num_threads() > _FEW_THREADS or not (wide or score_BC.dtype == torch.bfloat16):
        return score_BC.topk(k, dim=-1, sorted=False)
    if not wide and n > 1 << 16:
        return score_BC.topk(k, dim=-1, sorted=False)
    bits, whole, shift = (torch.int32, torch.int64, 32) if wide else (torch.int16, torch.int32, 16)
    key = score_BC.contiguous().view(bits)
    key = (key ^ ((key >> (shift - 1)) & torch.iinfo(bits).max)).to(whole)  # ascends as the numbers do, below zero too
    key = key.bitwise_left_shift_(shift).add_(torch.arange(n, dtype=whole))
    held = key.numpy()
    if k < n:
        held.partition(n - k, axis=-1)
    place = (key[:, n - k :] & ((1 << shift) - 1)).long()
    return score_BC.gather(1, place), place


def above_rows(score_BN: Tensor, least: float) -> tuple[Tensor, Tensor, Tensor]:
    """Row, index and value of every entry above ``least``, rows ascending: only groups are looked into whose maximum is."""
    n = score_BN.shape[1]
    if n % _FAN:
        row, index = (score_BN > least).nonzero(as_tuple=True)
        return row, index, score_BN[row, index]
    n_groups = n // _FAN
    hit = _true(_maxima(score_BN) > least)
    row = hit.div(n_groups, rounding_mode="floor")
    # where the group's first entry stands, and the others n_groups apart
    flat = (hit + row * (n - n_groups)).unsqueeze(1) + torch.arange(0, n, n_groups, device=score_BN.device)
    flat = flat.view(-1)
    value = score_BN.view(-1)[flat]
    member = (value > least).nonzero().squeeze(1)
    flat, row = flat[member], row.repeat_interleave(_FAN)[member]
    return row, flat - row * n, value[member]


def _maxima(score_BN: Tensor) -> Tensor:
    """The largest of each group."""
    if score_BN.dtype != torch.bfloat16 or score_BN.is_cuda:
        return score_BN.view(len(score_BN), _FAN, -1).amax(1)
    for _ in range(2):  # a third faster than amax
        score_BN = torch.maximum(*score_BN.chunk(2, dim=1))
    return score_BN


def _true(mask: Tensor) -> Tensor:
    """Where a mask is true, flat. Few places are: words of eight are looked through first."""
    if mask.numel() % 8 or mask.is_cuda:
        return mask.view(-1).nonzero().squeeze(1)
    word = mask.view(-1).view(torch.int64).nonzero().squeeze(1)
    within = mask.view(-1, 8)[word].view(-1).nonzero().squeeze(1)
    return word[within >> 3] * 8 + (within & 7)


def nth_largest(value_P: Tensor, n: int) -> Tensor:
    """The n-th largest of some numbers, or the least of them where there are fewer."""
    n = min(n, len(value_P))
    if value_P.device.type != "cpu":
        return value_P.topk(n, sorted=False).values.min()
    return torch.as_tensor(np.partition(value_P.numpy(), len(value_P) - n)[len(value_P) - n])


def padded(row_P: Tensor, index_P: Tensor, value_P: Tensor, n_rows: int) -> tuple[Tensor, Tensor]:
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
