"""BatchTopK SAE: the B k largest activations of a batch are kept, so that tokens share latents out among themselves.

Source: Bussmann et al. 2024, arXiv 2412.06410. At inference latents are active above a threshold, the average of the smallest
activation kept in training. Shapes: B tokens, D d_in, N n_latents, P pairs of a token and a latent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tasks.lazy import torch
from tasks.saes._sparse import SparseSAE, SparseSpec
from tasks.saes.base import Latents
from tasks.sparse import Pairs, Search, encode_above
from tasks.sparse.selection import nth_largest

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.learning.sparse import Nest


class BatchTopK(SparseSpec):
    """A BatchTopK SAE, with unit-norm decoder rows unless they are free."""

    MAKES: ClassVar[str] = "BatchTopKSAE"

    kind: Literal["batchtopk"] = "batchtopk"

    k: float = Field(32, gt=0)
    """Active latents of a token, on average over a batch."""

    threshold_decay: float = Field(0.99, ge=0, lt=1)
    """Weight of the past in the running average that makes the threshold; 0.99 looks back 100 steps."""

    def drawn(self, d_in: int, seed: int, d_out: int) -> dict[str, Tensor]:
        return {**super().drawn(d_in, seed, d_out), "threshold": torch.zeros(())}


class BatchTopKSAE(SparseSAE):
    """The dictionary of a ``BatchTopK`` spec."""

    TENSORS: ClassVar[tuple[str, ...]] = (*SparseSAE.TENSORS, "threshold")
    """``threshold``: a scalar, 0 before training; with ``rescale_by_row_norm``, of pre-activation times length of the row."""

    EQUATION: ClassVar[str] = "(z @ W_enc.T + b_enc > threshold) * relu(z @ W_enc.T + b_enc)"

    spec: BatchTopK
    threshold: Tensor

    def encode(self, x_BD: Tensor) -> Latents:
        least = max(0.0, float(self.threshold))
        value, index = encode_above(self.inner(x_BD), self.W_enc_ND, self.b_enc_N, least, self.scale_N())
        return Latents(index, value)

    def nest(self, inner_BD: Tensor, search: Search, k: float) -> Nest:
        from tasks.learning.sparse import Nest

        pairs, least = largest_of_batch(inner_BD, search, self._kept(len(inner_BD), k))
        return Nest([pairs], [1.0], least=least)

    def chosen(self, score_BN: Tensor, k: float) -> list[tuple[float, Tensor]]:
        flat = score_BN.reshape(-1).relu()
        best = flat.topk(min(len(flat), self._kept(len(score_BN), k))).indices
        return [(1.0, torch.zeros_like(flat).scatter(0, best, 1.0).view_as(score_BN))]

    def _kept(self, n_rows: int, k: float) -> int:
        return max(1, round(n_rows * k))

    def learnt(self, nest: Nest, first: bool) -> None:
        if nest.least is not None:
            self.threshold.lerp_(nest.least, 1.0 if first else 1 - self.spec.threshold_decay)


def largest_of_batch(x_BD: Tensor, search: Search, n: int) -> tuple[Pairs, Tensor | None]:
    """The ``n`` pairs of largest score above 0 in a batch, and the smallest such score; None if no score is above 0.

    Exact: pairs are admitted above a bound that a sample suggests, and admitted again above a lower one when too few were.
    """
    bound = search.guess(x_BD, n)
    while True:
        pairs = search.above(x_BD, bound)
        score = search.scored(pairs)
        positive = score > 0
        pairs, score = pairs.where(positive), score[positive]
        if len(score) == 0:
            if bound == 0:
                return pairs, None
        else:
            least = nth_largest(score, n)
            # what bfloat16 rounds away may have kept a pair out that belongs in
            room = 0.0 if search.shadow_ND is None else 2**-7 * least
            if bound == 0 or (len(score) >= n and least - room >= bound):
                kept = score >= least
                return pairs.where(kept), least
        bound = bound / 2 if bound > 1e-3 else 0.0
