"""Plain text files; each is a document."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal, Self

from tasks.corpora._files import named_files
from tasks.corpora.base import Corpus, Document
from tasks.fingerprint import fingerprint_files
from tasks.spec import SpecError


class Text(Corpus):
    """UTF-8 files; a sentence is a paragraph or a line."""

    kind: Literal["text"] = "text"

    path: str | None = None
    """File or glob."""

    unit: Literal["paragraph", "line"] = "paragraph"
    """What is taken for one sentence: text between empty lines, or each line."""

    document: Literal["file", "unit"] = "file"
    """What is one document: a file, or each paragraph or line (for one big file)."""

    fingerprint: str | None = None
    """Of the files; filled in when a run is composed."""

    def payload(self) -> dict[str, Any]:
        """Contents count, not where they lie."""
        return {name: value for name, value in super().payload().items() if name != "path" or self.fingerprint is None}

    def pinned(self) -> Self:
        files = named_files(self.path, "text")
        if all(file.stat().st_size == 0 for file in files):
            raise SpecError(f"corpus.path = {self.path!r}, but its files are empty; use files with text")
        return self.model_copy(update={"fingerprint": fingerprint_files(files)})

    def expected_chars(self) -> int:
        return sum(file.stat().st_size for file in named_files(self.path, "text"))

    def documents(self) -> Iterator[Document]:
        between = r"\n\s*\n" if self.unit == "paragraph" else r"\n"
        for file in named_files(self.path, "text"):
            try:
                text = file.read_text("utf-8")
            except UnicodeDecodeError as error:
                raise SpecError(f"corpus.path = {str(file)!r}, but it is no UTF-8 text ({error}); convert it") from None
            found = [" ".join(piece.split()) for piece in re.split(between, text) if piece.strip()]
            if self.document == "file":
                yield Document(file.name, found)
            else:
                yield from (Document(f"{file.name}:{i}", [piece]) for i, piece in enumerate(found))
