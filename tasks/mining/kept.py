"""The best and a fair sample of each latent's events, in bounded memory. All arrays are columns of equal length.

Both selections are functions of the set of events alone: the n largest by (value, then place), and the n of smallest
hash. So any order of blocks and any cut into shards gives what one pass over everything gives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.lazy import np

if TYPE_CHECKING:
    import numpy as np

Columns = dict[str, "np.ndarray"]
"""``latent`` and ``value``; ``document_id`` and ``place`` (row within its document), which break ties; others go along."""


def hashed(seed: int, *parts: np.ndarray) -> np.ndarray:
    """A uint64 per row, uniform for all purposes here (SplitMix64; Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        state = np.full(len(parts[0]), seed, np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        for part in parts:
            state = _mixed(state ^ _mixed(part.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)))
        return state


def _mixed(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def rank_within(group: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The rank of each row within its group, when ``order`` sorts rows by group and then by preference."""
    sorted_group = group[order]
    starts = np.flatnonzero(np.diff(sorted_group, prepend=-1))
    sizes = np.diff(np.append(starts, len(order)))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(starts, sizes)
    return rank


def by_strength(columns: Columns) -> np.ndarray:
    """Rank of each event within its latent, the strongest first; equals go by document and place."""
    order = np.lexsort((columns["place"], columns["document_id"], -columns["value"], columns["latent"]))
    return rank_within(columns["latent"], order)


def by_hash(columns: Columns) -> np.ndarray:
    """Rank of each event within its latent, in an order drawn by hash."""
    return rank_within(columns["latent"], np.lexsort((columns["hash"], columns["latent"])))


def select(columns: Columns, n_top: int, n_sample: int) -> np.ndarray:
    """Which events are among their latent's ``n_top`` strongest or its sample of ``n_sample``."""
    keep = by_strength(columns) < n_top
    return keep | (by_hash(columns) < n_sample) if n_sample else keep


def concatenated(parts: list[Columns]) -> Columns:
    """The rows of all parts."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def taken(columns: Columns, where: np.ndarray) -> Columns:
    """Some of the rows."""
    return {name: values[where] for name, values in columns.items()}
