"""Centring and one scale for all: afterwards the mean squared norm of a row is its width."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from tasks.lazy import torch
from tasks.norms.base import Norm, Statistics

if TYPE_CHECKING:
    from torch import Tensor


class RMS(Norm):
    """Rows less their mean, over the RMS of what is left, so that learning rates carry over between models."""

    kind: Literal["rms"] = "rms"

    def fit(self, statistics: Statistics, rows: Iterable[Tensor] = ()) -> dict[str, Tensor]:
        scale = statistics.rms_deviation or 1.0
        return {"mean": statistics.mean_D.float(), "scale": torch.tensor(scale, dtype=torch.float32)}

    def apply(self, state: dict[str, Tensor], x_BD: Tensor) -> tuple[Tensor, Any]:
        return (x_BD - state["mean"]) / state["scale"], None

    def invert(self, state: dict[str, Tensor], y_BD: Tensor, undo: Any) -> Tensor:
        return y_BD * state["scale"] + state["mean"]
