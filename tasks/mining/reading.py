"""Reading a ``mine`` artifact by latent, in bounded memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.explainers.base import LatentExamples, Window
from tasks.lazy import np, pa, pc, pq

if TYPE_CHECKING:
    import numpy as np

    from artifacts.store import Opened


def examples(
    opened: Opened, latents: Iterable[int] | None = None, split: str | None = None, activating: bool = False
) -> Iterator[LatentExamples]:
    """All that is known of each latent, in ascending order. ``latents`` limits it to some, ``split`` and ``activating`` their
    windows. Bounded memory."""
    texts = np.array(json.loads((opened.path / "tokens.json").read_text()), object)
    facts = pq.read_table(opened.path / "latents.parquet", columns=["n_fires", "density", "max_value"]).to_pydict()
    wanted = range(len(facts["n_fires"])) if latents is None else sorted(set(latents))
    kept = [pc.field("split") == split] * (split is not None) + [pc.field("quantile") >= 0] * activating
    with (
        ByLatent(opened.path / "promoted.parquet") as promoted,
        ByLatent(opened.path / "windows.parquet", kept) as windows,
    ):
        for latent in wanted:
            told = promoted.of(latent).to_pylist()[0]
            up, down = ([(t["token"], t["logit"]) for t in told[c]] for c in ("promoted", "suppressed"))
            yield LatentExamples(
                latent=latent,
                n_fires=facts["n_fires"][latent],
                density=facts["density"][latent],
                max_value=facts["max_value"][latent],
                windows=tuple(windows_of(windows.of(latent), texts)),
                promoted=tuple(up),
                suppressed=tuple(down),
            )


class ByLatent:
    """A Parquet file sorted by latent, of which no more is held than the row groups of one latent."""

    def __init__(self, path: Path, kept: Sequence[Any] = ()) -> None:
        """``kept``: what must hold of a row."""
        self._file = pq.ParquetFile(path)
        meta = self._file.metadata
        column = self._file.schema_arrow.get_field_index("latent")
        bounds = [meta.row_group(i).column(column).statistics for i in range(meta.num_row_groups)]
        self._first = np.array([b.min for b in bounds if b is not None], np.int64)
        self._last = np.array([b.max for b in bounds if b is not None], np.int64)
        self._held: dict[int, tuple[Any, np.ndarray]] = {}
        self._kept = kept

    def of(self, latent: int) -> Any:
        """The rows of one latent; cheapest in ascending order."""
        a, b = np.searchsorted(self._last, latent), np.searchsorted(self._first, latent, side="right")
        for number in [n for n in self._held if not a <= n < b]:
            del self._held[number]
        parts = []
        for number in range(a, b):
            if number not in self._held:
                table = self._file.read_row_group(number)
                for kept in self._kept:
                    table = table.filter(kept)
                self._held[number] = (table, table["latent"].to_numpy())
            table, owner = self._held[number]
            begin, end = np.searchsorted(owner, [latent, latent + 1])
            parts.append(table.slice(begin, end - begin))
        return pa.concat_tables(parts) if parts else self._file.schema_arrow.empty_table()

    def __enter__(self) -> ByLatent:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def windows_of(table: Any, texts: np.ndarray) -> Iterator[Window]:
    """Windows of a table, a column at a time: a row at a time takes ten times as long. ``texts``: objects, by token id."""
    if not table.num_rows:
        return
    tokens, values = (table[name].combine_chunks() for name in ("tokens", "values"))
    offsets = (tokens.offsets.to_numpy() - tokens.offsets[0].as_py()).tolist()
    words, numbers = tuple(texts[tokens.flatten().to_numpy()].tolist()), tuple(values.flatten().to_numpy().tolist())
    # by way of numpy: pyarrow makes a scalar object of every entry first
    plain = ("window_id", "split", "group", "quantile", "document_id", "peak", "starts_context")
    columns = [table[name].to_numpy().tolist() for name in plain]
    if "neighbour" in table.column_names:
        columns += [table["neighbour"].to_numpy().tolist(), _or_none(table["similarity"])]
    for (a, b), row in zip(pairwise(offsets), zip(*columns, strict=True), strict=True):
        window_id, split, group, quantile, document_id, peak, *more = row
        yield Window(window_id, split, group, quantile, document_id, words[a:b], numbers[a:b], peak, *more)


def _or_none(column: Any) -> list[float | None]:
    return [None] * len(column) if column.null_count == len(column) else column.to_pylist()
