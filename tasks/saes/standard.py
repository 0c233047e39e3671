"""Standard SAE: a ReLU, held sparse by an L1 penalty on what latents contribute.

Source: Cunningham et al. 2023, arXiv 2309.08600, section 2; the penalty weighted by the lengths of free decoder rows, and the
initialisation, from "Update on how we train SAEs" (Anthropic, Circuits Updates, April 2024). ``lp`` below 1: Karvonen et al.
2024, arXiv 2408.00113, section 3 (there annealed).
Shapes: B tokens, D d_in, N n_latents, P (token, latent) pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tasks.learning.base import spread
from tasks.saes.base import SAE, Latents, SAESpec
from tasks.sparse import encode_above

if TYPE_CHECKING:
    from torch import Tensor

_ROW = 0.1
"""Length of a decoder row, and of its encoder row, at first: so small that all latents together do not overshoot."""

_SMALL = 1e-3
"""Added to activations under an exponent below 1, whose slope at 0 has no bound."""


class Standard(SAESpec):
    """A ReLU SAE with free decoder rows."""

    MAKES: ClassVar[str] = "StandardSAE"
    SPARSITY: ClassVar[str] = "l1_coefficient"

    SPARSITY: ClassVar[str] = "l1_coefficient"

    kind: Literal["standard"] = "standard"

    l1_coefficient: float = Field(0.1, ge=0)
    """Weight of the penalty beside the FVU: the sum of activations, each times the length of its decoder row, mean over tokens,
    in units of the target's RMS deviation, so that it carries over between widths and scales. Where others give theirs for
    inputs of mean squared norm 1 it is theirs; for mean squared norm d_in it is theirs / sqrt(d_in)."""

    lp: float = Field(1.0, gt=0, le=1)
    """Exponent of each contribution in the penalty; below 1 it presses on weak activations more than on strong ones."""

    def drawn(self, d_in: int, seed: int, d_out: int) -> dict[str, Tensor]:
        found = super().drawn(d_in, seed, d_out)
        return {name: w * _ROW if name in ("W_enc_ND", "W_dec_ND") else w for name, w in found.items()}


class StandardSAE(SAE):
    """The dictionary of a ``Standard`` spec."""

    UNIT_ROWS: ClassVar[bool] = False

    EQUATION: ClassVar[str] = "relu(z @ W_enc.T + b_enc)"

    spec: Standard

    def encode(self, x_BD: Tensor) -> Latents:
        value, index = encode_above(self.inner(x_BD), self.W_enc_ND, self.b_enc_N, 0.0)
        return Latents(index, value)

    def loss(
        self, x_BD: Tensor, dead_N: Tensor, y_BD: Tensor | None = None, sparsity: float = 1.0
    ) -> dict[str, Tensor]:
        from tasks.learning.pairs import scored

        y_BD = x_BD if y_BD is None else y_BD
        product_P, pairs = scored(x_BD, self.subtracted, self.W_enc_ND, self.b_enc_N)
        value_P = (product_P + pairs.of(self.b_enc_N)).relu()
        error = self.around(pairs.rows(value_P, self.W_dec_ND), x_BD) - y_BD
        of_all, n_rows = spread(y_BD), len(x_BD)
        fvu, unit = error.square().sum() / of_all, (of_all / n_rows).sqrt()
        contribution_P = value_P * pairs.of(self.W_dec_ND.norm(dim=-1))
        if self.spec.lp != 1:
            contribution_P = (contribution_P + _SMALL * unit).pow(self.spec.lp) - (_SMALL * unit) ** self.spec.lp
        penalty = contribution_P.sum() / (n_rows * unit**self.spec.lp)
        return {
            "total": fvu + sparsity * self.spec.l1_coefficient * penalty,
            "fvu": fvu,
            "l0": value_P.count_nonzero() / n_rows,
            "fired_N": pairs.fired(value_P > 0),
            "sparsity_loss": penalty,
        }
