"""Activations of one shard at one hookpoint, and the text that each row came from.

A Zarr v3 group. Row r is one token; ``activations`` is [n_rows, d] in chunks of 1,024 rows, 64 chunks to a file, each
chunk under its own crc32c. Beside it, a value per row: ``token_id``, ``position`` (in its context; BOS, never stored, is
position 0), ``sentence_id``, ``document_id``; and where things begin: ``context_offsets`` and ``sentence_offsets`` [n + 1].

bfloat16 is no Zarr type, so its bits are stored as uint16 under the attribute ``activation_dtype``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.activation_writing import CHUNK_ROWS, CHUNKS_PER_FILE, FILE_ROWS, PER_ROW, ActivationWriter
from artifacts.errors import ArtifactCorrupt
from artifacts.zarr_reading import MEND, Rows

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

__all__ = [
    "CHUNKS_PER_FILE",
    "CHUNK_ROWS",
    "FILE_ROWS",
    "PER_ROW",
    "ActivationWriter",
    "Activations",
    "damaged",
    "group_at",
]


class Activations:
    """One shard's rows, read from disk as they are asked for."""

    def __init__(self, path: Path, rows: Rows, attributes: dict[str, Any], name: str) -> None:
        self.path, self.attributes, self.name = path, attributes, name
        self._rows = rows
        self._columns: dict[str, np.ndarray] = {}

    @staticmethod
    def open(path: str | Path, name: str = "") -> Activations:
        """The group at ``path``, or ``activations.zarr`` in that folder.

        ``name`` is what errors call it, such as an artifact. Raises ``ArtifactCorrupt``.
        """
        path = group_at(path)
        rows = Rows.open(path / "activations", name or str(path))
        return Activations(path, rows, _attributes(path), name or str(path))

    @property
    def n_rows(self) -> int:
        return self._rows.n_rows

    @property
    def d(self) -> int:
        return self._rows.shape[1]

    @property
    def n_chunks(self) -> int:
        return self._rows.n_chunks

    @property
    def dtype(self) -> Any:
        """The torch dtype that rows have on disk."""
        import torch

        return torch.bfloat16 if self._rows.attributes.get("activation_dtype") == "bfloat16" else torch.float32

    def rows_of(self, chunk: int) -> int:
        """Rows in a chunk; the last may be short."""
        return self._rows.rows_of(chunk)

    def chunk(self, i: int, out: Tensor | None = None) -> Tensor:
        """The rows of one chunk as they are stored, into ``out`` where given. Raises ``ArtifactCorrupt``."""
        import torch

        if out is None:
            out = torch.empty(self.rows_of(i), self.d, dtype=self.dtype)
        self._rows.read_chunk(i, _numpy(out))
        return out

    def activations(self, start: int = 0, stop: int | None = None, dtype: Any = None) -> Tensor:
        """Rows start to stop, float32 unless told otherwise. Raises ``ArtifactCorrupt``."""
        import torch

        values = self._rows.read(start, self.n_rows if stop is None else stop)
        if self.dtype == torch.bfloat16:
            rows = torch.from_numpy(values.view("int16")).view(torch.bfloat16)
        else:
            rows = torch.from_numpy(values)
        return rows.to(dtype or torch.float32)

    def batches(self, n_rows: int = 4 * CHUNK_ROWS, dtype: Any = None) -> Iterator[tuple[int, Tensor]]:
        """All rows in order, as (first row, rows)."""
        for start in range(0, self.n_rows, n_rows):
            yield start, self.activations(start, start + n_rows, dtype)

    @property
    def token_id(self) -> np.ndarray:
        return self._column("token_id")

    @property
    def position(self) -> np.ndarray:
        """Place in the context; BOS would be 0."""
        return self._column("position")

    @property
    def sentence_id(self) -> np.ndarray:
        return self._column("sentence_id")

    @property
    def document_id(self) -> np.ndarray:
        return self._column("document_id")

    @property
    def context_offsets(self) -> np.ndarray:
        """int64 [n_contexts + 1]; context c is rows offsets[c] to offsets[c + 1]."""
        return self._column("context_offsets")

    @property
    def sentence_offsets(self) -> np.ndarray:
        """int64 [n_runs + 1]; where runs of rows of one sentence begin."""
        return self._column("sentence_offsets")

    @property
    def n_contexts(self) -> int:
        return len(self.context_offsets) - 1

    def context_of(self, row: Any) -> Any:
        """The context of a row, or of an array of rows."""
        import numpy as np

        return np.searchsorted(self.context_offsets, row, side="right") - 1

    def column(self, name: str, start: int, stop: int) -> np.ndarray:
        """A part of one of the columns, which is not remembered. Raises ``ArtifactCorrupt``."""
        return Rows.open(self.path / name, self.name).read(start, stop)

    def _column(self, name: str) -> np.ndarray:
        if name not in self._columns:
            rows = Rows.open(self.path / name, self.name)
            self._columns[name] = rows.read(0, rows.n_rows)
        return self._columns[name]


def group_at(path: str | Path) -> Path:
    """The Zarr group that a path means: itself, or the ``activations.zarr`` in it."""
    path = Path(path)
    return path if path.suffix == ".zarr" else path / "activations.zarr"


def damaged(path: str | Path) -> list[tuple[str, str, str]]:
    """(file, chunk, why) for every chunk of a group whose checksum fails; reads every byte."""
    group, found = group_at(path), []
    for meta in sorted(group.glob("*/zarr.json")):
        try:
            found += list(Rows.open(meta.parent).faults())
        except ArtifactCorrupt as error:
            found.append((f"{meta.parent.name}/zarr.json", "metadata", str(error)))
    return found


def _attributes(path: Path) -> dict[str, Any]:
    try:
        return json.loads((path / "zarr.json").read_bytes()).get("attributes", {})
    except (OSError, ValueError) as error:
        raise ArtifactCorrupt(f"{path}: zarr.json cannot be read ({error}), but a group needs it; {MEND}") from None


def _numpy(rows: Tensor) -> np.ndarray:
    """The memory of a tensor, as the type that the disk has."""
    import torch

    return rows.view(torch.int16).numpy().view("uint16") if rows.dtype == torch.bfloat16 else rows.numpy()
