"""Encoders: pre-activations are made a chunk of rows at a time and never held as B x N. Shapes as in the package.

Where bfloat16 products are faster, latents are searched with bfloat16 weights and a margin of candidates, and candidates are
scored again in float32: values are exact, and so, but for ties closer than bfloat16's rounding beyond the margin, is the choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.lazy import torch
from tasks.sparse.peers import ALONE, Peers
from tasks.sparse.products import Pairs, sampled_product
from tasks.sparse.selection import above_rows, nth_largest, padded, topk_rows

if TYPE_CHECKING:
    from torch import Tensor

_CHUNK = 512
"""Rows whose pre-activations are held at a time, so that they stay in the cache."""

_CHUNK_CUDA = 8192

_SAMPLE_ROWS, _SAMPLE = 64, 1 << 18
"""Rows and scores looked at to guess how large the n-th largest is."""


class Search(NamedTuple):
    """An encoder, and how to search in it."""

    W_ND: Tensor
    b_N: Tensor
    shadow_ND: Tensor | None = None
    """A bfloat16 copy of the weights; None: search in float32."""

    scale_N: Tensor | None = None
    """Latents are chosen by pre-activation times this; None: by the pre-activation."""

    first: int = 0
    """Where the encoder's latents begin in those of the SAE, of which other processes may have the others."""

    of: int | None = None
    """How many latents the SAE has; None: those of the encoder."""

    rows: Peers = ALONE
    """Processes with the other rows of the batch."""

    latents: Peers = ALONE
    """Processes with the other latents."""

    @property
    def peers(self) -> Peers:
        """Processes with other pairs of the batch, by row or by latent."""
        return self.rows if self.rows.size > 1 else self.latents

    def scores(self, x_BD: Tensor) -> Iterator[tuple[int, Tensor]]:
        """First row and scores of each chunk, in a buffer that the next one overwrites."""
        weight_ND = self.W_ND if self.shadow_ND is None else self.shadow_ND
        bias_N, weight_DN = self.b_N.to(weight_ND.dtype), weight_ND.t()
        scale_N = None if self.scale_N is None else self.scale_N.to(weight_ND.dtype)
        size = min(len(x_BD), _CHUNK_CUDA if x_BD.is_cuda else _CHUNK)
        buffer = torch.empty(size, len(weight_ND), dtype=weight_ND.dtype, device=x_BD.device)
        for start in range(0, len(x_BD), max(1, size)):
            x = x_BD[start : start + size]
            score = torch.addmm(bias_N, x.to(weight_ND.dtype), weight_DN, out=buffer[: len(x)])
            yield start, score if scale_N is None else score.mul_(scale_N)

    def topk(self, x_BD: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Pre-activations (float32) and indices [B, k] of the k latents of largest score of each token."""
        n = len(self.W_ND)
        if k == 0:
            return x_BD.new_zeros(len(x_BD), 0), torch.zeros(len(x_BD), 0, dtype=torch.int64, device=x_BD.device)
        wide = k if self.shadow_ND is None else min(n, k + max(4, k // 4))
        index = torch.empty(len(x_BD), wide, dtype=torch.int64, device=x_BD.device)
        value = x_BD.new_empty(len(x_BD), wide)
        for start, score in self.scores(x_BD):
            found, where = topk_rows(score, wide)
            index[start : start + len(score)] = where
            if self.shadow_ND is None:
                value[start : start + len(score)] = found
        if self.shadow_ND is None:
            return self._unscaled(value, index), index
        pre = sampled_product(x_BD, self.W_ND, index).add_(self.b_N[index])
        _, place = topk_rows(pre if self.scale_N is None else pre * self.scale_N[index], k)
        return pre.gather(1, place), index.gather(1, place)

    def groupmax(self, x_BD: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Pre-activations and indices [B, k] of the largest of each of k runs of latents. Searches in float32."""
        each = len(self.W_ND) // k
        value, index = [], []
        for _, score in self._replace(shadow_ND=None).scores(x_BD):
            largest, place = score.view(len(score), k, each).max(-1)
            value.append(largest)
            index.append(place + torch.arange(0, k * each, each, device=x_BD.device))
        found = torch.cat(index)
        return self._unscaled(torch.cat(value), found), found

    def above(self, x_BD: Tensor, least: float) -> Pairs:
        """All pairs whose score is above a bound. They hold scores, as searched, in place of pre-activations: see ``exact``."""
        parts = []
        for start, score in self.scores(x_BD):
            row, index, value = above_rows(score, least)
            parts.append((row + start, index, value))
        row_P, index_P, value_P = (torch.cat(column) for column in zip(*parts, strict=True))
        return Pairs.at(row_P, index_P, value_P, len(x_BD))

    def exact(self, found: Pairs, x_BD: Tensor) -> Pairs:
        """Pairs that ``above`` found, with their pre-activations."""
        if self.shadow_ND is None:
            return found._replace(pre_P=self._unscaled(found.pre_P, found.index_P))
        return found._replace(pre_P=found.product_of(x_BD, self.W_ND).add_(self.b_N[found.index_P]))

    def guess(self, x_BD: Tensor, n: int) -> float:
        """A bound, of a sample of the scores, that somewhat more than ``n`` pairs of the batch are above; 0 at least. Of several
        processes, each with a share of the ``n``, the lowest."""
        return self.peers.least(self._guess(x_BD, n / self.peers.size))

    def _guess(self, x_BD: Tensor, n: float) -> float:
        _, score = next(self.scores(x_BD[:: max(1, len(x_BD) // _SAMPLE_ROWS)][:_CHUNK]))
        # an odd step meets all latents of all these rows
        sample = score.view(-1)[:: max(1, score.numel() // _SAMPLE) | 1].float()
        share = 1.2 * n * len(sample) / (len(x_BD) * len(self.W_ND))
        rank = round(share + 3 * share**0.5 + 3)
        if rank >= len(sample):
            return 0.0
        least = max(0.0, float(nth_largest(sample, rank)))
        return least if self.shadow_ND is None else least * (1 - 2**-8)  # bfloat16 has ties, and they belong in

    def scored(self, pairs: Pairs) -> Tensor:
        """The score of each pair."""
        return pairs.pre_P if self.scale_N is None else pairs.pre_P * self.scale_N[pairs.index_P]

    def _unscaled(self, value: Tensor, index: Tensor) -> Tensor:
        if self.scale_N is None:
            return value
        return value / self.scale_N[index].clamp_min(torch.finfo(value.dtype).tiny)


def encode_topk(x_BD: Tensor, W_ND: Tensor, b_N: Tensor, k: int, shadow_ND: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Pre-activations (float32) and indices of the k largest latents of each token."""
    return Search(W_ND, b_N, shadow_ND).topk(x_BD, k)


def encode_groupmax(x_BD: Tensor, W_ND: Tensor, b_N: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Pre-activations and indices of the largest latent of each of k runs of N / k latents."""
    return Search(W_ND, b_N).groupmax(x_BD, k)


def encode_above(
    x_BD: Tensor, W_ND: Tensor, b_N: Tensor, threshold: float | Tensor, scale_N: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Pre-activations and indices of all latents above a threshold.

    ``threshold``: a number for all latents or one for each ([N]), against the pre-activation (times ``scale_N``, with a number
    for all). A row is as long as the fullest one; its padding has value 0 and the indices of latents that are not active in it.
    """
    if len(x_BD) == 0:
        return x_BD.new_zeros(0, 1), torch.zeros(0, 1, dtype=torch.int64, device=x_BD.device)
    if isinstance(threshold, torch.Tensor) and threshold.dim():
        # a bias brings all thresholds to zero, at no cost
        pairs = Search(W_ND, b_N - threshold).above(x_BD, 0.0)
        pairs = pairs._replace(pre_P=pairs.pre_P + threshold[pairs.index_P])
    else:
        search = Search(W_ND, b_N, scale_N=scale_N)
        pairs = search.exact(search.above(x_BD, float(threshold)), x_BD)
    return padded(pairs.row_P(), pairs.index_P, pairs.pre_P, len(x_BD))


def fast_bf16(device: Any) -> bool:
    """Whether matrix products in bfloat16 are faster than in float32 here: CUDA, and CPUs with AMX or AVX512-BF16.

    By what the machine says, not by a stopwatch: a resumed run must decide as it did before.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, probe, bool)() for probe in probes)
