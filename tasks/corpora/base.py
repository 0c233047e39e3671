"""Sources of text. A corpus yields documents, each a list of sentences; splits are by document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pydantic import Field

from tasks.spec import Spec


class Document(NamedTuple):
    """A text that must not be torn between splits."""

    name: str
    sentences: list[str]


class Corpus(Spec):
    """What all kinds of corpus share; each kind adds a field ``kind`` and where its text lies."""

    joiner: str = " "
    """Put between two sentences of a document when they share a context."""

    max_sentences: int | None = Field(None, ge=1)
    """Sentences at most; null takes all."""

    validation: float = Field(0.05, gt=0, lt=0.5)
    """Share of the characters, in whole documents, on which training is watched."""

    test: float = Field(0.10, gt=0, lt=0.5)
    """Share of the characters, in whole documents, on which the SAE is evaluated and explanations are scored."""

    seed: int = 0
    """Draws the documents of each split."""

    def documents(self) -> Iterator[Document]:
        """All documents, in an order that never changes."""
        raise NotImplementedError

    def expected_chars(self) -> int | None:
        """About how much text there is, without reading it; None where nobody knows."""
        return None
