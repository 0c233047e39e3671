"""A latent cache and all that non-activating windows are drawn from, in memory."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from tasks.mining.cache import Encoded, LatentCache
from tasks.negatives.base import Ground
from tasks.spec import Runtime

BEFORE, WINDOW = 24, 32
CONTEXT = 64


def cache_of(fires: Sequence[Mapping[int, float]], token_id: np.ndarray, n_shards: int = 1) -> LatentCache:
    """A cache of latents that fire on some rows with some value, in contexts of 64 rows, cut into shards."""
    n_rows = len(token_id)
    cuts = [n_rows // CONTEXT * i // n_shards * CONTEXT for i in range(n_shards)] + [n_rows]
    shards = []
    for start, stop in itertools.pairwise(cuts):
        inside = [sorted((r - start, v) for r, v in one.items() if start <= r < stop) for one in fires]
        flat = [pair for one in inside for pair in one]
        shards.append(
            Encoded(
                offsets=np.cumsum([0, *map(len, inside)]).astype(np.int64),
                row=np.array([r for r, _ in flat], np.uint32),
                value=np.array([v for _, v in flat], np.float32),
                token_id=token_id[start:stop].astype(np.int32),
                context_offsets=np.append(np.arange(0, stop - start, CONTEXT), stop - start).astype(np.int64),
                document_id=(np.arange(start, stop) // CONTEXT).astype(np.int32),
                sentence_id=np.zeros(stop - start, np.int32),
            )
        )
    return LatentCache(shards)


def scattered(n_latents: int, silent: int, everywhere: int, n_contexts: int = 200) -> tuple[list[dict[int, float]], int]:
    """Where some latents fire at random, among rows whose windows are whole, each on its own share of them; one fires
    nowhere and one on every fourth row. And how many rows there are."""
    n_rows = n_contexts * CONTEXT
    draw, place = np.random.default_rng(3), np.arange(n_rows) % CONTEXT
    whole = np.flatnonzero((place >= BEFORE) & (place <= CONTEXT - WINDOW + BEFORE))
    fires: list[dict[int, float]] = []
    for latent in range(n_latents):
        rows = np.sort(draw.choice(whole, 30 + 320 * latent // n_latents, replace=False))
        values = draw.integers(1, 50, len(rows)).astype(float)
        fires.append({} if latent == silent else dict(zip(rows.tolist(), values.tolist(), strict=True)))
    fires[everywhere] = {row: 1.0 for row in range(0, n_rows, 4)}
    return fires, n_rows


def ground_of(cache: LatentCache, W_ND: Any = None, texts: Sequence[str] = (), seed: int = 0) -> Ground:
    """Windows of 24 rows before the peak and 8 from it on, clipped to their context; one of each context in the pool."""

    def around(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        starts = cache.context_offsets
        at = np.searchsorted(starts, rows, side="right") - 1
        begin, end = rows - BEFORE, rows - BEFORE + WINDOW
        return np.maximum(begin, starts[at]), np.minimum(end, starts[at + 1])

    W_ND = torch.eye(cache.n_latents) if W_ND is None else torch.as_tensor(W_ND)
    sae = SimpleNamespace(W_dec_ND=W_ND, sae=SimpleNamespace(W_enc_ND=W_ND.flip(0)), n_latents=cache.n_latents)
    pool = np.arange(30, cache.n_rows, CONTEXT)
    return Ground(cache, around, pool, sae, list(texts), Runtime(mode="inline", device="cpu"), seed, "train")  # type: ignore[arg-type]
