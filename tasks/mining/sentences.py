"""The texts of the sentences that mining ranked, for some latents at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tasks.explainers.base import Sentence
from tasks.lazy import np, pa, pc, pq

_LATENTS_AT_ONCE = 4096
"""Latents whose sentences are held; every such part takes one pass over the corpus."""

_COLUMNS = ("latent", "ranking", "rank", "sentence_id", "value")


def ranked_sentences(mined: Path, corpus: Path, latents: Sequence[int]) -> Iterator[tuple[Sentence, ...]]:
    """For each latent (ascending) its sentences of the train split, by ranking and rank. Bounded memory.

    ``mined`` and ``corpus`` are the folders of a mine artifact and of the corpus artifact that it rests on.
    """
    for start in range(0, len(latents), _LATENTS_AT_ONCE):
        part = latents[start : start + _LATENTS_AT_ONCE]
        table = _ranked(mined / "sentences.parquet", part[0], part[-1])
        owner = table["latent"].to_numpy()
        table = table.filter(pa.array(np.isin(owner, part)))
        texts = _texts(corpus / "sentences.parquet", set(table["sentence_id"].to_pylist()))
        owner = table["latent"].to_numpy()
        for begin, end in zip(np.searchsorted(owner, part), np.searchsorted(owner, part, side="right"), strict=True):
            rows = table.slice(begin, end - begin).to_pylist()
            yield tuple(Sentence(row["ranking"], texts[row["sentence_id"]], row["value"]) for row in rows)


def _ranked(file: Path, first: int, last: int) -> pa.Table:
    wanted = (pc.field("latent") >= first) & (pc.field("latent") <= last) & (pc.field("split") == "train")
    found = pq.read_table(file, columns=list(_COLUMNS), filters=wanted)
    return found.sort_by([("latent", "ascending"), ("ranking", "ascending"), ("rank", "ascending")])


def _texts(file: Path, wanted: set[int]) -> dict[int, str]:
    ids = pa.array(sorted(wanted), pa.int64())
    found: dict[int, str] = {}
    for batch in pq.ParquetFile(file).iter_batches(columns=["sentence_id", "text"]) if wanted else ():
        batch = batch.filter(pc.is_in(batch["sentence_id"], ids))
        found.update(zip(batch["sentence_id"].to_pylist(), batch["text"].to_pylist(), strict=True))
    return found
