"""No normalisation: the SAE sees the model's own numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from tasks.norms.base import Norm

if TYPE_CHECKING:
    from torch import Tensor


class NoNorm(Norm):
    """Rows as they are."""

    kind: Literal["none"] = "none"

    def apply(self, state: dict[str, Tensor], x_BD: Tensor) -> tuple[Tensor, Any]:
        return x_BD, None

    def invert(self, state: dict[str, Tensor], y_BD: Tensor, undo: Any) -> Tensor:
        return y_BD
