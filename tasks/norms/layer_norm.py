"""Each token less its own mean, over its own standard deviation (that of a sample: over D - 1), and an epsilon beside it.

Sources: openai/sparse_autoencoder (v5, activation TopK; epsilon 1e-5), SAELens (``normalize_activations: layer_norm``, the
same), yym68686/saint (epsilon 1e-6, part of the way back as well). ``token`` divides by the deviation over D.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tasks.norms.base import Norm

if TYPE_CHECKING:
    from torch import Tensor


class LayerNorm(Norm):
    """Each row less its own mean, over its own standard deviation. Its length is lost to the SAE, and given back."""

    PER_TOKEN: ClassVar[bool] = True

    kind: Literal["layer_norm"] = "layer_norm"

    epsilon: float = Field(1e-5, ge=0)
    """Added to the standard deviation, in the units of the model."""

    epsilon_back: bool = True
    """Add it on the way back as well, which then undoes the way there exactly. OpenAI and SAELens do not."""

    def apply(self, state: dict[str, Tensor], x_BD: Tensor) -> tuple[Tensor, Any]:
        mean = x_BD.mean(-1, keepdim=True)
        deviation = (x_BD - mean).std(-1, keepdim=True)
        scale = deviation + self.epsilon
        return (x_BD - mean) / scale, (mean, scale if self.epsilon_back else deviation)

    def invert(self, state: dict[str, Tensor], y_BD: Tensor, undo: Any) -> Tensor:
        mean, scale = undo
        return y_BD * scale + mean
