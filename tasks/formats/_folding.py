"""Folding: what is done to activations before an SAE, or to its decoder rows, put into its weights. N n_latents, D d_in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from tasks.lazy import torch
from tasks.norms.base import FittedNorm
from tasks.norms.none import NoNorm
from tasks.spec import SpecError

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.formats.base import Portable
    from tasks.norms._sites import SiteNorms
    from tasks.saes.base import SAE


class Affine(NamedTuple):
    """y = there x + shift of what is read, and back: x = back y + centre of what is written. float64, the same for all tokens."""

    there_DD: Tensor
    shift_D: Tensor
    back_OO: Tensor
    centre_O: Tensor

    @staticmethod
    def of(norm: FittedNorm | SiteNorms, d_in: int, d_out: int) -> Affine:
        """A norm's own, found by what it does to 0 and to each direction. Raises ``SpecError`` where tokens have each theirs."""
        if isinstance(norm, FittedNorm):
            reads, writes = [(norm, d_in)], [(norm, d_out)]
        else:
            reads, writes = ([(norm.norms[h], norm.widths[h]) for h in side] for side in (norm.reads, norm.writes))
        there, shift = zip(*(_there(*one) for one in reads), strict=True)
        back, centre = zip(*(_back(*one) for one in writes), strict=True)
        return Affine(torch.block_diag(*there), torch.cat(shift), torch.block_diag(*back), torch.cat(centre))

    def folded(self, tensors: Mapping[str, Tensor], subtract: bool, subtracts: bool | None = None) -> dict[str, Tensor]:
        """Weights for x of an SAE of y: its latents and, in units of x, its reconstructions are the same.

        ``subtract``: its encoder reads y - b_dec; ``subtracts``: the new one is to read x - b_dec (None: as before).
        """
        found = {name: tensor.double() for name, tensor in tensors.items()}
        b_dec, W_enc = found["b_dec_D"], found["W_enc_ND"]
        offset_N = W_enc @ (self.shift_D - b_dec if subtract else self.shift_D)
        found["W_enc_ND"] = _times(W_enc, self.there_DD)
        found["W_dec_ND"] = _times(found["W_dec_ND"], self.back_OO.T)
        if "W_skip_OD" in found:
            b_dec = b_dec + found["W_skip_OD"] @ self.shift_D
            found["W_skip_OD"] = _times(_times(found["W_skip_OD"], self.there_DD).T, self.back_OO.T).T
        found["b_dec_D"] = _times(b_dec[None], self.back_OO.T)[0] + self.centre_O
        if subtract if subtracts is None else subtracts:
            offset_N = offset_N + found["W_enc_ND"] @ found["b_dec_D"]
        for name in ("b_enc_N", "b_gate_N"):
            if name in found:
                found[name] = found[name] + offset_N
        if "b_mag_N" in found:
            found["b_mag_N"] = found["b_mag_N"] + found["r_mag_N"].exp() * offset_N
        return {name: tensor.float().contiguous() for name, tensor in found.items()}


def _doubled(norm: FittedNorm) -> dict[str, Tensor]:
    if norm.norm.PER_TOKEN:
        raise SpecError(
            f"norm = {getattr(norm.norm, 'kind', '')!r}, but it has a scale for each token, which no weights can hold and this "
            "format cannot say; train with norm=rms (saelens can say layer_norm, with epsilon 1e-5 and epsilon_back=false, and length)"
        )
    return {name: value.cpu().double() for name, value in norm.state.items()}


def _there(norm: FittedNorm, d: int) -> tuple[Tensor, Tensor]:
    """Matrix and shift of a norm's way there."""
    state = _doubled(norm)
    shift = norm.norm.apply(state, torch.zeros(1, d, dtype=torch.float64))[0]
    return (norm.norm.apply(state, torch.eye(d, dtype=torch.float64))[0] - shift).T, shift[0]


def _back(norm: FittedNorm, d: int) -> tuple[Tensor, Tensor]:
    """Matrix and shift of a norm's way back."""
    state = _doubled(norm)
    centre = norm.norm.invert(state, torch.zeros(1, d, dtype=torch.float64), None)
    return (norm.norm.invert(state, torch.eye(d, dtype=torch.float64), None) - centre).T, centre[0]


def _times(rows_ND: Tensor, matrix_DD: Tensor) -> Tensor:
    """A product, by elements where the matrix is diagonal: at d_in 4,096 the other way takes minutes."""
    diagonal = matrix_DD.diagonal()
    if torch.equal(matrix_DD, torch.diag(diagonal)):
        return rows_ND * diagonal
    return rows_ND @ matrix_DD


def raw(it: Portable, subtract: bool | None = None) -> Portable:
    """The same SAE for activations as the model makes them, with latents of the same values.

    ``subtract``: whether its encoder is to read x - b_dec; None: as it does. Raises ``SpecError`` for a norm that cannot go
    into weights.
    """
    sae = unit_chosen(it.sae)
    was = sae.spec.subtract_b_dec
    now = was if subtract is None else subtract
    if isinstance(it.norm, FittedNorm) and isinstance(it.norm.norm, NoNorm) and was == now:
        return replace(it, sae=sae)
    weights = {name: tensor.detach().cpu() for name, tensor in sae.weights().items()}
    tensors = Affine.of(it.norm, sae.d_in, sae.d_out).folded(weights, was, now)
    spec = sae.spec.model_copy(update={"subtract_b_dec": now})
    return replace(it, sae=spec.holding(tensors), norm=FittedNorm(NoNorm(), {}))


def unit_chosen(sae: SAE) -> SAE:
    """The same SAE, or where it chooses latents by pre-activation times length of their row, one with rows of length 1: latents
    are then in units of that product."""
    if not getattr(sae.spec, "rescale_by_row_norm", False):
        return sae
    if sae.spec.blocks != 1:
        raise SpecError(f"sae.blocks = {sae.spec.blocks}, but no other tool measures decoder rows in parts; train without it")
    tensors = {name: tensor.detach().clone() for name, tensor in sae.weights().items()}
    rescaled(tensors)
    return sae.spec.model_copy(update={"rescale_by_row_norm": False}).holding(tensors)


def single_site(it: Portable, format: str) -> None:
    """Raise ``SpecError`` for an SAE of several hookpoints side by side."""
    if "+" in (it.hookpoint or ""):
        raise SpecError(f"sae.hookpoint = {it.hookpoint!r}, but {format} has no crosscoders; it has SAEs of one hookpoint")


def prefixes(sizes: Sequence[int], n_latents: int) -> tuple[float, ...]:
    """Ends of the nested groups of a Matryoshka SAE as shares of its latents, the last one being all."""
    ends = {min(end, n_latents) for end in accumulate(sizes) if end > 0} | {n_latents}
    return tuple(end / n_latents for end in sorted(ends))


def rescaled(tensors: dict[str, Tensor]) -> None:
    """Bring decoder rows to length 1 in place, the encoder taking on their lengths: for tools that select by pre-activation
    times length. Thresholds are in those units already."""
    length_N = tensors["W_dec_ND"].norm(dim=-1)
    length_N = torch.where(length_N == 0, 1, length_N)
    tensors["W_enc_ND"] = tensors["W_enc_ND"] * length_N[:, None]
    tensors["b_enc_N"] = tensors["b_enc_N"] * length_N
    tensors["W_dec_ND"] = tensors["W_dec_ND"] / length_N[:, None]
