"""Each token scaled to the length sqrt(D), its direction kept. Source: SAELens, ``normalize_activations: constant_norm_rescale``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tasks.norms.base import Norm

if TYPE_CHECKING:
    from torch import Tensor

_SHORTEST = 1e-12
"""Of a row of zeros, which stays one."""


class Length(Norm):
    """Each row over its own root mean square. Its length is lost to the SAE, and given back."""

    PER_TOKEN: ClassVar[bool] = True

    kind: Literal["length"] = "length"

    def apply(self, state: dict[str, Tensor], x_BD: Tensor) -> tuple[Tensor, Any]:
        scale = x_BD.norm(dim=-1, keepdim=True).clamp_min(_SHORTEST) / x_BD.shape[-1] ** 0.5
        return x_BD / scale, scale

    def invert(self, state: dict[str, Tensor], y_BD: Tensor, undo: Any) -> Tensor:
        return y_BD * undo
