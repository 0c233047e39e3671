"""Non-activating windows of a latent: what each kind draws, and what all of them draw from."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pydantic import Field

from tasks.lazy import np
from tasks.mining.cache import run_starts
from tasks.mining.hashing import hashed, number
from tasks.progress import Progress
from tasks.spec import Spec

if TYPE_CHECKING:
    import numpy as np

    from tasks.mining.cache import LatentCache
    from tasks.spec import Runtime
    from tasks.trained import TrainedSAE

T = TypeVar("T")

_LOUDEST = 40
_BITS = 32


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

    def free(self, rows: np.ndarray, taken: np.ndarray) -> np.ndarray:
        """bool: whether the window around each row overlaps none of those around the ``taken`` rows."""
        begin, end = self.around(rows)
        if not len(taken):
            return np.ones(len(rows), bool)
        first, last = map(np.sort, self.around(taken))
        # those that end before it, against those that begin before its end: the same ones, unless some do both
        return np.searchsorted(last, begin, side="right") == np.searchsorted(first, end)

    def apart(self, rows: np.ndarray) -> np.ndarray:
        """Those of some rows whose windows overlap none of the windows before them, in the same order."""
        begin, end = (edge.tolist() for edge in self.around(rows))
        firsts: list[int] = []
        lasts: list[int] = []
        kept = []
        for i, (a, b) in enumerate(zip(begin, end, strict=True)):
            at = bisect_right(lasts, a)
            if at == len(firsts) or firsts[at] >= b:
                firsts.insert(at, a)
                lasts.insert(at, b)
                kept.append(i)
        return rows[np.array(kept, np.int64)]

    def peaks(self, latent: int) -> np.ndarray:
        """int64: rows at the peaks of the activating windows of the split that are kept, the strongest first.

        Mining says which those are; where nobody did, they are the latent's 40 strongest rows.
        """

        def loudest() -> np.ndarray:
            rows, values = self.once(("rows of", latent), lambda: self.cache.of(latent), keep=4)
            return rows[np.argsort(-values, kind="stable")[:_LOUDEST]]

        return self.once(("peaks of", latent), loudest, keep=4)

    def matched(self, latent: int, rows: np.ndarray, n: int) -> np.ndarray:
        """At most ``n`` of some rows (the preferred first), so that their windows look like the activating ones.

        Windows have a shape: how many tokens, and at which of them the peak stands. The shapes of the windows kept of the
        latent (``peaks``) are dealt out over ``n`` places, each as often as it occurs. Every place takes the first row
        left with exactly its shape; places for which there is none take the nearest shape by the sum of both differences.
        So neither length nor place tells silent windows from others, as far as the rows allow it. Order is kept.
        """
        if len(rows) <= n:
            return rows
        size, place = self._shapes(rows)
        kinds, counts = np.unique(_code(*self._shapes(self.peaks(latent))), return_counts=True)
        if not len(kinds):
            return rows[:n]
        order = np.argsort(-counts, kind="stable")
        ends = np.cumsum(counts[order]) * n // counts.sum()
        code, chosen, lacking = _code(size, place), np.zeros(len(rows), bool), []
        for kind, places in zip(kinds[order].tolist(), np.diff(ends, prepend=0).tolist(), strict=True):
            if places:
                same = np.flatnonzero(code == kind)[:places]
                chosen[same] = True
                if len(same) < places:
                    lacking.append((kind, places - len(same)))
        for kind, places in lacking:
            left = np.flatnonzero(~chosen)
            distance = np.abs(size[left] - (kind >> _BITS)) + np.abs(place[left] - (kind & (1 << _BITS) - 1))
            chosen[left[np.argsort(distance, kind="stable")[:places]]] = True
        return rows[chosen]

    def _shapes(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        begin, end = self.around(rows)
        return end - begin, rows - begin

    def shuffled(self, latent: int, rows: np.ndarray, purpose: str) -> np.ndarray:
        """Some rows in an order that depends on seed, split, latent, purpose and the rows themselves alone, and so not on
        how the text was cut into shards."""
        seed = number(self.seed, f"{self.split}/{latent}/{purpose}")
        return rows[np.argsort(hashed(seed, self.cache.document_id[rows], self.place(rows)), kind="stable")]

    def place(self, rows: np.ndarray) -> np.ndarray:
        """int64: place of each row within its document, from 0."""
        starts = self.once("documents", lambda: run_starts(self.cache.document_id))
        return rows - starts[np.searchsorted(starts, rows, side="right") - 1]

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


def _code(size: np.ndarray, place: np.ndarray) -> np.ndarray:
    return (size << _BITS) + place


class Negatives(Spec):
    """A kind of non-activating windows."""

    n: int = Field(20, ge=0)
    """Windows per latent and split, as far as there are."""

    def draw(self, latent: int, ground: Ground, taken: np.ndarray) -> Drawn:
        """At most ``n`` windows in which the latent is silent, none twice; ``taken`` are rows that other kinds drew.

        Deterministic in (ground.seed, split, latent, kind).
        """
        raise NotImplementedError


def unlike_any(rows: np.ndarray) -> Drawn:
    """Windows drawn for no other latent's sake."""
    return Drawn(rows, np.full(len(rows), -1, np.int32), np.full(len(rows), np.nan, np.float32))
