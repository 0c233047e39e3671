"""Parquet files read by latent: one row group or two, whatever the file's size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.lazy import np, pa, pq

if TYPE_CHECKING:
    import numpy as np


class ByNumber:
    """A Parquet file whose rows are looked up by a column of whole numbers, ``latent`` or another.

    Only the footer is held. Rows need not be sorted, but where they are, a look-up reads one row group or two. Every look-up
    opens the file anew, which takes microseconds once the footer is known, so that threads share nothing.
    """

    def __init__(self, path: Path, column: str = "latent") -> None:
        self._path, self._column = path, column
        self._meta = pq.read_metadata(path)
        place = self._meta.schema.to_arrow_schema().get_field_index(column)
        first, last = [], []
        for i in range(self._meta.num_row_groups):
            bounds = self._meta.row_group(i).column(place).statistics
            known = bounds is not None and bounds.has_min_max
            first.append(bounds.min if known else -(2**62))
            last.append(bounds.max if known else 2**62)
        self._first, self._last = np.array(first, np.int64), np.array(last, np.int64)

    @property
    def names(self) -> list[str]:
        """Its columns."""
        return self._meta.schema.to_arrow_schema().names

    def of(self, number: int | Sequence[int], columns: Sequence[str] | None = None) -> Any:
        """The rows of one number, or of several, in the order of the file."""
        wanted = np.unique(np.atleast_1d(np.asarray(number, np.int64)))
        where = np.searchsorted(wanted, self._first) < np.searchsorted(wanted, self._last, side="right")
        groups = np.flatnonzero(where).tolist()
        # a file with the column that is looked at, whatever columns are wanted of it
        read = None if columns is None else list(dict.fromkeys([self._column, *columns]))
        with pq.ParquetFile(self._path, metadata=self._meta, memory_map=True) as file:
            table = file.read_row_groups(groups, columns=read) if groups else file.schema_arrow.empty_table()
        own = table[self._column].to_numpy()
        at = np.flatnonzero(np.isin(own, wanted))
        if len(at) and at[-1] - at[0] == len(at) - 1:
            return table.slice(at[0], len(at))  # as they lie, without copying the lists
        return table.take(pa.array(at))
