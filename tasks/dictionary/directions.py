"""Directions of a dictionary: cosines of rows, and the nearest of each. Shapes: N and M latents, D width, B latents of a
block, K nearest.

All of it goes block by block: memory is a block's cosines, never N x N.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from tasks.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

CELLS = 1 << 25
"""Cosines of a block: 128 MiB of float32, whatever N is."""

BINS = 200
"""Of histograms, from -1 to 1."""

_COUNTED = 4096
"""Latents whose cosines with all later ones are counted in a histogram; of larger dictionaries evenly as many."""


class Nearest(NamedTuple):
    """The rows that point most nearly the same way, the nearest first."""

    index_NK: Tensor
    """int64."""

    value_NK: Tensor
    """Cosine, float32; -inf where there are fewer than K, and the index then means nothing."""


class Within(NamedTuple):
    """How the rows of one dictionary lie to one another."""

    nearest: Nearest
    """Of each row, never itself."""

    histogram: Tensor
    """int64 (BINS,): cosines of pairs, each pair counted once."""

    n_pairs: int
    """Pairs counted: all of N (N - 1) / 2, or an even sample of them."""

    @property
    def mean_max(self) -> float:
        """Mean over rows of the cosine with their nearest (SAEBench: average_max_decoder_cosine_sim)."""
        return mean_max(self.nearest)


def mean_max(nearest: Nearest) -> float:
    """MMCS: mean over rows of the cosine with the nearest (arXiv 2309.08600, section 3); 0 for a row that has none."""
    value_NK = nearest.value_NK
    return float(value_NK[:, 0].nan_to_num(neginf=0.0).double().mean()) if value_NK.numel() else 0.0


def lengths(W_ND: Tensor) -> Tensor:
    """Length of each row, float32, and never 0: a row of zeros has cosine 0 with any."""
    return W_ND.float().norm(dim=1).clamp_min(1e-12)


def cosines(a_BD: Tensor, W_ND: Tensor, length_N: Tensor) -> Tensor:
    """Cosines (B, N) of some rows with all of W, whose lengths are given, since they are asked for again and again."""
    return ((a_BD.float() / lengths(a_BD)[:, None]) @ W_ND.float().T).div_(length_N)


def nearest(cos_BN: Tensor, k: int, own_B: Tensor, barred_N: Tensor | None = None) -> Nearest:
    """The k nearest of each row by cosines, which are overwritten where something is left out.

    ``own_B``: the column that each row is itself, which is not its own neighbour. ``barred_N``: columns (bool) that are
    nobody's neighbours.
    """
    if barred_N is not None:
        cos_BN.masked_fill_(barred_N, -torch.inf)
    cos_BN.scatter_(1, own_B[:, None], -torch.inf)
    value, index = cos_BN.topk(min(k, cos_BN.shape[1]), dim=1)
    return Nearest(index, value)


def within(W_ND: Tensor, k: int, step: Callable[[int], None] = lambda n: None) -> Within:
    """Cosines of all rows with one another: the k nearest of each, and how all are spread.

    Each pair is multiplied once. ``step`` is told of rows that are done.
    """
    N = len(W_ND)
    unit_ND = W_ND.float() / lengths(W_ND)[:, None]
    best = _Best(N, k, W_ND.device)
    histogram, n_pairs, every = torch.zeros(BINS, dtype=torch.int64), 0, -(-N // _COUNTED)
    size = max(1, min(1024, CELLS // max(1, N)))
    for start in range(0, N, size):
        cos_BM = unit_ND[start : start + size] @ unit_ND[start:].T  # with itself and what comes after it
        counted = torch.arange(-start % every, len(cos_BM), every, device=cos_BM.device)
        before = torch.arange(cos_BM.shape[1], device=cos_BM.device) <= counted[:, None]
        rows = cos_BM[counted].clamp_(-1.0, 1.0).masked_fill_(before, 2.0)  # 2 is in no bin
        histogram += torch.histc(rows, BINS, -1.0, 1.0).long().cpu()
        n_pairs += int((~before).sum())
        cos_BM[:, : len(cos_BM)].fill_diagonal_(-torch.inf)
        best.take(start, start, cos_BM)
        best.take(start + len(cos_BM), start, cos_BM[:, len(cos_BM) :].T)
        step(len(cos_BM))
    return Within(best.found, histogram, n_pairs)


def between(
    A_ND: Tensor, B_MD: Tensor, k: int, step: Callable[[int], None] = lambda n: None
) -> tuple[Nearest, Nearest]:
    """Of each row of A the k nearest of B, and of each row of B the k nearest of A."""
    length_M = lengths(B_MD)
    ours, theirs = _Best(len(A_ND), k, A_ND.device), _Best(len(B_MD), k, A_ND.device)
    size = max(1, min(1024, CELLS // max(1, len(B_MD))))
    for start in range(0, len(A_ND), size):
        cos_BM = cosines(A_ND[start : start + size], B_MD, length_M)
        ours.take(start, 0, cos_BM)
        theirs.take(0, start, cos_BM.T)
        step(len(cos_BM))
    return ours.found, theirs.found


class _Best:
    """The k largest of each row, of blocks that come one after another."""

    def __init__(self, n: int, k: int, device: torch.device) -> None:
        self.found = Nearest(
            torch.zeros(n, k, dtype=torch.int64, device=device), torch.full((n, k), -torch.inf, device=device)
        )

    def take(self, row: int, column: int, value_BM: Tensor) -> None:
        """A block whose first cell is at (row, column)."""
        B, M = value_BM.shape
        k = self.found.value_NK.shape[1]
        if not B or not M or not k:
            return
        value, index = value_BM.contiguous().topk(min(k, M), dim=1)
        rows = slice(row, row + B)
        value = torch.cat([self.found.value_NK[rows], value], 1)
        index = torch.cat([self.found.index_NK[rows], index + column], 1)
        value, place = value.topk(k, dim=1)
        self.found.value_NK[rows], self.found.index_NK[rows] = value, index.gather(1, place)
