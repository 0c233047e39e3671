"""Parquet files with a column of text: any, such as OpenWebText cut into sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Self

from tasks.corpora._files import named_files
from tasks.corpora.base import Corpus, Document
from tasks.fingerprint import fingerprint_files
from tasks.lazy import pq
from tasks.spec import SpecError


class Parquet(Corpus):
    """A column of text; each row is a sentence or a paragraph."""

    kind: Literal["parquet"] = "parquet"

    path: str | None = None
    """File or glob."""

    text_column: str = "text"
    """Column with the text."""

    document_column: str | None = None
    """Column that says which rows are one document (neighbouring rows with equal values); null takes ``document_id`` or
    ``doc`` if there is such a column, else each row for a document of its own."""

    fingerprint: str | None = None
    """Of the files; filled in when a run is composed."""

    KEEPS_KEY = {}

    def payload(self) -> dict[str, Any]:
        """Contents count, not where they lie."""
        return {name: value for name, value in super().payload().items() if name != "path" or self.fingerprint is None}

    def pinned(self) -> Self:
        files = named_files(self.path, "parquet")
        rows = 0
        for file in files:
            try:
                found = pq.ParquetFile(file)
            except (OSError, ValueError) as error:
                raise SpecError(
                    f"corpus.path = {str(file)!r}, but it is no Parquet file ({error}); use corpus=text for plain text"
                ) from None
            names = found.schema_arrow.names
            for field, column in (("text_column", self.text_column), ("document_column", self.document_column)):
                if column is not None and column not in names:
                    raise SpecError(
                        f"corpus.{field} = {column!r}, but {file.name} has columns {', '.join(names)}; use one of them"
                    )
            rows += found.metadata.num_rows
        if rows == 0:
            raise SpecError(f"corpus.path = {self.path!r}, but it holds no rows; use a file with text")
        names = pq.ParquetFile(files[0]).schema_arrow.names
        column = self.document_column or next((c for c in ("document_id", "doc") if c in names), None)
        return self.model_copy(update={"fingerprint": fingerprint_files(files), "document_column": column})

    def expected_chars(self) -> int:
        total = 0
        for file in named_files(self.path, "parquet"):
            about = pq.ParquetFile(file).metadata
            column = about.schema.names.index(self.text_column)
            total += sum(about.row_group(i).column(column).total_uncompressed_size for i in range(about.num_row_groups))
        return total

    def documents(self) -> Iterator[Document]:
        columns = [self.text_column] + ([self.document_column] if self.document_column else [])
        number, name, held = 0, None, []
        for file in named_files(self.path, "parquet"):
            for batch in pq.ParquetFile(file).iter_batches(65536, columns=columns):
                texts = batch.column(self.text_column).to_pylist()
                whose = batch.column(self.document_column).to_pylist() if self.document_column else [None] * len(texts)
                for text, document in zip(texts, whose, strict=True):
                    if held and (self.document_column is None or document != name):
                        yield Document(str(name if self.document_column else number), held)
                        number, held = number + 1, []
                    name = document
                    if text and text.strip():
                        held.append(text.strip())
        if held:
            yield Document(str(name if self.document_column else number), held)
