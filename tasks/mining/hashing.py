"""Draws that depend on what is drawn from alone, and not on how it was cut into shards."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING

from tasks.lazy import np

if TYPE_CHECKING:
    import numpy as np


@lru_cache(maxsize=256)
def number(seed: int, purpose: str) -> int:
    """A seed of its own for one purpose of a run."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8], "little")


def hashed(seed: int, *parts: np.ndarray) -> np.ndarray:
    """A uint64 per row, uniform for all purposes here (SplitMix64; Steele, Lea and Flood 2014)."""
    state = np.full(len(parts[0]), seed, np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # wraps around, as arrays do
    for part in parts:
        state ^= _mixed(part.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15))
        state = _mixed(state)
    return state


def _mixed(z: np.ndarray) -> np.ndarray:
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z
