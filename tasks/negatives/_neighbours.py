"""What kinds of non-activating windows share that go by similar latents. Shapes: N latents, D width, B latents of a block."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from tasks.dictionary.directions import cosines, lengths, nearest
from tasks.lazy import np, torch
from tasks.lm.loading import device_of
from tasks.negatives.base import Drawn, Ground, Negatives, Stretches, unlike_any

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
        if not self.n or not len(ground.once(("rows of", latent), lambda: ground.cache.of(latent), keep=4)[0]):
            return unlike_any(np.zeros(0, np.int64))
        return by_turns(self.n, latent, self.neighbours(latent, ground), ground, taken)


def by_turns(n: int, latent: int, found: Neighbours, ground: Ground, taken: np.ndarray) -> Drawn:
    """The strongest window of each neighbour, then the next of each, and so on: of all these, the first ``n`` whose
    shape is that of the latent's own (``Ground.matched``)."""
    parts = []
    for neighbour in found.latent.tolist():
        strong = strong_windows(ground, neighbour)
        parts.append(strong.at(ground.silent_in(latent, strong)))
    if not parts:
        return unlike_any(np.zeros(0, np.int64))
    whose = np.repeat(np.arange(len(parts)), [len(part.row) for part in parts])
    windows = Stretches(*map(np.concatenate, zip(*parts, strict=True)))
    free = ground.free_of(windows, taken)
    windows, whose = windows.at(free), whose[free]
    turn = np.arange(len(whose)) - np.searchsorted(whose, whose)
    order = np.lexsort((whose, turn))
    order = order[ground.apart_of(windows.at(order))]
    windows, whose = windows.at(order), whose[order]
    rows = ground.matched(latent, windows, n)
    at = whose[np.isin(windows.row, rows)]  # in one order, none twice, as none overlap
    return Drawn(rows, found.latent[at].astype(np.int32), found.similarity[at].astype(np.float32))


def strong_windows(ground: Ground, latent: int, n: int = _PEAKS) -> Stretches:
    """The windows around a latent's strongest rows, no two overlapping, the strongest first."""
    held: dict[tuple[int, int], Stretches] = ground.once("strong windows", dict)
    if (latent, n) not in held:
        if len(held) >= _HELD:
            del held[next(iter(held))]
        rows, values = ground.cache.of(latent)
        looked = 4 * n
        while True:
            windows = ground.stretches(rows[strongest(rows, values, looked)])
            apart = ground.apart_of(windows)
            if len(apart) >= n or looked >= len(rows):
                break
            looked *= 8  # it fires in bursts, many rows of few windows
        held[latent, n] = windows.at(apart[:n])
    return held[latent, n]


def strongest(names: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    """Places of the ``n`` largest values, the largest first; equals go by name, whatever order they come in."""
    places = np.arange(len(values))
    if n < len(values):
        least = np.partition(values, len(values) - n)[len(values) - n]
        places = np.flatnonzero(values >= least)
    return places[np.lexsort((names[places], -values[places]))][:n]


def most_alike(name: str, W_ND: Tensor, latent: int, n: int, ground: Ground) -> Neighbours:
    """The latents whose rows point most nearly the same way: cosine similarity, among latents that fire at all.

    Found for a block of latents at a time, when one of them is first asked for: memory is a block's N x B similarities,
    and a run over some latents pays for theirs only.
    """
    rows_ND = ground.once((f"{name} rows",), lambda: W_ND.to(device_of(ground.runtime)))
    N = len(W_ND)
    size = max(1, _CELLS // N)
    first = latent // size * size

    def facts() -> tuple[Tensor, Tensor]:
        return lengths(rows_ND), torch.from_numpy(ground.cache.n_fires == 0).to(rows_ND.device)

    def make() -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            length_N, silent_N = ground.once((f"{name} lengths",), facts)
            own_B = torch.arange(first, min(first + size, N), device=rows_ND.device)
            found = nearest(cosines(rows_ND[own_B], rows_ND, length_N), n, own_B, silent_N)
        return found.index_NK.cpu().numpy(), found.value_NK.cpu().numpy()

    index, value = ground.once((f"{name} neighbours", n, first), make, keep=2)
    index, value = index[latent - first], value[latent - first]
    there = np.isfinite(value)
    return Neighbours(index[there], value[there])
