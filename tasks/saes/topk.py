"""TopK SAE: the k largest pre-activations of each token are kept, all others are zero.

Source: Gao et al. 2024, arXiv 2406.04093, sections 2.3 (TopK), A.1 (initialisation), A.2 (AuxK) and 5.3 (Multi-TopK).
Shapes: B tokens, D d_in, N n_latents, K = k active latents of a token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tasks.lazy import torch
from tasks.saes._sparse import SparseSAE, SparseSpec
from tasks.saes.base import Latents
from tasks.sparse import Nest, Pairs, Search
from tasks.spec import SpecError

if TYPE_CHECKING:
    from torch import Tensor

_MULTI, _MULTI_WEIGHT = 4, 1 / 8


class TopK(SparseSpec):
    """A TopK SAE, with unit-norm decoder rows unless they are free."""

    MAKES: ClassVar[str] = "TopKSAE"
    KEEPS_KEY: ClassVar[dict[str, Any]] = {**SparseSpec.KEEPS_KEY, "groupmax": False, "multi_topk": False}

    kind: Literal["topk"] = "topk"

    k: int = Field(32, ge=1)
    """Active latents of each token."""

    groupmax: bool = False
    """Keep the largest of each of k runs of n_latents / k latents, as sparsify can, instead of the k largest of all."""

    multi_topk: bool = False
    """Add the loss with 4 k active latents, weighted 1/8, so that the SAE bears other numbers of them than it was trained with."""

    def check(self, d_in: int, d_out: int | None = None) -> None:
        super().check(d_in, d_out)
        n = self.size(d_in)
        if self.groupmax and n % self.k:
            raise SpecError(
                f"sae.k = {self.k}, but {n} latents are not {self.k} equal groups, which sae.groupmax needs; use a k that divides {n}"
            )
        if self.groupmax and self.multi_topk:
            raise SpecError(
                "sae.multi_topk = true, but sae.groupmax chooses one latent of each of k groups, and there are no 4 k groups; "
                "use one of them"
            )
        if self.multi_topk and _MULTI * self.k > n:
            raise SpecError(
                f"sae.k = {self.k}, but sae.multi_topk takes {_MULTI} k latents of {n}; use a smaller k or a larger sae.expansion_factor"
            )


    def check_shares(self, n_processes: int, n_latents: int) -> None:
        super().check_shares(n_processes, n_latents)
        if self.groupmax and self.k % n_processes:
            raise SpecError(
                f"sae.k = {self.k}, but {n_processes} processes cannot share that many groups of latents; use runtime.shard=batch"
            )


class TopKSAE(SparseSAE):
    """The dictionary of a ``TopK`` spec."""

    EQUATION: ClassVar[str] = "relu(topk(z @ W_enc.T + b_enc, k))"

    spec: TopK

    def encode(self, x_BD: Tensor) -> Latents:
        pre, index = self._search(self.inner(x_BD), Search(self.W_enc_ND, self.b_enc_N, scale_N=self.scale_N()), self.spec.k)
        return Latents(index, pre.relu())

    def _search(self, inner_BD: Tensor, search: Search, k: int) -> tuple[Tensor, Tensor]:
        return search.groupmax(inner_BD, k) if self.spec.groupmax else search.topk(inner_BD, k)

    def nest(self, inner_BD: Tensor, search: Search, k: float) -> Nest:
        k, peers = self._whole(k, search.of), search.latents
        if self.spec.groupmax:
            pre, index = search.groupmax(inner_BD, k // peers.size)
            return Nest([Pairs.of(index, pre)], [1.0])
        wide = _MULTI * k if self.spec.multi_topk else k
        pre, index = search.topk(inner_BD, min(wide, len(search.W_ND)))
        pairs = Pairs.of(index, pre)
        if wide == k and peers.size == 1:
            return Nest([pairs], [1.0])
        score = search.scored(pairs).view(pre.shape)
        groups, chosen = [], torch.zeros_like(score, dtype=torch.bool)
        for most in (k, wide) if wide > k else (k,):
            among = score >= (peers.kth_of_rows(score, most) if most < wide or peers.size > 1 else -torch.inf)
            groups.append(pairs.where((among & ~chosen).view(-1)))
            chosen = among
        return Nest(groups, [1.0, _MULTI_WEIGHT][: len(groups)])

    def chosen(self, score_BN: Tensor, k: float) -> list[tuple[float, Tensor]]:
        k = self._whole(k)
        none_BN = torch.zeros_like(score_BN)
        if self.spec.groupmax:
            grouped = score_BN.unflatten(1, (k, -1))
            return [(1.0, torch.zeros_like(grouped).scatter(2, grouped.argmax(2, keepdim=True), 1.0).flatten(1))]
        first_BN = none_BN.scatter(1, score_BN.topk(k, dim=-1).indices, 1.0)
        if not self.spec.multi_topk:
            return [(1.0, first_BN)]
        more_BN = none_BN.scatter(1, score_BN.topk(_MULTI * k, dim=-1).indices, 1.0)
        return [(1.0, first_BN), (_MULTI_WEIGHT, more_BN - first_BN)]

    def _whole(self, k: float, n_latents: int | None = None) -> int:
        k = max(1, round(k))
        if self.spec.groupmax and k != self.spec.k:
            raise SpecError(
                f"sae.k = {self.spec.k}, but k is to be annealed, and sae.groupmax has as many groups as k; turn one of them off"
            )
        return min(k, (n_latents or self.n_latents) // (_MULTI if self.spec.multi_topk else 1))
