"""Centring: the mean of the train split is taken away."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from tasks.norms.base import Norm, Statistics

if TYPE_CHECKING:
    from torch import Tensor


class Mean(Norm):
    """Rows less their mean."""

    kind: Literal["mean"] = "mean"

    def fit(self, statistics: Statistics, rows: Iterable[Tensor] = ()) -> dict[str, Tensor]:
        return {"mean": statistics.mean_D.float()}

    def apply(self, state: dict[str, Tensor], x_BD: Tensor) -> tuple[Tensor, Any]:
        return x_BD - state["mean"], None

    def invert(self, state: dict[str, Tensor], y_BD: Tensor, undo: Any) -> Tensor:
        return y_BD + state["mean"]
