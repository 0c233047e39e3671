"""The strongest windows, and some over the rest of the ranking."""

from __future__ import annotations

from random import Random
from typing import ClassVar, Literal

from pydantic import Field

from tasks.samplers.base import Chosen, Sampler, spread


class Mix(Sampler):
    """``top_share`` of the windows are the strongest; the others come from the slices of what is weaker, as evenly as
    can be."""

    GROUP: ClassVar[str] = "quantile"
    kind: Literal["mix"] = "mix"

    n: int = Field(60, ge=1)
    """Windows kept per latent, as far as there are."""

    top_share: float = Field(0.3333, ge=0, le=1)
    """Share of ``n`` that are the strongest, in group ``top``; rounded to whole windows."""

    def draw(self, m: int, random: Random) -> Chosen:
        n_top = min(round(self.n * self.top_share), m)
        rest = spread(m - n_top, self.n - n_top, self.n_quantiles, random)
        return [(rank, "top") for rank in range(n_top)] + [(n_top + rank, self.GROUP) for rank in rest]
