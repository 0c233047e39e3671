"""Contexts: the rows of tokens that a language model reads together, cut from sentences. A context is of one document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.lazy import np

if TYPE_CHECKING:
    import pyarrow as pa

_SENTENCES_AT_ONCE = 2048


@dataclass(frozen=True)
class Context:
    """Tokens that are read together, and where each came from."""

    token_id: np.ndarray
    """int64 [T], BOS in front where the tokenizer has one."""

    keep: np.ndarray
    """bool [T]; False for BOS and other special tokens, whose activations are not stored."""

    sentence_id: np.ndarray
    """int64 [T]; BOS has its first sentence's."""

    document_id: int


def contexts(
    table: pa.Table, tokenizer: Any, bos_id: int | None, context_tokens: int, mode: str, joiner: str
) -> Iterator[Context]:
    """Contexts of a sentence table (columns text, document_id, sentence_id), in its order.

    ``document``: sentences of a document follow each other, ``joiner`` between them, until the next would not fit;
    a sentence longer than a context goes on in the next. ``sentence``: one context each, cut at ``context_tokens``.
    """
    room = context_tokens - (bos_id is not None)
    specials = np.array(sorted(tokenizer.all_special_ids), np.int64)
    tokens: list[int] = []
    sentences: list[int] = []
    document = -1

    def made() -> Context:
        return _context(tokens, sentences, bos_id, specials, document)

    for document_id, sentence_id, ids, joined_ids in _encoded(table, tokenizer, joiner, mode == "document"):
        if tokens and (mode == "sentence" or document_id != document or len(tokens) + len(joined_ids) > room):
            yield made()
            tokens, sentences = [], []
        document = document_id
        piece = joined_ids if tokens else ids
        if mode == "sentence":
            piece = piece[:room]
        while len(tokens) + len(piece) > room:
            take = room - len(tokens)
            tokens, sentences = tokens + piece[:take], sentences + [sentence_id] * take
            yield made()
            tokens, sentences, piece = [], [], piece[take:]
        tokens, sentences = tokens + piece, sentences + [sentence_id] * len(piece)
    if tokens:
        yield made()


def of_texts(texts: Sequence[str], tokenizer: Any, bos_id: int | None, context_tokens: int | None) -> list[Context]:
    """A context for each text, tokenised as the sentences of a corpus are, cut at ``context_tokens``.

    An empty text is BOS alone, or no token at all.
    """
    specials = np.array(sorted(tokenizer.all_special_ids), np.int64)
    room = None if context_tokens is None else max(0, context_tokens - (bos_id is not None))
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False).input_ids if texts else []
    return [_context(ids[:room], [i] * len(ids[:room]), bos_id, specials, i) for i, ids in enumerate(encoded)]


def _context(tokens: list[int], sentences: list[int], bos_id: int | None, specials: np.ndarray, document: int) -> Context:
    first = [bos_id] if bos_id is not None else []
    token_id = np.array(first + tokens, np.int64)
    own = sentences[:1] or [document]
    sentence_id = np.array(own * len(first) + sentences, np.int64)
    return Context(token_id, ~np.isin(token_id, specials), sentence_id, document)


def _encoded(
    table: pa.Table, tokenizer: Any, joiner: str, joined: bool
) -> Iterator[tuple[int, int, list[int], list[int]]]:
    """(document, sentence, tokens at the start of a context, tokens after another sentence)."""
    for batch in table.to_batches(_SENTENCES_AT_ONCE):
        columns = batch.to_pydict()
        texts = columns["text"]
        plain = tokenizer(texts, add_special_tokens=False, verbose=False).input_ids
        after = tokenizer([joiner + t for t in texts], add_special_tokens=False, verbose=False).input_ids if joined and joiner else plain
        yield from zip(columns["document_id"], columns["sentence_id"], plain, after, strict=True)
