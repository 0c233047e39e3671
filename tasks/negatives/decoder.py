"""Non-activating windows by decoder similarity: where latents fire whose decoder rows point nearly the same way."""

from __future__ import annotations

from typing import Literal

from tasks.negatives._neighbours import NeighbourNegatives, Neighbours, most_alike
from tasks.negatives.base import Ground


class Decoder(NeighbourNegatives):
    """Windows of the neighbours of a latent by the cosine of decoder rows: they write nearly the same."""

    kind: Literal["decoder"] = "decoder"

    def neighbours(self, latent: int, ground: Ground) -> Neighbours:
        return most_alike("decoder", ground.sae.W_dec_ND, latent, self.n_neighbours, ground)
