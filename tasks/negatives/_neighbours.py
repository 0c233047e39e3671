"""What kinds of non-activating windows share that go by similar latents. Shapes: N latents, D width, B latents of a block."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from tasks.lazy import np, torch
from tasks.negatives.base import Drawn, Ground, Negatives

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_CELLS = 1 << 24
"""Similarities of a block: 64 MiB of float32, whatever N is."""

_PEAKS = 64
"""Windows looked at of each neighbour: its strongest that do not overlap."""

_HELD = 1024
"""Latents whose strongest windows are remembered, since neighbours have neighbours in common."""


class Neighbours(NamedTuple):
    """Latents similar to one, the most similar first."""

    latent: np.ndarray
    """int64."""

    similarity: np.ndarray
    """float32."""


class NeighbourNegatives(Negatives):
    """Windows in which a similar latent fires strongly, while this one is silent in the whole of them."""

    n_neighbours: int = Field(10, ge=1)
    """Most similar latents whose windows are taken, among those that fire in the split."""

    def neighbours(self, latent: int, ground: Ground) -> Neighbours:
        """At most ``n_neighbours``, never the latent itself."""
        raise NotImplementedError

    def draw(self, latent: int, ground: Ground, taken: np.ndarray) -> Drawn:
        if not self.n or not len(fires(ground, latent)[0]):
            return nothing()
        return by_turns(self.n, latent, self.neighbours(latent, ground), ground, taken)


def nothing() -> Drawn:
    """No windows."""
    return Drawn(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))


def fires(ground: Ground, latent: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows on which a latent fires and how strongly; those of the latest few latents are remembered."""
    return ground.once(("rows of", latent), lambda: ground.cache.of(latent), keep=4)


def by_turns(n: int, latent: int, found: Neighbours, ground: Ground, taken: np.ndarray) -> Drawn:
    """The strongest window of each neighbour, then the next of each, until there are ``n`` that do not overlap."""
    windows = []
    for neighbour in found.latent.tolist():
        rows = peaks(ground, neighbour)
        rows = rows[ground.silent(latent, rows)]
        windows.append(spans(ground, rows[clear_of(ground, rows, taken)]))
    apart = Apart()
    drawn: list[tuple[int, int]] = []
    turns = list(range(len(windows)))
    while turns and len(drawn) < n:
        for i in list(turns):
            row = next((row for row, begin, end in windows[i] if apart.add(begin, end)), None)
            if row is None:
                turns.remove(i)
            else:
                drawn.append((row, i))
    which = np.array([i for _, i in drawn[:n]], np.int64)
    rows = np.array([row for row, _ in drawn[:n]], np.int64)
    return Drawn(rows, found.latent[which].astype(np.int32), found.similarity[which].astype(np.float32))


def peaks(ground: Ground, latent: int, n: int = _PEAKS) -> np.ndarray:
    """int64: rows of a latent's strongest windows, no two overlapping, the strongest first."""
    held: dict[tuple[int, int], np.ndarray] = ground.once("strongest windows", dict)
    if (latent, n) not in held:
        if len(held) >= _HELD:
            del held[next(iter(held))]
        held[latent, n] = _peaks(ground, latent, n)
    return held[latent, n]


def _peaks(ground: Ground, latent: int, n: int) -> np.ndarray:
    rows, values = ground.cache.of(latent)
    looked = 4 * n
    while True:
        apart, found = Apart(), []
        for row, begin, end in spans(ground, rows[strongest(rows, values, looked)]):
            if apart.add(begin, end):
                found.append(row)
                if len(found) == n:
                    break
        if len(found) == n or looked >= len(rows):
            return np.array(found, np.int64)
        looked *= 8  # it fires in bursts, many rows of few windows


def spans(ground: Ground, rows: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Each row with the first and last-plus-one row of the window around it."""
    begin, end = ground.around(rows)
    return zip(rows.tolist(), begin.tolist(), end.tolist(), strict=True)


def clear_of(ground: Ground, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """bool: whether the window around each row overlaps with none around some others."""
    begin, end = ground.around(rows)
    clear = np.ones(len(rows), bool)
    for b, e in zip(*ground.around(others), strict=True):
        clear &= (end <= b) | (begin >= e)
    return clear


def strongest(names: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    """Places of the ``n`` largest values, the largest first; equals go by name, whatever order they come in."""
    places = np.arange(len(values))
    if n < len(values):
        least = np.partition(values, len(values) - n)[len(values) - n]
        places = np.flatnonzero(values >= least)
    return places[np.lexsort((names[places], -values[places]))][:n]


class Apart:
    """Windows no two of which overlap."""

    def __init__(self) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []

    def add(self, begin: int, end: int) -> bool:
        """Take a window; False where it overlaps with another."""
        i = bisect_left(self._begins, begin)
        if (i and self._ends[i - 1] > begin) or (i < len(self._begins) and self._begins[i] < end):
            return False
        self._begins.insert(i, begin)
        self._ends.insert(i, end)
        return True


def most_alike(name: str, W_ND: Tensor, latent: int, n: int, ground: Ground) -> Neighbours:
    """The latents whose rows point most nearly the same way: cosine similarity, among latents that fire at all.

    Found for a block of latents at a time, when one of them is first asked for: memory is a block's N x B similarities,
    and a run over some latents pays for theirs only.
    """
    N = len(W_ND)
    size = max(1, _CELLS // N)
    first = latent // size * size

    def facts() -> tuple[Tensor, Tensor]:
        silent_N = torch.from_numpy(ground.cache.n_fires == 0).to(W_ND.device)
        return W_ND.float().norm(dim=1).clamp_min(1e-12), silent_N

    def make() -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            norm_N, silent_N = ground.once((f"{name} lengths",), facts)
            rows_BD = W_ND[first : first + size].float()
            cos_BN = (rows_BD / norm_N[first : first + size, None]) @ W_ND.float().T
            cos_BN /= norm_N
            cos_BN.masked_fill_(silent_N, -torch.inf)
            own = torch.arange(len(cos_BN), device=cos_BN.device)
            cos_BN[own, first + own] = -torch.inf
            value, index = cos_BN.topk(min(n, N), dim=1)
        return index.cpu().numpy(), value.cpu().numpy()

    index, value = ground.once((f"{name} neighbours", n, first), make, keep=2)
    index, value = index[latent - first], value[latent - first]
    there = np.isfinite(value)
    return Neighbours(index[there], value[there])
