"""Non-activating windows of a latent: what each kind draws, and what all of them draw from."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pydantic import Field

from tasks.lazy import np
from tasks.progress import Progress
from tasks.spec import Spec

if TYPE_CHECKING:
    import numpy as np

    from tasks.mining.cache import LatentCache
    from tasks.spec import Runtime
    from tasks.trained import TrainedSAE

T = TypeVar("T")


class Drawn(NamedTuple):
    """Some windows, by the row that stands at their peak; arrays of equal length, the best first."""

    row: np.ndarray
    """int64: row of the cache."""

    neighbour: np.ndarray
    """int32: the latent that fires there instead; -1 for kinds that go by no other latent."""

    similarity: np.ndarray
    """float32: how alike neighbour or window is, 1 for equal; NaN where a kind knows none."""


class Ground:
    """What non-activating windows of one split are drawn from. The same for all latents of a mining."""

    def __init__(
        self,
        cache: LatentCache,
        around: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
        pool: np.ndarray,
        sae: TrainedSAE,
        texts: list[str],
        runtime: Runtime,
        seed: int,
        split: str,
    ) -> None:
        self.cache, self.around, self.pool = cache, around, pool
        self.sae, self.texts, self.runtime, self.seed, self.split = sae, texts, runtime, seed, split
        self._made: dict[Hashable, Any] = {}

    cache: LatentCache
    around: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    """From rows to first and last-plus-one row of the window around each, within its context."""

    pool: np.ndarray
    """int64: rows drawn at random from all of the split, each the peak of a candidate window; no two windows overlap."""

    texts: list[str]
    """Text of each token id."""

    progress: Progress = Progress()
    """Who is told of long work, such as embedding the pool; the stage that draws sets it."""

    def silent(self, latent: int, rows: np.ndarray) -> np.ndarray:
        """bool: whether a latent is silent in the whole window around each row."""
        begin, end = self.around(rows)
        fires, _ = self.once(("rows of", latent), lambda: self.cache.of(latent), keep=4)
        return np.searchsorted(fires, begin) == np.searchsorted(fires, end)

    def once(self, name: Hashable, make: Callable[[], T], keep: int | None = None) -> T:
        """What ``make`` returned the first time: similarities, an index. ``keep`` bounds how many names of this sort
        (the first part of a tuple) are remembered."""
        if name not in self._made:
            if keep is not None and isinstance(name, tuple):
                same = [n for n in self._made if isinstance(n, tuple) and n[0] == name[0]]
                for old in same[: len(same) - keep + 1]:
                    del self._made[old]
            self._made[name] = make()
        return self._made[name]


class Negatives(Spec):
    """A kind of non-activating windows."""

    n: int = Field(20, ge=0)
    """Windows per latent and split, as far as there are."""

    def draw(self, latent: int, ground: Ground, taken: np.ndarray) -> Drawn:
        """At most ``n`` windows in which the latent is silent, none twice; ``taken`` are rows that other kinds drew.

        Deterministic in (ground.seed, split, latent, kind).
        """
        raise NotImplementedError
