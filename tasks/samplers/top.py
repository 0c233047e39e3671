"""The strongest windows."""

from __future__ import annotations

from random import Random
from typing import ClassVar, Literal

from tasks.samplers.base import Chosen, Sampler


class Top(Sampler):
    """The ``n`` strongest. They show what drives a latent hardest, and hide what it does most of the time."""

    GROUP: ClassVar[str] = "top"
    kind: Literal["top"] = "top"

    def draw(self, m: int, random: Random) -> Chosen:
        return [(rank, self.GROUP) for rank in range(min(self.n, m))]
