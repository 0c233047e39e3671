"""Gated SAE: one half of the encoder says which latents are active, the other how much.

Source: Rajamanoharan et al. 2024, arXiv 2404.16014, section 3.2 (architecture, weight sharing, loss with the auxiliary
reconstruction through a frozen decoder; ``freeze_decoder_at`` is ours). ``b_mag_N`` stands outside of exp(r_mag), as SAELens v6 stores it.
Shapes: B tokens, D d_in, N n_latents, P (token, latent) pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tasks.lazy import torch
from tasks.learning.base import spread
from tasks.saes.base import SAE, Latents, SAESpec
from tasks.sparse import encode_above

if TYPE_CHECKING:
    from torch import Tensor


class Gated(SAESpec):
    """A gated SAE with unit-norm decoder rows."""

    MAKES: ClassVar[str] = "GatedSAE"
    SPARSITY: ClassVar[str] = "l1_coefficient"

    KEEPS_KEY: ClassVar[dict[str, Any]] = {**SAESpec.KEEPS_KEY, "encoder_scale": 1.0, "freeze_decoder_at": 0.0}

    AGES: ClassVar[bool] = True

    kind: Literal["gated"] = "gated"

    l1_coefficient: float = Field(0.3, ge=0)
    """Weight, beside two FVUs (of the reconstruction, and of the gate's own), of the penalty: the sum of a token's positive gate
    pre-activations, mean over tokens, in units of the target's RMS deviation. See ``standard`` for others' coefficients."""

    encoder_scale: float = Field(1.0, gt=0)
    """Length of encoder rows at first, at most: where there are many latents they are shorter, so that those whose gates are open
    at first, half of all, do not give more than x together. With short ones fewer latents of a small model's residual stream give
    the same FVU, and more of planted dictionaries is found, so ``conf/sae`` has 0.02."""

    freeze_decoder_at: float | None = Field(0.0, ge=0, le=1)
    """Share of the planned steps after which the gate's own reconstruction no longer moves the decoder; until then less and less. 0:
    never, as in the paper, and for an SAE that goes on from another (``train.init_from``); null: always, as in SAELens v6. Moving it
    early finds directions that else two latents share, and holding it later leaves rows to the reconstruction, so ``conf/sae`` has
    0.5."""

    def drawn(self, d_in: int, seed: int, d_out: int) -> dict[str, Tensor]:
        found = super().drawn(d_in, seed, d_out)
        zeros_N = found.pop("b_enc_N")
        found["W_enc_ND"] = found["W_enc_ND"] * min(self.encoder_scale, 2 * d_in / len(zeros_N))
        return {**found, "b_gate_N": zeros_N, "b_mag_N": zeros_N.clone(), "r_mag_N": zeros_N.clone()}


class GatedSAE(SAE):
    """The dictionary of a ``Gated`` spec."""

    TENSORS: ClassVar[tuple[str, ...]] = ("W_enc_ND", "W_dec_ND", "b_dec_D", "b_gate_N", "b_mag_N", "r_mag_N")
    BIASES: ClassVar[tuple[str, ...]] = ("b_gate_N", "b_mag_N")
    SCALE_WITH_ROWS: ClassVar[tuple[str, ...]] = ("W_enc_ND", "b_gate_N", "b_mag_N")
    EQUATION: ClassVar[str] = "(z @ W_enc.T + b_gate > 0) * relu(z @ W_enc.T * exp(r_mag) + b_mag)"

    spec: Gated
    b_gate_N: Tensor
    b_mag_N: Tensor
    r_mag_N: Tensor

    def encode(self, x_BD: Tensor) -> Latents:
        gate_BK, index = encode_above(self.inner(x_BD), self.W_enc_ND, self.b_gate_N, 0.0)
        product_BK = gate_BK - self.b_gate_N[index]
        value = (product_BK * self.r_mag_N.exp()[index] + self.b_mag_N[index]).relu()
        return Latents(index, torch.where(gate_BK > 0, value, 0))

    def loss(
        self, x_BD: Tensor, dead_N: Tensor, y_BD: Tensor | None = None, sparsity: float = 1.0, done: float = 1.0
    ) -> dict[str, Tensor]:
        from tasks.learning.pairs import scored

        y_BD = x_BD if y_BD is None else y_BD
        product_P, pairs = scored(x_BD, self.subtracted, self.W_enc_ND, self.b_gate_N)
        gate_P = (product_P + pairs.of(self.b_gate_N)).relu()
        size_P = product_P * pairs.of(self.r_mag_N.exp()) + pairs.of(self.b_mag_N)
        value_P = size_P.relu() * (gate_P > 0)
        of_all, n_rows = spread(y_BD), len(x_BD)
        fvu = (self.around(pairs.rows(value_P, self.W_dec_ND), x_BD) - y_BD).square().sum() / of_all
        through = self.yielding(done)  # the gate learns by explaining x alone
        aux = (through.around(pairs.rows(gate_P, through.W_dec_ND), x_BD) - y_BD).square().sum() / of_all
        penalty = gate_P.sum() / n_rows / (of_all / n_rows).sqrt()
        return {
            "total": fvu + aux + sparsity * self.spec.l1_coefficient * penalty,
            "fvu": fvu,
            "l0": value_P.count_nonzero() / n_rows,
            "fired_N": pairs.fired(value_P > 0),
            "sparsity_loss": penalty,
            "aux_loss": aux,
        }

    def yielding(self, done: float) -> GatedSAE:
        """The same weights, through which goes what share of a gradient the gate may move them by, ``done`` of the training over."""
        end = self.spec.freeze_decoder_at
        if end is None:
            return self
        share = max(0.0, 1 - done / end) if end else 0.0
        found = {name: tensor.detach() for name, tensor in self.weights().items()}
        for name in ("W_dec_ND", "b_dec_D", "W_skip_OD") if share else ():
            if name in found:
                found[name] = found[name] + share * (getattr(self, name) - found[name])
        return GatedSAE(self.spec, found)
