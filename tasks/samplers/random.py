"""Windows drawn evenly from all."""

from __future__ import annotations

from random import Random
from typing import ClassVar, Literal

from tasks.samplers.base import Chosen, Sampler


class RandomWindows(Sampler):
    """A random sample without replacement: most of it is weak, as most activations are."""

    GROUP: ClassVar[str] = "random"
    kind: Literal["random"] = "random"

    def draw(self, m: int, random: Random) -> Chosen:
        return [(rank, self.GROUP) for rank in sorted(random.sample(range(m), min(self.n, m)))]
