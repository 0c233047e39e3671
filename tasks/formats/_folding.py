"""Folding: what is done to activations before an SAE, or to its decoder rows, put into its weights. N n_latents, D d_in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from tasks.lazy import torch
from tasks.norms.base import FittedNorm
from tasks.norms.none import NoNorm
from tasks.spec import SpecError

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.formats.base import Portable


class Affine(NamedTuple):
    """y = there x + shift, and back: x = back y + centre. float64; a norm's, the same for all tokens."""

    there_DD: Tensor
    shift_D: Tensor
    back_DD: Tensor
    centre_D: Tensor

    @staticmethod
    def of(norm: FittedNorm, d: int) -> Affine:
        """A norm's own, found by what it does to 0 and to each direction. Raises ``SpecError`` where tokens have each theirs."""
        state = {name: value.double() for name, value in norm.state.items()}
        zero, one = torch.zeros(1, d, dtype=torch.float64), torch.eye(d, dtype=torch.float64)
        shift, undo = norm.norm.apply(state, zero)
        if undo is not None:
            kind = getattr(norm.norm, "kind", "")
            raise SpecError(
                f"norm = {kind!r}, but it has a scale for each token, which no weights can hold and this format cannot say; "
                "export to saelens, which has layer_norm and constant_norm_rescale, or train with norm=rms"
            )
        there = norm.norm.apply(state, one)[0] - shift
        centre = norm.norm.invert(state, zero, None)
        back = norm.norm.invert(state, one, None) - centre
        return Affine(there.T, shift[0], back.T, centre[0])

    def folded(self, tensors: Mapping[str, Tensor], subtract: bool, subtracts: bool | None = None) -> dict[str, Tensor]:
        """Weights for x of an SAE of y: its latents and, in units of x, its reconstructions are the same.

        ``subtract``: its encoder reads y - b_dec; ``subtracts``: the new one is to read x - b_dec (None: as before).
        """
        found = {name: tensor.double() for name, tensor in tensors.items()}
        b_dec, W_enc = found["b_dec_D"], found["W_enc_ND"]
        if found["W_dec_ND"].shape[1] != W_enc.shape[1] and not self.is_nothing:
            raise SpecError("a norm of what an SAE reads cannot be undone in what it writes elsewhere; train with norm=none")
        offset_N = W_enc @ (self.shift_D - b_dec if subtract else self.shift_D)
        found["W_enc_ND"] = _times(W_enc, self.there_DD)
        found["W_dec_ND"] = _times(found["W_dec_ND"], self.back_DD.T)
        found["b_dec_D"] = b_dec @ self.back_DD.T + self.centre_D if not self.is_nothing else b_dec
        if "W_skip_OD" in found:
            skip = found["W_skip_OD"]
            found["b_dec_D"] = found["b_dec_D"] + (self.back_DD @ (skip @ self.shift_D) if not self.is_nothing else 0)
            found["W_skip_OD"] = skip if self.is_nothing else self.back_DD @ skip @ self.there_DD
        if subtract if subtracts is None else subtracts:
            offset_N = offset_N + found["W_enc_ND"] @ found["b_dec_D"]
        for name in ("b_enc_N", "b_gate_N"):
            if name in found:
                found[name] = found[name] + offset_N
        if "b_mag_N" in found:
            found["b_mag_N"] = found["b_mag_N"] + found["r_mag_N"].exp() * offset_N
        return {name: tensor.float().contiguous() for name, tensor in found.items()}

    @property
    def is_nothing(self) -> bool:
        """Whether x and y are the same."""
        return bool((self.there_DD == torch.eye(len(self.there_DD))).all()) and not bool(self.shift_D.any())


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
    was = it.sae.spec.subtract_b_dec
    now = was if subtract is None else subtract
    if isinstance(it.norm.norm, NoNorm) and was == now:
        return it
    tensors = Affine.of(it.norm, it.sae.d_in).folded(it.sae.weights(), was, now)
    spec = it.sae.spec.model_copy(update={"subtract_b_dec": now})
    return replace(it, sae=spec.holding(tensors), norm=FittedNorm(NoNorm(), {}))


def rescaled(tensors: dict[str, Tensor]) -> None:
    """Bring decoder rows to length 1 in place, the encoder taking on their lengths: for tools that select by pre-activation
    times length. Thresholds are in those units already."""
    length_N = tensors["W_dec_ND"].norm(dim=-1)
    length_N = torch.where(length_N == 0, 1, length_N)
    tensors["W_enc_ND"] = tensors["W_enc_ND"] * length_N[:, None]
    tensors["b_enc_N"] = tensors["b_enc_N"] * length_N
    tensors["W_dec_ND"] = tensors["W_dec_ND"] / length_N[:, None]
