"""What an explanation of a latent rests on: whole sentences of the corpus, and the question as it was put.

Apart from a page's data, since texts of a corpus lie in large row groups, and few ask.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from tasks.browsing.latent import examples_of
from tasks.browsing.tables import ByNumber
from tasks.browsing.told import Told
from tasks.explainers.base import Sentence
from tasks.kinds import decode
from tasks.lazy import pc

if TYPE_CHECKING:
    from tasks.browsing.index import Index
    from tasks.clients.base import Request


def sentences_of(index: Index, latent: int, n: int | None = None) -> list[Sentence] | None:
    """Sentences of the train split on which a latent is active, by ranking, at most ``n`` of each; None without the corpus."""
    if index.shelf.corpus is None:
        return None
    rows = index.sentences.of(latent)
    rows = rows.filter(pc.equal(rows["split"], "train")).sort_by([("ranking", "ascending"), ("rank", "ascending")]).to_pylist()
    kept, seen = [], dict[str, int]()
    for row in rows:
        seen[row["ranking"]] = seen.get(row["ranking"], 0) + 1
        if n is None or seen[row["ranking"]] <= n:
            kept.append(row)
    corpus = ByNumber(index.shelf.corpus.path / "sentences.parquet", "sentence_id")
    table = corpus.of(sorted({row["sentence_id"] for row in kept}), ["text"]) if kept else None
    text = {} if table is None else dict(zip(table["sentence_id"].to_pylist(), table["text"].to_pylist(), strict=True))
    return [Sentence(row["ranking"], text[row["sentence_id"]], row["value"]) for row in kept]


def question_of(index: Index, told: Told, latent: int) -> list[dict[str, str]] | None:
    """What the explainer put to the LLM for a latent, request by request; empty for one that asks nobody.

    Requests are made again from what mining kept, and known to be those that were sent by their digests. None where they
    are not: another version of SAINT asked in other words, or what was asked with is gone.
    """
    (row,) = told.rows.of(latent, ["request_digest"]).to_pylist()[:1]
    if not row["request_digest"]:
        return []
    spec = told.source.explain.manifest.spec
    try:
        explainer, client = decode("tasks.explainers", spec["explainer"]), decode("tasks.clients", spec["client"])
        found = dataclasses.replace(examples_of(index, latent), sentences=tuple(sentences_of(index, latent) or ()))
        requests: list[Request] = explainer.requests(found)
        digests = [client.digest(request) for request in requests]
    except ValueError:  # a kind or a setting that is no more
        return None
    if ",".join(digests) != row["request_digest"]:
        return None
    return [{"system": request.system, "user": request.user} for request in requests]


def grounds(index: Index, latent: int) -> dict[str, Any]:
    """Both, as JSON."""
    index.check(latent)
    found = sentences_of(index, latent, 5)
    ranked: dict[str, list[tuple[str, float]]] = {}
    for sentence in found or ():
        ranked.setdefault(sentence.ranking, []).append((sentence.text, sentence.value))
    asked = [told for told in index.told if told.asked_N[latent]]
    return {
        "latent": latent,
        "sentences": None if found is None else ranked,
        "questions": [{"name": told.name, "requests": question_of(index, told, latent)} for told in asked],
    }
