"""What kinds share that keep few latents of a batch: AuxK, free decoder rows, and the dense definition of their losses.

Shapes: B tokens, D d_in, O d_out, N n_latents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from tasks.lazy import F, torch
from tasks.learning.base import fvu
from tasks.saes.base import SAE, SAESpec
from tasks.spec import SpecError

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.learning.sparse import SparseLearner
    from tasks.sparse import Nest, Search


class SparseSpec(SAESpec):
    """Fields that all of them have."""

    KEEPS_KEY: ClassVar[dict[str, Any]] = {**SAESpec.KEEPS_KEY, "rescale_by_row_norm": False, "blocks": 1, "encoder_scale": 1.0}

    SPREADS: ClassVar[bool] = True

    aux_coefficient: float = Field(1 / 32, ge=0)
    """Weight of AuxK, which lets dead latents model what the live ones leave over; 0 turns it off."""

    k_aux: int | None = Field(None, ge=1)
    """Dead latents of each token that AuxK uses; null takes d_in / 2."""

    rescale_by_row_norm: bool = False
    """Decoder rows keep no fixed length, and latents are chosen by pre-activation times the length of their row."""

    blocks: int = Field(1, ge=1)
    """Sites of a crosscoder: with ``rescale_by_row_norm``, the length of a row is the sum of those of so many equal parts of it."""

    encoder_scale: float = Field(1.0, gt=0)
    """Length of encoder rows at first, where others and Gao et al. have 1. With 0.3, batchtopk and matryoshka come to an FVU 8 to 11%
    lower on a small model's residual stream and find more of planted dictionaries: where tokens compete for latents, those that
    begin large crowd the others out. So ``conf/sae`` has 0.3 for these two."""

    def drawn(self, d_in: int, seed: int, d_out: int) -> dict[str, Tensor]:
        found = super().drawn(d_in, seed, d_out)
        return {**found, "W_enc_ND": found["W_enc_ND"] * self.encoder_scale}

    def check(self, d_in: int, d_out: int | None = None) -> None:
        super().check(d_in, d_out)
        width, n = d_in if d_out is None else d_out, self.size(d_in)
        k: float = getattr(self, "k", 1)
        if k > n:
            how = f"{self.expansion_factor:g} x d_in {d_in}" if self.n_latents is None else "sae.n_latents"
            raise SpecError(
                f"sae.k = {k}, but there are {n} latents ({how}); use a smaller k or a larger sae.expansion_factor"
            )
        if width % self.blocks:
            raise SpecError(
                f"sae.blocks = {self.blocks}, but decoder rows of {width} numbers are not that many equal parts; "
                "give the number of hookpoints that the crosscoder writes"
            )


class SparseSAE(SAE):
    """A dictionary whose active latents are few."""

    TRAINED: ClassVar[frozenset[str]] = frozenset({"W_enc_ND", "b_enc_N", "W_dec_ND", "b_dec_D", "W_skip_OD"})
    """Weights with a gradient."""

    @property
    def UNIT_ROWS(self) -> bool:
        """Whether decoder rows are held at length 1."""
        return not self.spec.rescale_by_row_norm

    def row_lengths(self) -> Tensor:
        """As every SAE's; but where latents compete by pre-activation, those whose rows are zeros go with the others."""
        length_N = super().row_lengths()
        zero_N = ~self.W_dec_ND.detach().any(dim=-1)
        if not self.UNIT_ROWS or not zero_N.any() or zero_N.all():
            return length_N
        return torch.where(zero_N, length_N[~zero_N].mean(), length_N)

    def restart(self, latent_n: Tensor, direction_nD: Tensor) -> None:
        """As every SAE's, but with encoder rows of the mean length: latents that are chosen by size fire only if they are as large
        as others, and do not disturb if they are not."""
        length = self.W_enc_ND.norm(dim=-1).mean()
        super().restart(latent_n, direction_nD)
        with torch.no_grad():
            self.W_enc_ND[latent_n] = F.normalize(direction_nD, dim=-1) * length

    def nest(self, inner_BD: Tensor, search: Search, k: float) -> Nest:
        """The active pairs: the fast form of ``chosen``."""
        raise NotImplementedError

    def chosen(self, score_BN: Tensor, k: float) -> list[tuple[float, Tensor]]:
        """The dense form: weight and mask of each group of active pairs, of which each is added to all before it."""
        raise NotImplementedError

    def main(self) -> int:
        """The group with which the reconstruction is the SAE's own."""
        return 0

    def learnt(self, nest: Nest, first: bool) -> None:
        """Take what a step showed; ``first``: it was the first of the training."""

    def scale_N(self) -> Tensor | None:
        """By what pre-activations are multiplied to choose; None: by nothing."""
        if self.UNIT_ROWS:
            return None
        return self.W_dec_ND.detach().unflatten(1, (self.spec.blocks, -1)).norm(dim=-1).sum(-1)

    def loss(
        self, x_BD: Tensor, dead_N: Tensor, y_BD: Tensor | None = None, sparsity: float = 1.0, k: float | None = None
    ) -> dict[str, Tensor]:
        """The dense definition, for autograd; the fast learner is held against it."""
        spec, y_BO = self.spec, x_BD if y_BD is None else y_BD
        pre_BN = self.inner(x_BD) @ self.W_enc_ND.T + self.b_enc_N
        scale_N = self.scale_N()
        score_BN = pre_BN.detach() if scale_N is None else pre_BN.detach() * scale_N
        active_BN, total, errors = torch.zeros_like(pre_BN), torch.zeros((), dtype=x_BD.dtype, device=x_BD.device), []
        for weight, mask_BN in self.chosen(score_BN, spec.k if k is None else k):
            active_BN = active_BN + pre_BN.relu() * mask_BN
            hat_BO = self.around(active_BN @ self.W_dec_ND, x_BD)
            total = total + weight * fvu(y_BO, hat_BO)
            errors.append((hat_BO - y_BO).detach())
        aux = torch.zeros_like(total)
        which = dead_N.nonzero().squeeze(1)
        if spec.aux_coefficient and len(which):
            k_aux = spec.k_aux or max(1, self.d_in // 2)
            place = score_BN[:, which].topk(min(k_aux, len(which)), dim=-1).indices
            dead_BN = torch.zeros_like(pre_BN).scatter(1, which[place], 1.0) * pre_BN.relu()
            aux = min(1.0, len(which) / k_aux) * fvu(-errors[self.main()], dead_BN @ self.W_dec_ND)
        return {"total": total + spec.aux_coefficient * aux, "aux_loss": aux}

    def learner(self, **options: Any) -> SparseLearner:
        from tasks.learning.sparse import SparseLearner

        return SparseLearner(self, **options)
