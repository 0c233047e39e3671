"""As many windows from each slice of the ranking."""

from __future__ import annotations

from random import Random
from typing import ClassVar, Literal

from tasks.samplers.base import Chosen, Sampler, spread


class Quantiles(Sampler):
    """A stratified random sample: ``n / n_quantiles`` windows of each slice by rank, without replacement."""

    GROUP: ClassVar[str] = "quantile"
    kind: Literal["quantiles"] = "quantiles"

    def draw(self, m: int, random: Random) -> Chosen:
        return [(rank, self.GROUP) for rank in spread(m, self.n, self.n_quantiles, random)]
