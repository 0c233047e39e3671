"""Latent caches of made-up text, for tests: documents, their shards on disk, and the dense matrix they stand for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from tasks.mining.cache import Encoded, LatentCache, NpyFile
from tasks.mining.sorting import ByLatent
from tasks.spec import Runtime

K = 3


def documents(seed: int, n: int = 14, n_latents: int = 12, first: int = 0) -> list[SimpleNamespace]:
    """Documents of a few contexts, with the K latents of every row."""
    draw = np.random.Generator(np.random.Philox(seed))
    found, sentence = [], 1000 * first
    for document in range(first, first + n):
        contexts = [int(draw.integers(2, 9)) for _ in range(int(draw.integers(1, 4)))]
        rows = sum(contexts)
        cuts = np.sort(draw.choice(np.arange(1, rows), min(rows - 1, int(draw.integers(0, 3))), replace=False))
        ids = sentence + np.searchsorted(cuts, np.arange(rows), side="right")
        sentence = int(ids[-1]) + 1
        index = np.stack([draw.permutation(n_latents)[:K] for _ in range(rows)])
        # few distinct values, so that ties are common; a fifth of the entries are not active
        value = draw.choice([0.0, 0.5, 1.0, 2.0, 2.0], (rows, K)).astype(np.float32)
        found.append(SimpleNamespace(
            token_id=draw.integers(0, 6, rows).astype(np.int32), document_id=np.full(rows, document, np.int32),
            sentence_id=ids.astype(np.int32), lengths=contexts, index=index, value=value,
        ))  # fmt: skip
    return found


def joined(parts: list[SimpleNamespace], name: str) -> np.ndarray:
    return np.concatenate([getattr(part, name) for part in parts])


def encoded(parts, folder: Path, split: str, n_latents: int = 12, block_rows: int = 16, at_once: int = 64) -> Encoded:
    """One shard, sorted as the stage sorts it."""
    folder.mkdir(parents=True, exist_ok=True)
    by_latent = ByLatent(folder / "scratch", n_latents, at_once)
    index, value = joined(parts, "index"), joined(parts, "value")
    for start in range(0, len(index), block_rows):
        by_latent.take(start, index[start : start + block_rows], value[start : start + block_rows])
    by_latent.finish(folder)
    for name in ("token_id", "document_id", "sentence_id"):
        with NpyFile(folder / f"{name}.npy", np.int32, len(index)) as file:
            file.write(joined(parts, name))
    np.save(folder / "context_offsets.npy", np.cumsum([0, *(c for p in parts for c in p.lengths)]))
    return Encoded.at(folder, split)


def dense(parts, n_latents: int = 12) -> np.ndarray:
    """Rows x latents, float32."""
    index, value = joined(parts, "index"), joined(parts, "value")
    found = np.zeros((len(index), n_latents), np.float32)
    np.put_along_axis(found, index, value, 1)
    return found


def split_of(shards: list[Encoded], spec, scratch: Path | None = None, name: str = "train"):
    """A split as the stage sees it, with words for tokens and no SAE."""
    from tasks.mining.split import Split

    texts = [f" w{i}" for i in range(8)]
    return Split(name, LatentCache(shards, scratch), spec.kept(name), None, texts, Runtime(mode="inline", device="cpu"))
