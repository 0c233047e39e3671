"""What kinds of non-activating windows share that go by similar latents. Shapes: N latents, D width, B latents of a block."""

from __future__ import annotations

from bisect import bisect_left, insort
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
        windows.append(iter(rows[ground.silent(latent, rows)].tolist()))
    apart = Apart(ground, taken)
    drawn: list[tuple[int, int]] = []
    open_ = set(range(len(windows)))
    while open_ and len(drawn) < n:
        for i in sorted(open_):
            row = next((row for row in windows[i] if apart.add(row)), None)
            if row is None:
                open_.remove(i)
            elif len(drawn) < n:
                drawn.append((row, i))
    which = np.array([i for _, i in drawn], np.int64)
    rows = np.array([row for row, _ in drawn], np.int64)
    return Drawn(rows, found.latent[which].astype(np.int32), found.similarity[which].astype(np.float32))


def peaks(ground: Ground, latent: int, n: int = _PEAKS) -> np.ndarray:
    """int64: rows of a latent's strongest windows, no two overlapping, the strongest first."""

    def make() -> np.ndarray:
        rows, values = ground.cache.of(latent)
        looked = 8 * n
        while True:
            order = strongest(rows, values, looked)
            apart = Apart(ground, rows[:0])
            found = [row for row in rows[order].tolist() if len(apart) < n and apart.add(row)]
            if len(found) == n or looked >= len(rows):
                return np.array(found, np.int64)
            looked *= 8  # it fires in bursts, many rows of few windows

    return ground.once(("strongest windows of", latent, n), make, keep=_HELD)


def strongest(names: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    """Places of the ``n`` largest values, the largest first; equals go by name, whatever order they come in."""
    places = np.arange(len(values))
    if n < len(values):
        least = np.partition(values, len(values) - n)[len(values) - n]
        places = np.flatnonzero(values >= least)
    return places[np.lexsort((names[places], -values[places]))][:n]


class Apart:
    """Windows no two of which overlap, and none of which overlaps with one that is taken."""

    def __init__(self, ground: Ground, taken: np.ndarray) -> None:
        self._around = ground.around
        self._taken = self._around(taken)
        self._begins: list[int] = []
        self._ends: list[int] = []

    def __len__(self) -> int:
        return len(self._begins)

    def add(self, row: int) -> bool:
        """Take the window around a row; False where it overlaps with another."""
        begin, end = (int(edge[0]) for edge in self._around(np.array([row])))
        i = bisect_left(self._begins, begin)
        if (i and self._ends[i - 1] > begin) or (i < len(self._begins) and self._begins[i] < end):
            return False
        if len(self._taken[0]) and bool(((self._taken[0] < end) & (self._taken[1] > begin)).any()):
            return False
        insort(self._begins, begin)
        insort(self._ends, end)  # in the order of the beginnings, as windows do not overlap
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
