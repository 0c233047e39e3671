"""Whitening: afterwards the principal components of the rows are uncorrelated, and of variance 1.

Shapes: B tokens, D width and number of components.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tasks.lazy import torch
from tasks.norms.base import Norm, Statistics
from tasks.spec import SpecError

if TYPE_CHECKING:
    from torch import Tensor


class Whiten(Norm):
    """Rows less their mean, turned to their principal components, each over its own deviation. An SAE under it weighs its errors
    in all directions alike, and its decoder rows are in these units."""

    READS_ROWS: ClassVar[bool] = True
    TURNS: ClassVar[bool] = True
    kind: Literal["whiten"] = "whiten"

    n_rows: int | None = Field(200_000, ge=1)
    """Rows that the covariance is of, in chunks spread evenly over all shards; null takes all."""

    epsilon: float = Field(1e-4, gt=0)
    """Added to every component's variance, as a share of the median one: it keeps the weakest from being blown up to noise."""

    def fit(self, statistics: Statistics, rows: Iterable[Tensor] = ()) -> dict[str, Tensor]:
        covariance_DD, n = torch.zeros(2 * (len(statistics.mean_D),), dtype=torch.float64), 0
        for x_BD in rows:
            off_BD = x_BD.double() - statistics.mean_D
            covariance_DD.addmm_(off_BD.T, off_BD)
            n += len(off_BD)
        if n < 2:
            raise SpecError(f"norm = 'whiten', but there are {n} rows to fit it to; capture more text, or use norm=rms")
        variance_D, turn_DD = torch.linalg.eigh(covariance_DD / n)
        variance_D, turn_DD = variance_D.clamp_min(0).flip(0), turn_DD.flip(1)  # the strongest first
        # An eigenvector has no sign of its own: its largest entry is made positive.
        turn_DD = turn_DD * turn_DD.gather(0, turn_DD.abs().argmax(0, keepdim=True)).sign()
        typical = float(variance_D.median() or variance_D.mean() or 1.0)
        deviation_D = (variance_D + self.epsilon * typical).sqrt()
        return {
            "mean": statistics.mean_D.float(),
            "turn": turn_DD.float().contiguous(),
            "deviation": deviation_D.float(),
        }

    def apply(self, state: dict[str, Tensor], x_BD: Tensor) -> tuple[Tensor, Any]:
        return (x_BD - state["mean"]) @ state["turn"] / state["deviation"], None

    def invert(self, state: dict[str, Tensor], y_BD: Tensor, undo: Any) -> Tensor:
        return (y_BD * state["deviation"]) @ state["turn"].T + state["mean"]
