"""Feature absorption: the latent for a property stays silent where a more particular one, which also points that way,
fires in its place. Shapes: R tokens that have the property, D width, N latents, K active latents of a token.

What arXiv 2409.14507 measures by ablation is measured here as SAEBench 0.4 does (arXiv 2503.09532, appendix): by how much of
the activation's projection on the probe each active latent writes, so that no language model is run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tasks.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

COSINE_OF_SEVERAL = 0.1
"""Cosine with the probe from which on a latent may be one of those that absorb a part."""

COSINE_OF_ONE = 0.025
"""Cosine with the probe from which on a latent may absorb all."""

SHARE = 0.4
"""Of the activation's projection on the probe, what absorbing latents must write."""

MOST = 3
"""Latents that may absorb a token together."""


class Absorption(NamedTuple):
    """What became of a property on each token that has it."""

    fraction_R: Tensor
    """float32, 0 to 1: of what is written along the probe, the part that absorbing latents write and not the main ones."""

    full_R: Tensor
    """bool: no main latent fires, and one other writes most of it."""

    absorber_R: Tensor
    """int64: the latent, other than the main ones, that writes most along the probe; -1 where none writes anything."""

    share_R: Tensor
    """float32: of the activation's projection, what that latent writes."""

    @property
    def mean_fraction(self) -> float:
        """Mean absorption fraction; 0 of no tokens."""
        return float(self.fraction_R.double().mean()) if len(self.fraction_R) else 0.0

    @property
    def full_rate(self) -> float:
        """Share of tokens that are absorbed in full; 0 of no tokens."""
        return float(self.full_R.double().mean()) if len(self.full_R) else 0.0


def absorption(
    index_RK: Tensor, value_RK: Tensor, W_dec_ND: Tensor, probe_D: Tensor, projection_R: Tensor, main: tuple[int, ...]
) -> Absorption:
    """``projection_R``: of each token's activation on the probe's unit vector. ``main``: the latents for the property."""
    unit_D = probe_D / probe_D.norm().clamp_min(1e-12)
    along_N = W_dec_ND.float() @ unit_D
    cosine_N = along_N / W_dec_ND.float().norm(dim=1).clamp_min(1e-12)
    main_N = torch.zeros(len(W_dec_ND), dtype=torch.bool, device=W_dec_ND.device)
    main_N[list(main)] = True
    written_RK, own_RK, cosine_RK = value_RK * along_N[index_RK], main_N[index_RK], cosine_N[index_RK]
    main_R = (written_RK * own_RK).sum(1)

    several_RK = torch.where(~own_RK & (cosine_RK >= COSINE_OF_SEVERAL), written_RK, 0.0).clamp_min(0)
    several_R = several_RK.topk(min(MOST, several_RK.shape[1]), dim=1).values.sum(1)
    enough = (projection_R > 0) & (several_R >= SHARE * projection_R) & (main_R < projection_R)
    absorbed_R = torch.minimum(several_R, projection_R - main_R)
    part_R = torch.where(main_R <= 0, 1.0, absorbed_R / (absorbed_R + main_R))
    fraction_R = torch.where(enough, part_R.clamp(0, 1), 0.0)

    silent_R = ~(own_RK & (value_RK > 0)).any(1)
    top = torch.where(own_RK, -torch.inf, written_RK).max(1)
    place = top.indices[:, None]
    share_R = torch.where(projection_R > 0, top.values / projection_R, 0.0).nan_to_num(neginf=0.0)
    aligned_R = cosine_RK.gather(1, place)[:, 0] >= COSINE_OF_ONE
    full_R = silent_R & aligned_R & (projection_R > 0) & (share_R >= SHARE)
    absorber_R = torch.where(top.values > 0, index_RK.gather(1, place)[:, 0], -1)
    return Absorption(fraction_R.float(), full_R, absorber_R, share_R.float())
