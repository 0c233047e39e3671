"""Labels and scores of one explainer as columns. Shapes: N latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.browsing.shelf import Explained
from tasks.browsing.tables import ByNumber
from tasks.lazy import np, pq

if TYPE_CHECKING:
    import numpy as np

    from artifacts.store import Opened

FIELDS = ("value", "low", "high", "n", "control_value", "chance")
"""Numbers of a score, as ``scores.parquet`` has them; NaN where there is none."""

_ABSENT = "not_in_file"
"""Of latents that a file says nothing of: as if nobody had been asked."""

_FIFTH = 5
"""A score less than a fifth of the way from chance to the best there is counts as low, as in the report."""


class Scale:
    """What a scorer's values mean."""

    def __init__(self, name: str, opened: Opened) -> None:
        summary = opened.summary
        self.name = name
        # scores from before scorers told their metric were all of this one
        self.metric = str(summary.get("metric", "balanced accuracy"))
        self.chance = float(summary.get("chance", 0.5))
        self.low, self.high = map(float, summary.get("range", (0.0, 1.0)))

    @property
    def poor(self) -> float:
        """Values below it are shown as low."""
        return self.chance + (self.high - self.chance) / _FIFTH

    @property
    def json(self) -> dict[str, Any]:
        return {"name": self.name, "metric": self.metric, "chance": self.chance, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Scores:
    """The scores of one scorer."""

    scale: Scale
    status_N: np.ndarray
    """Of str; empty for latents that it was not asked about."""

    numbers: dict[str, np.ndarray]
    """By ``FIELDS``: float32 (N,)."""

    def of(self, latent: int) -> dict[str, Any]:
        """Of one latent, as JSON; None for what there is not."""
        plain = {name: float(column[latent]) for name, column in self.numbers.items()}
        return {
            "scorer": self.scale.name,
            "metric": self.scale.metric,
            "status": said(self.status_N[latent]) or "not scored",
            **{name: None if np.isnan(value) else value for name, value in plain.items()},
            "scale": self.scale.json,
        }


class Told:
    """What one explainer says of all latents."""

    def __init__(self, source: Explained, n_latents: int) -> None:
        self.source, self.name = source, source.name
        manifest = source.explain.manifest
        self.address = str(manifest.artifact)
        self.kind = manifest.spec["explainer"]["kind"]
        self.when = manifest.made_by.get("when", "")
        file = source.explain.path / "explanations.parquet"
        self.rows = ByNumber(file)
        table = pq.read_table(file, columns=["latent", "status", "label"])
        at = table["latent"].to_numpy()
        self.status_N = np.full(n_latents, "", object)
        self.label_N = np.full(n_latents, "", object)
        self.status_N[at] = table["status"].to_numpy()
        self.label_N[at] = [label or "" for label in table["label"].to_pylist()]
        self.ok_N = self.status_N == "ok"
        self.asked_N = (self.status_N != "") & (self.status_N != _ABSENT)
        self.scores = {name: _scores(name, opened, n_latents) for name, opened in source.scores.items()}


def _scores(name: str, opened: Opened, n_latents: int) -> Scores:
    file = opened.path / "scores.parquet"
    there = set(pq.read_schema(file).names)
    columns = [column for column in FIELDS if column in there]
    table = pq.read_table(file, columns=["latent", "status", *columns])
    at = table["latent"].to_numpy()
    status_N = np.full(n_latents, "", object)
    status_N[at] = table["status"].to_numpy()
    numbers = {field: np.full(n_latents, np.nan, np.float32) for field in FIELDS}
    for column in columns:
        numbers[column][at] = table[column].to_numpy().astype(np.float32)
    return Scores(Scale(name, opened), status_N, numbers)


def said(status: str) -> str:
    """A status in words."""
    return status.replace("_", " ")
