"""JumpReLU SAE: a latent is active where its pre-activation is above a threshold of its own, which is learned.

Source: Rajamanoharan et al. 2024, arXiv 2407.14435, sections 3 (JumpReLU, L0 penalty, straight-through gradients with a
rectangular kernel) and 4; ``tanh`` and the loss on dead latents: "Update on JumpReLU SAEs" (Anthropic, Circuits Updates,
January 2025); ``target``: as Gemma Scope 2 and dictionary_learning hold L0 at a number, by the square of L0 / target - 1. Here
it is the square of its logarithm: the same near the target, but not so steep far from it that Adam, which remembers the size of
gradients for 1,000 steps, would then hardly move.

The threshold itself is the parameter, in float32: Adam moves a logarithm by its learning rate, whatever the gradient, so that
a threshold which begins near 0 would stay there. Pre-activations go into both pseudo-derivatives as they are, below and
above the threshold, and no ReLU comes before.
Shapes: B tokens, D d_in, N n_latents, n dead latents, P (token, latent) pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from tasks.lazy import torch
from tasks.learning.base import spread
from tasks.saes.base import SAE, Latents, SAESpec
from tasks.sparse import encode_above
from tasks.spec import SpecError

if TYPE_CHECKING:
    from torch import Tensor

_LEAST = 1e-6
"""Thresholds stay above it; at 0 and below, latents of value 0 and less would count as active."""


_NO_L0 = 1e-3
"""What L0 / target_l0 is taken for where nothing fires."""


class JumpReLU(SAESpec):
    """A JumpReLU SAE with unit-norm decoder rows."""

    MAKES: ClassVar[str] = "JumpReLUSAE"
    SPARSITY: ClassVar[str] = "sparsity_coefficient"

    KEEPS_KEY: ClassVar[dict[str, Any]] = {**SAESpec.KEEPS_KEY, "encoder_scale": 1.0}

    kind: Literal["jumprelu"] = "jumprelu"

    penalty: Literal["step", "tanh", "target"] = "step"
    """What holds latents down: ``step``, L0 itself; ``tanh``, the sum of tanh(tanh_scale x activation); ``target``, the square of
    log(L0 / target_l0), so that L0 comes to a number of choice."""

    sparsity_coefficient: float = Field(4e-3, ge=0)
    """Weight of the penalty beside the FVU, mean over tokens. Of ``step``: FVU that one more active latent must be worth."""

    target_l0: float | None = Field(None, gt=0)
    """Active latents of a token, where penalty is ``target``."""

    tanh_scale: float = Field(4.0, gt=0)
    """Steepness of ``tanh``, per unit of the normalised output."""

    threshold: float = Field(0.1, gt=0)
    """Threshold of every latent at first, in units of the normalised output."""

    bandwidth: float = Field(0.05, gt=0)
    """Width of the window around a threshold in which pre-activations have a say in its gradient; same units."""

    ste_to_input: bool = False
    """Let the pseudo-derivatives move pre-activations too, and with them the encoder, as Anthropic does; false: the threshold
    alone, as in the paper."""

    dead_coefficient: float = Field(0.0, ge=0)
    """Weight of how far below their thresholds dead latents are, in sum, mean over tokens, in units of the target's RMS
    deviation: it lifts them. 0 turns it off."""

    encoder_scale: float = Field(1.0, gt=0)
    """Length of encoder rows at first, at most: where there are many latents they are shorter, so that those which are active at
    first, half of all, do not give more than x together. 0.1 finds more of planted dictionaries, so ``conf/sae`` has it."""

    @model_validator(mode="after")
    def _target_is_there(self) -> JumpReLU:
        if (self.penalty == "target") != (self.target_l0 is not None):
            fact = "needs one" if self.penalty == "target" else "does not read it"
            raise SpecError(
                f"sae.target_l0 = {self.target_l0}, but sae.penalty = {self.penalty!r} {fact}; "
                "use sae.penalty=target sae.target_l0=32, or neither"
            )
        return self

    def drawn(self, d_in: int, seed: int, d_out: int) -> dict[str, Tensor]:
        found = super().drawn(d_in, seed, d_out)
        n = len(found["b_enc_N"])
        found["W_enc_ND"] = found["W_enc_ND"] * min(self.encoder_scale, 2 * d_in / n)
        return {**found, "threshold_N": torch.full((n,), self.threshold)}


class JumpReLUSAE(SAE):
    """The dictionary of a ``JumpReLU`` spec."""

    TENSORS: ClassVar[tuple[str, ...]] = (*SAE.TENSORS, "threshold_N")
    SCALE_WITH_ROWS: ClassVar[tuple[str, ...]] = (*SAE.SCALE_WITH_ROWS, "threshold_N")
    EQUATION: ClassVar[str] = "(z @ W_enc.T + b_enc > threshold) * (z @ W_enc.T + b_enc)"

    spec: JumpReLU
    threshold_N: Tensor

    def encode(self, x_BD: Tensor) -> Latents:
        value, index = encode_above(self.inner(x_BD), self.W_enc_ND, self.b_enc_N, self.threshold_N)
        return Latents(index, value)

    def constrain(self) -> None:
        with torch.no_grad():
            self.threshold_N.clamp_(min=_LEAST)

    def restart(self, latent_n: Tensor, direction_nD: Tensor) -> None:
        """As any SAE's, with the mean threshold of all and an encoder row that can pass it."""
        threshold = self.threshold_N.detach().mean()
        super().restart(latent_n, direction_nD)
        with torch.no_grad():
            self.threshold_N[latent_n] = threshold
            self.W_enc_ND[latent_n] *= 5

    def loss(
        self, x_BD: Tensor, dead_N: Tensor, y_BD: Tensor | None = None, sparsity: float = 1.0
    ) -> dict[str, Tensor]:
        from tasks.learning.pairs import scored

        spec, y_BD, n_rows = self.spec, x_BD if y_BD is None else y_BD, len(x_BD)
        lowest_N = self.threshold_N.detach() - spec.bandwidth / 2
        product_P, pairs = scored(x_BD, self.subtracted, self.W_enc_ND, self.b_enc_N, lowest_N)
        pre_P = product_P + pairs.of(self.b_enc_N)
        value_P, active_P = jumped(pre_P, pairs.of(self.threshold_N), spec.bandwidth, spec.ste_to_input)
        of_all = spread(y_BD)
        fvu = (self.around(pairs.rows(value_P, self.W_dec_ND), x_BD) - y_BD).square().sum() / of_all
        l0 = active_P.sum() / n_rows
        if spec.penalty == "tanh":
            penalty = (value_P * spec.tanh_scale).tanh().sum() / n_rows
        else:
            penalty = l0 if spec.target_l0 is None else (l0 / spec.target_l0 + _NO_L0).log().square()
        found = {
            "total": fvu + sparsity * spec.sparsity_coefficient * penalty,
            "fvu": fvu,
            "l0": l0,
            "fired_N": pairs.fired(active_P > 0),
            "sparsity_loss": penalty,
        }
        if spec.dead_coefficient:
            found["aux_loss"] = self.short_of(x_BD, dead_N) / (n_rows * of_all).sqrt()
            found["total"] = found["total"] + sparsity * spec.dead_coefficient * found["aux_loss"]
        return found

    def short_of(self, x_BD: Tensor, dead_N: Tensor) -> Tensor:
        """Sum over tokens and dead latents of how far pre-activations are below the threshold."""
        dead_n = dead_N.nonzero().squeeze(1)
        pre_Bn = self.inner(x_BD) @ self.W_enc_ND[dead_n].T + self.b_enc_N[dead_n]
        return (self.threshold_N[dead_n] - pre_Bn).relu().sum()


def jumped(z: Tensor, threshold: Tensor, bandwidth: float, ste_to_input: bool = False) -> tuple[Tensor, Tensor]:
    """z where it is above the threshold, else 0; and 1 there, else 0. Both with straight-through gradients.

    With the kernel K = [|z - threshold| < bandwidth / 2] / bandwidth (arXiv 2407.14435, equations 11 and 12)::

        d value / d threshold = -threshold K      d value / d z = [z > threshold]   (ste_to_input: + threshold K)
        d active / d threshold = -K               d active / d z = 0                (ste_to_input: K)
    """
    active = (z > threshold).to(z.dtype)
    at = threshold.detach()
    edge = threshold - at  # 0 itself, with the gradient of a threshold
    if ste_to_input:
        edge = edge - (z - z.detach())
    edge = edge * (((z - at).abs() < bandwidth / 2) / bandwidth)
    return z * active - at * edge, active - edge
