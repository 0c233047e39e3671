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


class Stretches(NamedTuple):
    """Some rows, each with the window around it; arrays of equal length."""

    row: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    """Row past the last."""

    def at(self, where: np.ndarray) -> Stretches:
        """Some of them, by index or mask."""
        return Stretches(self.row[where], self.begin[where], self.end[where])


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
    """int64: rows drawn at random from all of the split, ascending, each the peak of a candidate window; no two windows
    overlap."""

    texts: list[str]
    """Text of each token id."""

    progress: Progress = Progress()
    """Who is told of long work, such as embedding the pool; the stage that draws sets it."""

    def silent_in(self, latent: int, found: Stretches) -> np.ndarray:
        """bool: whether a latent is silent in the whole of each window."""
        fires, _ = self.once(("rows of", latent), lambda: self.cache.of(latent), keep=4)
        return np.searchsorted(fires, found.begin) == np.searchsorted(fires, found.end)

    def free_of(self, found: Stretches, taken: np.ndarray) -> np.ndarray:
        """bool: whether each window overlaps none of those around the ``taken`` rows."""
        if not len(taken):
            return np.ones(len(found.row), bool)
        first, last = map(np.sort, self.around(taken))
        # those that end before it, against those that begin before its end: the same ones, unless some do both
        return np.searchsorted(last, found.begin, side="right") == np.searchsorted(first, found.end)

    def stretches(self, rows: np.ndarray) -> Stretches:
        """Some rows with the windows around them; those of the pool are remembered."""
        if rows is self.pool:
            return self.once("windows of the pool", lambda: Stretches(rows, *self.around(rows)))
        return Stretches(rows, *self.around(rows))

    def apart(self, rows: np.ndarray) -> np.ndarray:
        """Those of some rows whose windows overlap none of the windows before them, in the same order."""
        return rows[self.apart_of(self.stretches(rows))]

    def apart_of(self, found: Stretches) -> np.ndarray:
        """Indices of the windows that overlap none of those before them that are kept, ascending."""
        row, begin, end = found
        order = np.argsort(begin)
        reach = np.maximum.accumulate(end[order])
        crowded = np.zeros(len(row) + 1, bool)
        crowded[1:-1] = begin[order][1:] < reach[:-1]
        single = np.empty(len(row), bool)
        single[order] = ~(crowded[:-1] | crowded[1:])  # overlaps none, whatever is kept of the others
        kept, some = np.flatnonzero(single).tolist(), np.flatnonzero(~single)
        firsts: list[int] = []
        lasts: list[int] = []
        for i, a, b in zip(some.tolist(), begin[some].tolist(), end[some].tolist(), strict=True):
            at = bisect_right(lasts, a)
            if at == len(firsts) or firsts[at] >= b:
                firsts.insert(at, a)
                lasts.insert(at, b)
                kept.append(i)
        return np.sort(np.array(kept, np.int64))

    def peaks(self, latent: int) -> np.ndarray:
        """int64: rows at the peaks of the activating windows of the split that are kept, the strongest first.

        Mining says which those are; where nobody did, they are the latent's 40 strongest rows.
        """

        def loudest() -> np.ndarray:
            rows, values = self.once(("rows of", latent), lambda: self.cache.of(latent), keep=4)
            return rows[np.argsort(-values, kind="stable")[:_LOUDEST]]

        return self.once(("peaks of", latent), loudest, keep=4)

    def matched(self, latent: int, found: Stretches, n: int) -> np.ndarray:
        """Rows of at most ``n`` of some windows (the preferred first), so that their windows look like the activating ones.

        Windows have a shape: how many tokens, and at which of them the peak stands. The shapes of the windows kept of the
        latent (``peaks``) are dealt out over ``n`` places, each as often as it occurs. Every place takes the first row
        left with exactly its shape; places for which there is none take the nearest shape by the sum of both differences.
        So neither length nor place tells silent windows from others, as far as the rows allow it. Order is kept.
        """
        if len(found.row) <= n:
            return found.row
        size, place = found.end - found.begin, found.row - found.begin
        kinds, counts = self.once(("shapes of", latent), lambda: self._shapes(self.peaks(latent)), keep=4)
        if not len(kinds):
            return found.row[:n]
        ends = np.cumsum(counts) * n // counts.sum()
        code, chosen, lacking = _code(size, place), np.zeros(len(size), bool), []
        for kind, places in zip(kinds.tolist(), np.diff([0, *ends.tolist()]).tolist(), strict=True):
            if places:
                same = np.flatnonzero(code == kind)[:places]
                chosen[same] = True
                if len(same) < places:
                    lacking.append((kind, places - len(same)))
        for kind, places in lacking:
            left = np.flatnonzero(~chosen)
            distance = np.abs(size[left] - (kind >> _BITS)) + np.abs(place[left] - (kind & (1 << _BITS) - 1))
            least = np.partition(distance, places - 1)[places - 1]
            near = distance < least
            near[np.flatnonzero(distance == least)[: places - int(near.sum())]] = True  # of equally near ones the first
            chosen[left[near]] = True
        return found.row[chosen]

    def _shapes(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The shapes of some windows, the commonest first, and how often each occurs."""
        _, begin, end = self.stretches(rows)
        kinds, counts = np.unique(_code(end - begin, rows - begin), return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return kinds[order], counts[order]

    def order(self, latent: int, rows: np.ndarray, purpose: str) -> np.ndarray:
        """Indices of some rows in an order that depends on seed, split, latent, purpose and the rows themselves alone. Rows
        are counted through all shards, so it does not depend on how the text was cut into them."""
        return np.argsort(hashed(number(self.seed, f"{self.split}/{latent}/{purpose}"), rows))

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
