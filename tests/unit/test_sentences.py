from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.mining import sentences
from tasks.mining.sentences import ranked_sentences
from tasks.mining.tables import sentences_schema


def written(folder: Path, n_latents: int = 7) -> Path:
    """Latent i has sentences 10 i (max) and 10 i + 1 (last) of the train split, one of the test split, and no other;
    every third latent has none."""
    rows = [
        {"latent": i, "ranking": ranking, "rank": rank, "sentence_id": 10 * i + n, "split": split, "value": 1.0 + n}
        for split in ("test", "train")
        for n, (ranking, rank) in enumerate([("last", 1), ("max", 0), ("last", 0)])
        for i in range(n_latents)
        if i % 3 and (split == "train") == (n < 2)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "sentences.parquet", row_group_size=4)
    (folder / "corpus").mkdir()
    texts = {"text": [f"sentence {i}" for i in range(100)], "sentence_id": list(range(100))}
    pq.write_table(pa.table(texts), folder / "corpus/sentences.parquet", row_group_size=8)
    return folder


def test_each_latent_gets_the_texts_of_its_own_sentences(tmp_path, monkeypatch):
    folder = written(tmp_path)
    wanted = [0, 1, 2, 5, 6]
    found = list(ranked_sentences(folder, folder / "corpus", wanted))
    assert [[s.text for s in one] for one in found] == [
        [], ["sentence 10", "sentence 11"], ["sentence 20", "sentence 21"], ["sentence 50", "sentence 51"], [],
    ]  # fmt: skip
    assert [(s.ranking, s.value) for s in found[1]] == [("last", 1.0), ("max", 2.0)]
    monkeypatch.setattr(sentences, "_LATENTS_AT_ONCE", 2)
    assert list(ranked_sentences(folder, folder / "corpus", wanted)) == found
    assert list(ranked_sentences(folder, folder / "corpus", [])) == []


def test_where_nothing_fired_there_are_no_sentences(tmp_path):
    folder = written(tmp_path)
    pq.write_table(sentences_schema().empty_table(), folder / "sentences.parquet")
    assert list(ranked_sentences(folder, folder / "corpus", [0, 3])) == [(), ()]
