"""One streaming pass over a shard: what each latent does, and where it does it most.

Rows come in blocks that end between contexts and between sentences. Everything works on (row, latent, value) triples
with segment reductions; memory is bounded by n_latents x events kept, not by tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.lazy import np
from tasks.mining.kept import Columns, by_strength, concatenated, hashed, select, taken

if TYPE_CHECKING:
    import numpy as np

    from artifacts.activations import Activations
    from tasks.mine import SurveySpec

BINS = 48
"""Histogram bins of activation, from 2^-8 to 2^8 in thirds of an octave, so that counts of shards simply add."""

_PER_OCTAVE = 3
_LOWEST = -8
RANKINGS = ("mean", "max", "last")


def histogram_edges() -> list[float]:
    """Lower edges of the bins, and the upper edge of the last. Values outside fall into the first or last bin."""
    return [2 ** (_LOWEST + i / _PER_OCTAVE) for i in range(BINS + 1)]


class Survey:
    """What is known of a shard's latents so far."""

    def __init__(self, spec: SurveySpec, n_latents: int, rows: Activations, split: str) -> None:
        self.spec, self.n, self.rows = spec, n_latents, rows
        self.n_top = spec.n_top if split == "train" else 0
        self.document = rows.document_id.astype(np.int64)
        starts = np.flatnonzero(np.diff(self.document, prepend=-1))
        self.place = np.arange(rows.n_rows) - np.repeat(starts, np.diff(np.append(starts, rows.n_rows)))
        self.n_fires = np.zeros(n_latents, np.int64)
        self.total = np.zeros(n_latents)
        self.largest = np.zeros(n_latents, np.float32)
        self.histogram = np.zeros((n_latents, BINS), np.int64)
        self.windows: Columns | None = None
        self.sentences: dict[str, Columns] = {}
        self._choose_pool()
        self._pool_active: list[np.ndarray] = []

    def _choose_pool(self) -> None:
        """Windows drawn at random, whatever fires in them: non-activating examples are looked for among these."""
        order = hashed(self.spec.seed + 1, self.document, self.place)
        n = min(self.spec.n_pool, self.rows.n_rows)
        centres = np.argpartition(order, n - 1)[:n] if n else np.zeros(0, np.int64)
        centres = centres[np.argsort(order[centres])]
        self.pool = {"centre": centres, "hash": order[centres], **self._around(centres)}

    def _around(self, centres: np.ndarray) -> Columns:
        """First and last-plus-one row of the window around each centre, clipped to its context."""
        offsets = self.rows.context_offsets
        context = np.searchsorted(offsets, centres, side="right") - 1
        before = self.spec.window_tokens * 3 // 4  # a causal latent is explained by what stands before it
        begin = np.maximum(centres - before, offsets[context])
        end = np.minimum(begin + self.spec.window_tokens, offsets[context + 1])
        begin = np.maximum(np.minimum(begin, end - self.spec.window_tokens), offsets[context])
        return {"begin": begin, "end": end}

    def blocks(self) -> list[tuple[int, int]]:
        """Row ranges that cut neither contexts nor sentences."""
        sentence = self.rows.sentence_id
        cuts = [int(c) for c in self.rows.context_offsets[1:-1] if sentence[c] != sentence[c - 1]]
        found, start = [], 0
        for cut in [*cuts, self.rows.n_rows]:
            if cut - start >= self.spec.block_rows or cut == self.rows.n_rows:
                if cut > start:
                    found.append((start, cut))
                start = cut
        return found

    def take(self, start: int, stop: int, index_BK: np.ndarray, value_BK: np.ndarray) -> None:
        """Take the latents of rows start to stop."""
        active = value_BK > 0
        row = np.repeat(np.arange(start, stop), active.sum(1))
        latent = index_BK[active].astype(np.int64)
        value = value_BK[active].astype(np.float32)
        self.n_fires += np.bincount(latent, minlength=self.n)
        self.total += np.bincount(latent, weights=value, minlength=self.n)
        np.maximum.at(self.largest, latent, value)
        place = ((np.log2(value) - _LOWEST) * _PER_OCTAVE).astype(np.int64).clip(0, BINS - 1)
        self.histogram += np.bincount(latent * BINS + place, minlength=self.n * BINS).reshape(self.n, BINS)
        key = row * self.n + latent
        order = np.argsort(key)
        self._take_windows(row, latent, value, key[order], value[order])
        self._take_sentences(self.rows.sentence_id[start:stop], row, latent, value)
        inside = self._rows_of_pool(start, stop)
        if len(inside):
            window, at = inside.T
            position = np.searchsorted(row[order], at)
            many = np.searchsorted(row[order], at, side="right") - position
            pairs = np.repeat(window, many) * self.n
            ahead = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
            pairs += latent[order][np.repeat(position, many) + ahead]
            self._pool_active.append(np.unique(pairs))

    def _rows_of_pool(self, start: int, stop: int) -> np.ndarray:
        """(pool window, row) for every row of a pool window within a block."""
        begin, end = self.pool["begin"], self.pool["end"]
        which = np.flatnonzero((begin >= start) & (begin < stop))
        sizes = end[which] - begin[which]
        ahead = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return np.stack([np.repeat(which, sizes), np.repeat(begin[which], sizes) + ahead], 1)

    def _take_windows(
        self, row: np.ndarray, latent: np.ndarray, value: np.ndarray, key: np.ndarray, by_key: np.ndarray
    ) -> None:
        """Each latent's strongest row of each context, if it is among the best or in the sample."""
        context = np.searchsorted(self.rows.context_offsets, row, side="right") - 1
        order = np.lexsort((row, -value, latent, context))
        first = np.flatnonzero(np.diff(context[order] * self.n + latent[order], prepend=-1))
        peak = order[first]
        found = {
            "latent": latent[peak],
            "value": value[peak],
            "document_id": self.document[row[peak]],
            "place": self.place[row[peak]],
            "row": row[peak],
        }
        found["hash"] = hashed(self.spec.seed, found["latent"], found["document_id"], found["place"])
        old = self.windows
        both = found if old is None else concatenated([{n: old[n] for n in found}, found])
        keep = select(both, self.n_top, self.spec.n_quantile)
        n_old = 0 if old is None else len(old["latent"])
        new = taken(found, keep[n_old:])
        new |= self._around(new["row"])
        at = new["begin"][:, None] + np.arange(self.spec.window_tokens)
        wanted = at * self.n + new["latent"][:, None]
        where = np.searchsorted(key, wanted).clip(0, len(key) - 1)
        new["values"] = np.where((key[where] == wanted) & (at < new["end"][:, None]), by_key[where], 0).astype(np.float32)
        self.windows = new if old is None else concatenated([taken(old, keep[:n_old]), new])

    def _take_sentences(self, ids: np.ndarray, row: np.ndarray, latent: np.ndarray, value: np.ndarray) -> None:
        """SAINT's three rankings of sentences: by mean, largest and last activation. ``ids``: of all rows of the block."""
        sentence = self.rows.sentence_id[row].astype(np.int64)
        order = np.lexsort((row, latent, sentence))
        group = sentence[order] * self.n + latent[order]
        starts = np.flatnonzero(np.diff(group, prepend=-1))
        if not len(starts):
            return
        ends = np.append(starts[1:], len(order)) - 1
        size = np.bincount(ids)  # silent tokens count in the mean
        found = {
            "latent": latent[order][starts],
            "sentence_id": sentence[order][starts],
            "document_id": self.document[row[order][starts]],
            "place": sentence[order][starts],
        }
        last_row = self._last_row(found["sentence_id"])
        is_last = row[order][ends] == last_row
        values = {
            "mean": np.add.reduceat(value[order].astype(np.float64), starts) / size[found["sentence_id"]],
            "max": np.maximum.reduceat(value[order], starts),
            "last": np.where(is_last, value[order][ends], 0),
        }
        for ranking in RANKINGS:
            columns = {**found, "value": values[ranking].astype(np.float32)}
            columns = taken(columns, columns["value"] > 0)
            if ranking in self.sentences:
                columns = concatenated([self.sentences[ranking], columns])
            self.sentences[ranking] = taken(columns, by_strength(columns) < self.spec.n_sentences)

    def _last_row(self, sentence: np.ndarray) -> np.ndarray:
        if not hasattr(self, "_ends"):
            ids = self.rows.sentence_id
            ends = np.flatnonzero(np.diff(ids, append=-1))
            self._ends = (ids[ends], ends)
        ids, ends = self._ends
        return ends[np.searchsorted(ids, sentence)]

    def arrays(self) -> dict[str, Any]:
        """All that a merge needs, as plain arrays by name."""
        token = np.append(self.rows.token_id, 0)
        span = np.arange(self.spec.window_tokens)

        def text(columns: Columns) -> Columns:
            at = columns["begin"][:, None] + span
            inside = at < columns["end"][:, None]
            rows = np.where(inside, at, self.rows.n_rows)
            first = columns["begin"] if len(columns["begin"]) else np.zeros(0, np.int64)
            return {
                "tokens": np.where(inside, token[rows], -1).astype(np.int32),
                "sentence_id": self.rows.sentence_id[columns["row"]].astype(np.int64),
                "document_id": self.document[columns["row"]],
                "place": self.place[columns["row"]],
                "peak": (columns["row"] - first).astype(np.int32),
                "starts_context": np.isin(first, self.rows.context_offsets),
            }

        pool = {"row": self.pool["centre"], **self.pool}
        found = {
            "n_tokens": np.array([self.rows.n_rows]),
            "n_fires": self.n_fires,
            "total": self.total,
            "largest": self.largest,
            "histogram": self.histogram,
            "token_counts": np.bincount(self.rows.token_id) if self.rows.n_rows else np.zeros(0, np.int64),
            **{f"pool.{n}": v for n, v in {**text(pool), "hash": pool["hash"]}.items()},
            "pool.active": np.unique(np.concatenate([np.zeros(0, np.int64), *self._pool_active])),
        }
        if self.windows is not None:
            kept = {n: self.windows[n] for n in ("latent", "value", "hash", "values")}
            found |= {f"windows.{n}": v for n, v in {**kept, **text(self.windows)}.items()}
        for ranking, columns in self.sentences.items():
            found |= {f"sentences.{ranking}.{n}": v for n, v in columns.items()}
        return found
