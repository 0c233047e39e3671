"""Input normalisation: statistics that stream and merge, and kinds that apply them on read.

Shapes: B tokens, D width. Shards stay raw; a norm is fitted on the train split's statistics and applied to every batch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from tasks.kinds import decode
from tasks.lazy import torch
from tasks.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor


class Statistics(NamedTuple):
    """Mean and spread of some rows, in float64. Merging is exact up to rounding, in any order.

    Source: Chan, Golub and LeVeque 1979, pairwise update of sums of squared deviations.
    """

    count: int
    mean_D: Tensor
    m2_D: Tensor
    """Sum of squared deviations from the mean."""

    @staticmethod
    def of(x_BD: Tensor) -> Statistics:
        """The statistics of some rows."""
        x = x_BD.to(torch.float64)
        mean = x.mean(0) if len(x) else torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
        return Statistics(len(x), mean.cpu(), (x - mean).square().sum(0).cpu())

    def merge(self, other: Statistics) -> Statistics:
        """The statistics of both sets of rows."""
        count = self.count + other.count
        if count == 0:
            return self
        delta = other.mean_D - self.mean_D
        mean = self.mean_D + delta * (other.count / count)
        m2 = self.m2_D + other.m2_D + delta.square() * (self.count * other.count / count)
        return Statistics(count, mean, m2)

    @property
    def rms_deviation(self) -> float:
        """Root mean square, over rows and dimensions, of the deviation from the mean."""
        return float((self.m2_D.sum() / max(1, self.count * len(self.m2_D))).sqrt())

    @property
    def rms(self) -> float:
        """Root mean square of the values themselves."""
        total = self.m2_D.sum() + self.count * self.mean_D.square().sum()
        return float((total / max(1, self.count * len(self.m2_D))).sqrt())

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        from safetensors.torch import save_file

        save_file({"count": torch.tensor(self.count), "mean": self.mean_D, "m2": self.m2_D}, path)

    @staticmethod
    def load(path: Path) -> Statistics:
        """Read what ``save`` wrote."""
        from safetensors.torch import load_file

        held = load_file(path)
        return Statistics(int(held["count"]), held["mean"], held["m2"])


class Norm(Spec):
    """A kind of normalisation: fitted once, undone exactly."""

    PER_TOKEN: ClassVar[bool] = False
    """Whether undoing it for a row needs what applying it to that row has given, so that no row can be undone that was not read."""

    READS_ROWS: ClassVar[bool] = False
    """Whether it is fitted to rows as well, of which it wants ``n_rows`` (None: all), and not to statistics alone."""

    TURNS: ClassVar[bool] = False
    """Whether a direction of normalised rows points elsewhere than it does in the model."""

    def fit(self, statistics: Statistics, rows: Iterable[Tensor] = ()) -> dict[str, Tensor]:
        """The numbers it needs, as float32 tensors by name. ``rows``: blocks of rows, for norms that read them."""
        return {}

    def apply(self, state: dict[str, Tensor], x_BD: Tensor) -> tuple[Tensor, Any]:
        """Normalised rows, and what ``invert`` needs to undo it for these rows."""
        raise NotImplementedError

    def invert(self, state: dict[str, Tensor], y_BD: Tensor, undo: Any) -> Tensor:
        """Rows in the units of the model again."""
        raise NotImplementedError


class FittedNorm:
    """A norm with its numbers."""

    def __init__(self, norm: Norm, state: dict[str, Tensor]) -> None:
        self.norm, self.state = norm, state

    def apply(self, x_BD: Tensor) -> tuple[Tensor, Any]:
        """Normalised float32 rows, and what ``invert`` needs."""
        return self.norm.apply(self.state, x_BD.float())

    def invert(self, y_BD: Tensor, undo: Any) -> Tensor:
        """Rows in the units of the model."""
        return self.norm.invert(self.state, y_BD, undo)

    def pair(self, row_BD: Tensor) -> tuple[Tensor, Tensor | None]:
        """What an SAE reads of stored rows and what it is to give, both normalised; None where that is the same."""
        return self.apply(row_BD)[0], None

    def sides(self, row_BD: Tensor) -> tuple[Tensor, Tensor | None]:
        """What an SAE reads of stored rows and what it is to give, as they are; None where that is the same."""
        return row_BD, None

    def to(self, device: Any) -> FittedNorm:
        """Move the numbers; returns self."""
        self.state = {name: value.to(device) for name, value in self.state.items()}
        return self

    def save(self, folder: Path) -> None:
        """Write ``norm.json`` and ``norm.safetensors``."""
        from safetensors.torch import save_file

        (folder / "norm.json").write_text(json.dumps(self.norm.payload(), indent=1))
        save_file(self.state or {"none": torch.zeros(1)}, folder / "norm.safetensors")

    @staticmethod
    def open(folder: Path) -> FittedNorm:
        """Read what ``save`` wrote."""
        from safetensors.torch import load_file

        norm = decode("tasks.norms", json.loads((folder / "norm.json").read_text()), "norm")
        return FittedNorm(norm, load_file(folder / "norm.safetensors"))
