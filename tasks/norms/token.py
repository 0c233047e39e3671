"""Standardisation of each token by itself, as SAINT does it: mean 0 and standard deviation 1 over its dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tasks.norms.base import Norm

if TYPE_CHECKING:
    from torch import Tensor

_EPSILON = 1e-6


class Token(Norm):
    """Each row less its own mean, over its own standard deviation. Its length is lost to the SAE, and given back."""

    PER_TOKEN: ClassVar[bool] = True
    kind: Literal["token"] = "token"

    def apply(self, state: dict[str, Tensor], x_BD: Tensor) -> tuple[Tensor, Any]:
        mean = x_BD.mean(-1, keepdim=True)
        scale = x_BD.std(-1, keepdim=True, unbiased=False) + _EPSILON
        return (x_BD - mean) / scale, (mean, scale)

    def invert(self, state: dict[str, Tensor], y_BD: Tensor, undo: Any) -> Tensor:
        mean, scale = undo
        return y_BD * scale + mean
