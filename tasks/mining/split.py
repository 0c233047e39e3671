"""One split of the text under a mining: a latent's windows, its sentences and where it is silent, one latent at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.lazy import np
from tasks.mining.cache import LatentCache, run_starts
from tasks.mining.hashing import hashed, number
from tasks.negatives.base import Drawn, Ground, Negatives, unlike_any
from tasks.samplers.base import Sampler
from tasks.windows.base import Windows

if TYPE_CHECKING:
    import numpy as np

    from tasks.spec import Runtime
    from tasks.trained import TrainedSAE

RANKINGS = ("mean", "max", "last")
_ROWS_AT_ONCE = 1 << 18
_CROWD = 8
"""Rows looked at for each window of the pool, since windows drawn at random overlap."""

Columns = dict[str, Any]


class Latent(NamedTuple):
    """Where one latent is active in a split."""

    latent: int
    rows: np.ndarray
    """int64, ascending."""

    values: np.ndarray
    """float32."""

    peaks: np.ndarray
    """Indices of the activations that are the peak of a window, the strongest first."""


@dataclass(frozen=True)
class Kept:
    """What a mining keeps of each latent in one split."""

    windows: Windows
    sampler: Sampler
    negatives: Sequence[Negatives]
    min_examples: int
    n_sentences: int
    n_pool: int
    seed: int


class Split:
    """A split, and what is drawn from it."""

    def __init__(
        self, name: str, cache: LatentCache, kept: Kept, sae: TrainedSAE, texts: list[str], runtime: Runtime
    ) -> None:
        self.name, self.cache, self.kept = name, cache, kept
        nothing = np.zeros(0, np.int64)
        self.ground = Ground(cache, self._around, nothing, sae, texts, runtime, kept.seed, name)
        self.ground.pool = self._pool()
        self._sentences = np.append(run_starts(cache.sentence_id), cache.n_rows)

    def _around(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.kept.windows.around(rows, self.cache.context_offsets)

    def _pool(self) -> np.ndarray:
        """Rows drawn from all of the split, whatever fires at them, so that their windows do not overlap."""
        seed = number(self.kept.seed, f"{self.name}/pool")
        row, order = np.zeros(0, np.int64), np.zeros(0, np.uint64)
        for start in range(0, self.cache.n_rows, _ROWS_AT_ONCE):
            more = np.arange(start, min(start + _ROWS_AT_ONCE, self.cache.n_rows))
            more = more[self.kept.windows.long_enough(more, self.cache.context_offsets)]
            row = np.concatenate([row, more])
            order = np.concatenate([order, hashed(seed, more)])
            best = np.argsort(order, kind="stable")[: _CROWD * self.kept.n_pool]
            row, order = row[best], order[best]
        return np.sort(self.ground.apart(row)[: self.kept.n_pool])

    def of(self, latent: int) -> Latent:
        """Where a latent is active."""
        rows, values = self.cache.of(latent)
        return Latent(latent, rows, values, self.kept.windows.peaks(rows, values, self.cache.context_offsets))

    def lacks(self, found: Latent) -> str | None:
        """Why no windows of a latent are kept, if so."""
        if len(found.peaks) >= self.kept.min_examples:
            return None
        return "too_few_windows" if len(found.rows) else "silent"

    def random(self, latent: int, purpose: str) -> Random:
        """A generator of its own for a latent and a purpose."""
        return Random(f"{self.kept.seed}/{latent}/{self.name} {purpose}")

    def peak_tokens(self, found: Latent) -> np.ndarray:
        """int32: the token at the peak of each of a latent's windows, the strongest first."""
        return self.cache.token_id[found.rows[found.peaks]]

    def windows(self, found: Latent) -> Columns:
        """The windows that are kept of a latent: activating ones by rank, then those of each kind of negatives."""
        m = len(found.peaks)
        chosen = self.kept.sampler.draw(m, self.random(found.latent, "windows"))
        rank = np.array([rank for rank, _ in chosen], np.int64)
        rows, n = found.rows[found.peaks[rank]], len(chosen)
        self.ground.once(("rows of", found.latent), lambda: (found.rows, found.values), keep=4)
        self.ground.once(("peaks of", found.latent), lambda: rows, keep=4)
        ranks, groups = [rank], [group for _, group in chosen]
        taken, drawn = np.zeros(0, np.int64), [unlike_any(rows)]
        for kind in self.kept.negatives:
            name = str(kind.kind)  # type: ignore[attr-defined]
            more = kind.draw(found.latent, self.ground, taken)
            taken = np.concatenate([taken, more.row])
            drawn.append(more)
            ranks.append(np.arange(len(more.row)))
            groups += [name] * len(more.row)
        columns = self._columns(found, Drawn(*map(np.concatenate, zip(*drawn, strict=True))))
        if columns["loudest"][n:].any():
            raise ValueError(f"latent {found.latent} fires in a window of negatives {self._kinds}; mend the kind")
        silent = self.ground.stretches(np.sort(taken))
        if (silent.begin[1:] < silent.end[:-1]).any():
            raise ValueError(
                f"windows of latent {found.latent} overlap, drawn by negatives {self._kinds}; mend the kind"
            )
        quantile = [self.kept.sampler.quantile(r, m) for r, _ in chosen]
        return columns | {
            "group": groups,
            "rank": np.concatenate(ranks).astype(np.int32),
            "quantile": np.array(quantile + [-1] * len(taken), np.int32),
            "strength": columns["loudest"],
        }

    @property
    def _kinds(self) -> str:
        return ", ".join(str(kind.kind) for kind in self.kept.negatives)  # type: ignore[attr-defined]

    def _columns(self, found: Latent, drawn: Drawn) -> Columns:
        cache, rows = self.cache, drawn.row
        _, begin, end = self.ground.stretches(rows)
        document = cache.document_id[rows]
        if (cache.document_id[begin] != document).any() or (cache.document_id[end - 1] != document).any():
            raise ValueError(
                f"a {self.name} window of latent {found.latent} lies in two documents; captures are at odds"
            )
        size = end - begin
        starts = np.cumsum(size) - size
        flat = _laid_out(begin, size)
        first = np.searchsorted(found.rows, begin)
        n_active = np.searchsorted(found.rows, end) - first
        active = _laid_out(first, n_active)
        values = np.zeros(len(flat), np.float32)
        values[found.rows[active] + np.repeat(starts - begin, n_active)] = found.values[active]
        context = np.searchsorted(cache.context_offsets, begin, side="right") - 1
        ids = zip(document.tolist(), self.ground.place(rows).tolist(), strict=True)
        return {
            "latent": np.full(len(rows), found.latent, np.int32),
            "window_id": [f"{self.name}/{d}/{p}" for d, p in ids],
            "split": [self.name] * len(rows),
            "document_id": document,
            "sentence_id": cache.sentence_id[rows],
            "size": size,
            "tokens": cache.token_id[flat],
            "values": values,
            "peak": (rows - begin).astype(np.int32),
            "starts_context": cache.context_offsets[context] == begin,
            "neighbour": np.asarray(drawn.neighbour, np.int32),
            "similarity": np.asarray(drawn.similarity, np.float32),
            "loudest": np.maximum.reduceat(values, starts),
        }

    def sentences(self, found: Latent) -> Iterator[Columns]:
        """SAINT's three rankings of sentences: by mean (silent tokens count), largest and last activation."""
        if not len(found.rows):
            return
        sentence = np.searchsorted(self._sentences, found.rows, side="right") - 1
        starts = np.flatnonzero(np.diff(sentence, prepend=-1))
        sentence = sentence[starts]
        last = np.append(starts[1:], len(found.rows)) - 1
        first_row, past_row = self._sentences[sentence], self._sentences[sentence + 1]
        values = {
            "mean": np.add.reduceat(found.values, starts, dtype=np.float64) / (past_row - first_row),
            "max": np.maximum.reduceat(found.values, starts),
            "last": np.where(found.rows[last] == past_row - 1, found.values[last], 0),
        }
        for ranking in RANKINGS:
            value = values[ranking].astype(np.float32)
            best = np.argsort(-value, kind="stable")[: self.kept.n_sentences]
            best = best[value[best] > 0]
            rows = first_row[best]
            yield {
                "latent": np.full(len(best), found.latent, np.int32),
                "ranking": [ranking] * len(best),
                "rank": np.arange(len(best), dtype=np.int32),
                "sentence_id": self.cache.sentence_id[rows],
                "document_id": self.cache.document_id[rows],
                "split": [self.name] * len(best),
                "value": value[best],
            }

    def documents(self) -> np.ndarray:
        """Ids of all documents."""
        return np.unique(self.cache.document_id[run_starts(self.cache.document_id)])

    def token_counts(self) -> np.ndarray:
        """int64: how often each token occurs, up to the largest that does."""
        counts = np.zeros(0, np.int64)
        for start in range(0, self.cache.n_rows, _ROWS_AT_ONCE):
            more = np.bincount(self.cache.token_id[start : start + _ROWS_AT_ONCE], minlength=len(counts))
            more[: len(counts)] += counts
            counts = more
        return counts


def _laid_out(first: np.ndarray, size: np.ndarray) -> np.ndarray:
    """int64: the indices of some stretches, one stretch behind the other."""
    return np.repeat(first - (np.cumsum(size) - size), size) + np.arange(size.sum())
