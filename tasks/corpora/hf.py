"""A dataset of the Hugging Face hub, streamed and pinned by revision."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from typing import Literal, Self

from pydantic import Field

from tasks.corpora.base import Corpus, Document
from tasks.spec import SpecError


class HF(Corpus):
    """A hub dataset with a column of text; each row is a document."""

    kind: Literal["hf"] = "hf"

    dataset: str | None = None
    """Id on the hub, such as ``Skylion007/openwebtext``."""

    revision: str | None = None
    """Commit of the dataset, 40 hex characters: a branch moves, and with it what a key means."""

    name: str | None = None
    """Configuration of the dataset, where it has several."""

    split: str = "train"
    """Split of the dataset to read; train, validation and test of SAINT are drawn from it."""

    text_column: str = "text"
    """Column with the text."""

    max_sentences: int | None = Field(1_000_000, ge=1)
    """Paragraphs at most: a stream has no end worth waiting for."""

    def pinned(self) -> Self:
        if not self.dataset:
            raise SpecError("corpus.dataset is not set, but corpus 'hf' reads one; set corpus.dataset=OWNER/NAME")
        if not re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
            raise SpecError(
                f"corpus.revision = {self.revision!r}, but a key needs a fixed commit; "
                f"take the 40-character commit from the dataset's page, Files and versions"
            )
        if importlib.util.find_spec("datasets") is None:
            raise SpecError("corpus = 'hf', but the package datasets is not installed; pip install 'saint-sae[hf]'")
        return self

    def documents(self) -> Iterator[Document]:
        from datasets import load_dataset

        rows = load_dataset(self.dataset, self.name, split=self.split, revision=self.revision, streaming=True)
        for i, row in enumerate(rows):
            if self.text_column not in row:
                raise SpecError(
                    f"corpus.text_column = {self.text_column!r}, but {self.dataset} has columns {', '.join(row)}; use one"
                )
            found = [" ".join(piece.split()) for piece in row[self.text_column].split("\n") if piece.strip()]
            if found:
                yield Document(str(i), found)
