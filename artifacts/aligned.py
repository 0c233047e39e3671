"""Several captures of one shard as one wide row: the same tokens, their activations at several hookpoints side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from artifacts.activations import CHUNK_ROWS, Activations
from artifacts.errors import ArtifactError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_COMPARED_AT_ONCE = 1 << 20


class Aligned:
    """Reads as ``Activations`` do, a row being the rows of all parts one behind the other. What a row is of (token, position,
    sentence, document) is the same in all of them."""

    def __init__(self, parts: Sequence[Activations]) -> None:
        """Raises ``ArtifactError`` for parts that do not hold the same tokens, or not in one dtype."""
        self.parts = tuple(parts)
        first = self.parts[0]
        for other in self.parts[1:]:
            _check(first, other)
        self._bounds = list(pairwise(accumulate((part.d for part in self.parts), initial=0)))
        self.path, self.name, self.attributes = first.path, " + ".join(part.name for part in self.parts), first.attributes

    @property
    def n_rows(self) -> int:
        return self.parts[0].n_rows

    @property
    def d(self) -> int:
        return self._bounds[-1][1]

    @property
    def n_chunks(self) -> int:
        return self.parts[0].n_chunks

    @property
    def dtype(self) -> Any:
        return self.parts[0].dtype

    def rows_of(self, chunk: int) -> int:
        return self.parts[0].rows_of(chunk)

    def chunk(self, i: int, out: Tensor | None = None) -> Tensor:
        """The rows of one chunk as they are stored, into ``out`` where given. Raises ``ArtifactCorrupt``."""
        import torch

        if out is None:
            out = torch.empty(self.rows_of(i), self.d, dtype=self.dtype)
        for part, (a, b) in zip(self.parts, self._bounds, strict=True):
            out[:, a:b] = part.chunk(i)
        return out

    def activations(self, start: int = 0, stop: int | None = None, dtype: Any = None) -> Tensor:
        """Rows start to stop, float32 unless told otherwise. Raises ``ArtifactCorrupt``."""
        import torch

        return torch.cat([part.activations(start, stop, dtype) for part in self.parts], dim=1)

    def batches(self, n_rows: int = 4 * CHUNK_ROWS, dtype: Any = None) -> Iterator[tuple[int, Tensor]]:
        """All rows in order, as (first row, rows)."""
        for start in range(0, self.n_rows, n_rows):
            yield start, self.activations(start, min(start + n_rows, self.n_rows), dtype)

    @property
    def token_id(self) -> np.ndarray:
        return self.parts[0].token_id

    @property
    def position(self) -> np.ndarray:
        return self.parts[0].position

    @property
    def sentence_id(self) -> np.ndarray:
        return self.parts[0].sentence_id

    @property
    def document_id(self) -> np.ndarray:
        return self.parts[0].document_id

    @property
    def context_offsets(self) -> np.ndarray:
        return self.parts[0].context_offsets

    @property
    def sentence_offsets(self) -> np.ndarray:
        return self.parts[0].sentence_offsets

    @property
    def n_contexts(self) -> int:
        return self.parts[0].n_contexts

    def context_of(self, row: Any) -> Any:
        return self.parts[0].context_of(row)

    def column(self, name: str, start: int, stop: int) -> np.ndarray:
        """A part of one of the columns, which is not remembered. Raises ``ArtifactCorrupt``."""
        return self.parts[0].column(name, start, stop)


Shard = Activations | Aligned
"""What the rows of a shard are read from."""


def _check(one: Activations, other: Activations) -> None:
    """Raise ``ArtifactError`` where two captures are not of the same tokens in the same order."""
    if one.n_rows != other.n_rows:
        why = f"they have {one.n_rows:,} and {other.n_rows:,} rows"
    elif one.dtype != other.dtype:
        why = f"one holds {one.dtype} and the other {other.dtype}"
    elif (found := _first_difference(one, other)) is not None:
        name, row = found
        why = f"{name} of row {row:,} is {getattr(one, name)[row]} in one and {getattr(other, name)[row]} in the other"
    else:
        return
    raise ArtifactError(
        f"{one.name} and {other.name} stand side by side, but {why}; capture both hookpoints from the same text, model and shard, "
        "with the same settings"
    )


def _first_difference(one: Activations, other: Activations) -> tuple[str, int] | None:
    """Column and row."""
    for name in ("token_id", "position"):
        for start in range(0, one.n_rows, _COMPARED_AT_ONCE):
            stop = min(start + _COMPARED_AT_ONCE, one.n_rows)
            differ = one.column(name, start, stop) != other.column(name, start, stop)
            if differ.any():
                return name, start + int(differ.argmax())
    return None
