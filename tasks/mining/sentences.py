"""The texts of the sentences that mining ranked, for some latents at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tasks.explainers.base import Sentence
from tasks.lazy import np, pa, pc, pq

_AT_ONCE = 200_000
"""Ranked sentences whose texts are held; every such part takes one pass over the corpus."""


def ranked_sentences(mined: Path, corpus: Path, latents: Sequence[int]) -> Iterator[tuple[Sentence, ...]]:
    """For each latent its sentences of the train split, by ranking (mean, max, last) and rank. Bounded memory.

    ``mined`` and ``corpus`` are the folders of a mine artifact and of the corpus artifact that it rests on.
    """
    table = pq.read_table(mined / "sentences.parquet", memory_map=True)
    if "split" in table.column_names:
        table = table.filter(pc.equal(table["split"], "train"))
        table = table.take(pc.sort_indices(table, [("latent", "ascending"), ("ranking", "descending"), ("rank", "ascending")]))
    owner = table["latent"].to_numpy()
    bounds = np.stack([np.searchsorted(owner, latents), np.searchsorted(owner, latents, side="right")], 1).tolist()
    held: list[tuple[int, int]] = []
    for i, (begin, end) in enumerate(bounds):
        held.append((begin, end))
        if i + 1 == len(bounds) or sum(b - a for a, b in held) >= _AT_ONCE:
            yield from _with_texts(table, corpus, held)
            held = []


def _with_texts(table: pa.Table, corpus: Path, held: list[tuple[int, int]]) -> Iterator[tuple[Sentence, ...]]:
    parts = [table.slice(begin, end - begin).to_pydict() for begin, end in held]
    texts = _texts(corpus, {n for part in parts for n in part.get("sentence_id", ())})
    for part in parts:
        columns = (part.get(name, ()) for name in ("ranking", "sentence_id", "value"))
        yield tuple(Sentence(ranking, texts[n], value) for ranking, n, value in zip(*columns, strict=True))


def _texts(corpus: Path, wanted: set[int]) -> dict[int, str]:
    file = pq.ParquetFile(corpus / "sentences.parquet")
    ids = pa.array(sorted(wanted), pa.int64())
    found: dict[int, str] = {}
    for batch in file.iter_batches(columns=["sentence_id", "text"]) if wanted else ():
        batch = batch.filter(pc.is_in(batch["sentence_id"], ids))
        found.update(zip(batch["sentence_id"].to_pylist(), batch["text"].to_pylist(), strict=True))
    return found
