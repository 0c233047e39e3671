"""Non-activating windows by encoder similarity: where latents fire whose encoder rows point nearly the same way."""

from __future__ import annotations

from typing import Literal

from tasks.negatives._neighbours import NeighbourNegatives, Neighbours, most_alike
from tasks.negatives.base import Ground


class Encoder(NeighbourNegatives):
    """Windows of the neighbours of a latent by the cosine of encoder rows: they look for nearly the same."""

    kind: Literal["encoder"] = "encoder"

    def neighbours(self, latent: int, ground: Ground) -> Neighbours:
        return most_alike("encoder", ground.sae.sae.W_enc_ND, latent, self.n_neighbours, ground)
