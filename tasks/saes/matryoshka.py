"""Matryoshka SAE: prefixes of the dictionary are dictionaries too, coarse ones for few latents and finer ones for more.

Source: Bussmann et al. 2025, arXiv 2503.17547: the loss is summed over nested prefixes; latents are chosen by BatchTopK.
Shapes: B tokens, D d_in, N n_latents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, field_validator

from tasks.lazy import torch
from tasks.saes.batchtopk import BatchTopK, BatchTopKSAE
from tasks.sparse import Nest, Search
from tasks.spec import SpecError

if TYPE_CHECKING:
    from torch import Tensor


class Matryoshka(BatchTopK):
    """A Matryoshka SAE with BatchTopK."""

    MAKES: ClassVar[str] = "MatryoshkaSAE"

    kind: Literal["matryoshka"] = "matryoshka"  # type: ignore[assignment]

    prefixes: tuple[float, ...] = Field((1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0), min_length=1)
    """Ends of the nested prefixes, as shares of n_latents, ascending to 1."""

    @field_validator("prefixes")
    @classmethod
    def _ascend(cls, prefixes: tuple[float, ...]) -> tuple[float, ...]:
        if any(a >= b for a, b in zip((0.0, *prefixes), prefixes, strict=False)) or prefixes[-1] != 1.0:
            raise SpecError(f"sae.prefixes = {list(prefixes)}, but prefixes ascend from above 0 and end at 1; order them so")
        return prefixes

    def widths(self, n_latents: int) -> list[int]:
        """Latents in each prefix."""
        return [max(1, round(share * n_latents)) for share in self.prefixes]


class MatryoshkaSAE(BatchTopKSAE):
    """The dictionary of a ``Matryoshka`` spec."""

    spec: Matryoshka

    def nest(self, inner_BD: Tensor, search: Search, k: float) -> Nest:
        nest = super().nest(inner_BD, search, k)
        pairs, ends = nest.groups[0], self.spec.widths(search.of or self.n_latents)
        part_P = torch.bucketize(pairs.index_P + search.first, torch.tensor(ends, device=pairs.index_P.device), right=True)
        groups = [pairs.where(part_P == part) for part in range(len(ends))]
        return nest._replace(groups=groups, weights=[1.0] * len(ends), main=self.main())

    def chosen(self, score_BN: Tensor, k: float) -> list[tuple[float, Tensor]]:
        ((_, mask_BN),) = super().chosen(score_BN, k)
        ends = self.spec.widths(self.n_latents)
        groups = [torch.zeros_like(mask_BN) for _ in ends]
        for group_BN, first, last in zip(groups, [0, *ends], ends, strict=False):
            group_BN[:, first:last] = mask_BN[:, first:last]
        return [(1.0, group_BN) for group_BN in groups]

    def main(self) -> int:
        return -1
