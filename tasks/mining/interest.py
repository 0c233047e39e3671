"""Which latents are worth an explanation first, by what mining counted of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.lazy import np

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

MIN_FIRES = 20
"""Tokens of the train split on which a latent fires at least: fewer give neither windows to see nor to score."""

MAX_DENSITY = 0.1
"""Share of tokens on which it fires at most: what fires everywhere is about nothing that windows could show."""


def interest(latents: pa.Table) -> np.ndarray:
    """float64 per latent: how much there is to explain, > 0; 0 for latents that are dead, rare or dense.

    The product of four things, of the columns of mine's ``latents.parquet``:

    - surprise, -ln(density): what one firing tells about a text, in nats;
    - peakedness, 1 + ln(max_value / mean_value): a latent with a meaning is much stronger where that is meant than where
      it merely leaks;
    - evidence, n_fires / (n_fires + 100): windows that do not repeat each other;
    - breadth, 1 - single_token_share / 2: where nearly all peaks are on one token, counting explains it as well.

    A rule of thumb to look at a few latents first; no score rests on it. A column that a table lacks counts for nothing.
    """

    def column(name: str) -> np.ndarray | None:
        return latents[name].to_numpy().astype(np.float64) if name in latents.column_names else None

    n_fires, density, largest, mean, share = map(
        column, ("n_fires", "density", "max_value", "mean_value", "single_token_share")
    )
    assert n_fires is not None and density is not None and largest is not None
    found = (n_fires >= MIN_FIRES) & (density > 0) & (density <= MAX_DENSITY) & (largest > 0)
    worth = -np.log(np.where(found, density, 1.0)) * n_fires / (n_fires + 100)
    if mean is not None:
        safe = found & (mean > 0)
        worth = worth * (1 + np.log(np.where(safe, np.maximum(largest, mean), 1.0) / np.where(safe, mean, 1.0)))
    if share is not None:
        worth = worth * (1 - np.nan_to_num(share) / 2)
    return np.where(found, worth, 0.0)


def most_interesting(latents: pa.Table, n: int) -> list[int]:
    """At most ``n`` latents of most ``interest``, in ascending order; of equal ones the first."""
    worth = interest(latents)
    order = np.argsort(-worth, kind="stable")[:n]
    return sorted(latents["latent"].to_numpy()[order[worth[order] > 0]].tolist())
