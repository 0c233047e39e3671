"""Corpus: text from anywhere, as a table of sentences with documents and splits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tasks.corpora.base import Corpus, Document
from tasks.lazy import np, pa, pc, pq
from tasks.spec import Spec, SpecError
from tasks.stage import Job, Summary, stage

if TYPE_CHECKING:
    from artifacts.store import Opened

SPLITS = ("train", "validation", "test")
_ROWS = 65536


class CorpusSpec(Spec):
    """Which text."""

    corpus: Corpus

    def payload(self) -> dict:
        return self.corpus.payload()


@stage("corpus", version=1)
def corpus(job: Job[CorpusSpec]) -> Summary:
    """Write ``sentences.parquet`` (text, document_id, sentence_id, split) and ``documents.parquet``."""
    source = job.spec.corpus
    names, n_sentences, n_chars = [], [], []
    digest = hashlib.sha256()
    with job.progress.bar("corpus", source.max_sentences, "sentences") as bar:
        texts: list[str] = []
        for document in limited(source.documents(), source.max_sentences):
            names.append(document.name)
            n_sentences.append(len(document.sentences))
            n_chars.append(sum(map(len, document.sentences)))
            texts += document.sentences
            for text in document.sentences:
                digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
            bar.advance(len(document.sentences))
    if not texts:
        raise SpecError(f"corpus = {source.model_dump()['kind']!r}, but it holds no text; name another source")
    splits = split(n_chars, source.validation, source.test, source.seed)
    document_id = np.repeat(np.arange(len(names), dtype=np.int32), n_sentences)
    table = pa.table(
        {
            "text": pa.array(texts, pa.string()),
            "document_id": document_id,
            "sentence_id": np.arange(len(texts), dtype=np.int64),
            "split": pa.array([splits[d] for d in document_id], pa.string()),
        }
    )
    pq.write_table(table, job.out / "sentences.parquet", row_group_size=_ROWS, compression="zstd")
    documents = {
        "document_id": np.arange(len(names), dtype=np.int32),
        "name": names,
        "n_sentences": np.array(n_sentences, np.int32),
        "n_chars": np.array(n_chars, np.int64),
        "split": splits,
    }
    pq.write_table(pa.table(documents), job.out / "documents.parquet", compression="zstd")
    return {
        "n_sentences": len(texts),
        "n_documents": len(names),
        "n_chars": sum(n_chars),
        "joiner": source.joiner,
        "digest": digest.hexdigest(),
        **{f"n_chars_{s}": sum(c for c, where in zip(n_chars, splits, strict=True) if where == s) for s in SPLITS},
    }


def limited(documents: Iterator[Document], most: int | None) -> Iterator[Document]:
    """Documents until there are ``most`` sentences; the last may lose its tail. Documents without text are left out."""
    left = most
    for document in documents:
        if left is not None and left <= 0:
            return
        kept = document.sentences if left is None else document.sentences[:left]
        if kept:
            yield Document(document.name, kept)
            left = None if left is None else left - len(kept)


def split(n_chars: list[int], validation: float, test: float, seed: int) -> list[str]:
    """The split of each document: drawn at random until each held-out split has its share of the characters.

    Raises ``SpecError`` when there are too few documents for three splits.
    """
    n = len(n_chars)
    if n < 3:
        raise SpecError(
            f"corpus has {n} document{'s' * (n != 1)}, but train, validation and test each need one; "
            "set corpus.document_column, or use more documents"
        )
    # A keyed hash orders the documents: the same on every platform and numpy version.
    order = sorted(range(n), key=lambda i: hashlib.sha256(f"{seed}/{i}".encode()).digest())
    total = sum(n_chars)
    found = ["train"] * n
    taken = 0
    for name, share in (("validation", validation), ("test", test)):
        goal, got = share * total, 0
        for i in order[taken:]:
            others_need = 2 if name == "validation" else 1
            if got and (got + n_chars[i] / 2 > goal or n - taken <= others_need):
                break
            found[i] = name
            got += n_chars[i]
            taken += 1
    return found


def sentences(opened: Opened, which: str | None = None) -> pa.Table:
    """The sentence table of a corpus artifact, of one split where named, in order."""
    table = pq.read_table(opened.path / "sentences.parquet")
    return table if which is None else table.filter(pc.equal(table["split"], which))


def documents(opened: Opened, which: str | None = None) -> pa.Table:
    """The document table of a corpus artifact, of one split where named, in order."""
    table = pq.read_table(opened.path / "documents.parquet")
    return table if which is None else table.filter(pc.equal(table["split"], which))
