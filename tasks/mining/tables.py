"""The tables of a ``mine`` artifact, written as latents are gone through: a row group is all that is held of one.

``windows.parquet`` and ``sentences.parquet`` are sorted by latent, so that a latent is found by the row groups' bounds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.lazy import np, pa, pq

_ROWS = 1 << 12
"""Rows gathered before they are a row group: few enough that somebody who looks at one latent waits for some ms of reading."""


def windows_schema() -> Any:
    return pa.schema(
        [
            ("latent", pa.int32()),
            ("window_id", pa.string()),
            ("split", pa.string()),
            ("group", pa.string()),
            ("rank", pa.int32()),
            ("quantile", pa.int32()),
            ("document_id", pa.int32()),
            ("sentence_id", pa.int32()),
            ("tokens", pa.list_(pa.int32())),
            ("values", pa.list_(pa.float32())),
            ("peak", pa.int32()),
            ("starts_context", pa.bool_()),
            ("strength", pa.float32()),
            ("neighbour", pa.int32()),
            ("similarity", pa.float32()),
        ]
    )


def sentences_schema() -> Any:
    return pa.schema(
        [
            ("latent", pa.int32()),
            ("ranking", pa.string()),
            ("rank", pa.int32()),
            ("sentence_id", pa.int32()),
            ("document_id", pa.int32()),
            ("split", pa.string()),
            ("value", pa.float32()),
        ]
    )


class Growing:
    """A Parquet file that columns are appended to. Columns of lists come flat, with the lists' sizes as ``size``."""

    def __init__(self, path: Path, schema: Any) -> None:
        self._schema, self._n = schema, 0
        self._parts: list[dict[str, Any]] = []
        dictionary = [f.name for f in schema if pa.types.is_string(f.type) and f.name != "window_id"]
        self._writer = pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=dictionary)
        self.n_rows = 0

    def add(self, columns: dict[str, Any]) -> None:
        n = len(columns["latent"])
        if n:
            self._parts.append(columns)
            self._n += n
            self.n_rows += n

    def flush(self, least: int = 1) -> None:
        """Write what was gathered if it is so many rows."""
        if self._n < least:
            return
        sizes = [part["size"] for part in self._parts if "size" in part]
        offsets = np.cumsum(np.concatenate([[0], *sizes])).astype(np.int32)
        arrays = []
        for field in self._schema:
            parts = [part[field.name] for part in self._parts]
            if pa.types.is_list(field.type):
                flat = pa.array(np.concatenate(parts), field.type.value_type)
                arrays.append(pa.ListArray.from_arrays(pa.array(offsets), flat))
            elif isinstance(parts[0], list):
                arrays.append(pa.array([value for part in parts for value in part], field.type))
            else:
                values = np.concatenate(parts)
                # NaN stands for what is not known, in numpy; in a table that is null
                arrays.append(pa.array(values, field.type, from_pandas=True))
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema), row_group_size=self._n)
        self._parts, self._n = [], 0

    def latent_ends(self) -> None:
        """All of a latent is there: the place at which a row group may end."""
        self.flush(_ROWS)

    def __enter__(self) -> Growing:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is None:
            self.flush()
        self._writer.close()


def lists(values: np.ndarray) -> Any:
    """The rows of a matrix as an Arrow list column."""
    offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.reshape(-1)))
