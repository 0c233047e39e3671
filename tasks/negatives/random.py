"""Random windows in which the latent is silent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tasks.negatives.base import Drawn, Ground, Negatives, unlike_any

if TYPE_CHECKING:
    import numpy as np


class RandomNegatives(Negatives):
    """Windows of the pool, without replacement: what most of the text looks like.

    Of the silent windows of the pool, in an order drawn for this latent, those are taken whose length and place of the
    peak are those of the latent's activating windows (``Ground.matched``).
    """

    kind: Literal["random"] = "random"

    n: int = Field(40, ge=0)
    """Windows per latent and split, as far as there are."""

    def draw(self, latent: int, ground: Ground, taken: np.ndarray) -> Drawn:
        pool = ground.stretches(ground.pool)
        allowed = ground.silent_in(latent, pool) & ground.free_of(pool, taken)
        order = ground.order(latent, ground.pool, self.kind)
        return unlike_any(ground.matched(latent, pool.at(order[allowed[order]]), self.n))
