"""Surveys of shards, merged: the same result whatever the shards were, and the negatives of each latent drawn from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tasks.lazy import np
from tasks.mining.kept import Columns, by_strength, concatenated, hashed, rank_within, select, taken

if TYPE_CHECKING:
    import numpy as np

    from tasks.mine import MineSpec, SurveySpec

_LATENTS_AT_ONCE = 512
_MAIN_TOKENS = 3
"""Commonest peak tokens of a latent that near misses share."""


def columns_of(arrays: dict[str, Any], prefix: str) -> Columns:
    """The columns saved under a prefix."""
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


class Merged:
    """The surveys of one split as one."""

    def __init__(self, surveys: Sequence[dict[str, Any]], spec: SurveySpec, n_latents: int, split: str) -> None:
        self.spec, self.n, self.split = spec, n_latents, split
        self.n_tokens = sum(int(s["n_tokens"][0]) for s in surveys)
        self.n_fires = sum(s["n_fires"] for s in surveys)
        self.total = sum(s["total"] for s in surveys)
        self.histogram = sum(s["histogram"] for s in surveys)
        self.largest = np.max([s["largest"] for s in surveys], axis=0)
        self.token_counts = _added([s["token_counts"] for s in surveys])
        windows = [columns_of(s, "windows.") for s in surveys if "windows.latent" in s]
        self.windows = self._windows(concatenated(windows)) if windows else None
        self.sentences: dict[str, Columns] = {}
        for ranking in ("mean", "max", "last"):
            parts = [c for s in surveys if (c := columns_of(s, f"sentences.{ranking}."))]
            if parts:
                both = concatenated(parts)
                rank = by_strength(both)
                self.sentences[ranking] = taken({**both, "rank": rank}, rank < spec.n_sentences)
        self._merge_pools(surveys)

    def _windows(self, columns: Columns) -> Columns:
        """Kept windows with their rank and quantile; the sample spans all activating contexts, top ones only add to it."""
        columns = taken(columns, select(columns, self.spec.n_top if self.split == "train" else 0, self.spec.n_quantile))
        columns["rank"] = by_strength(columns)
        order = np.lexsort((columns["hash"], columns["latent"]))
        sampled = rank_within(columns["latent"], order) < self.spec.n_quantile
        quantile = np.full(len(sampled), 0, np.int64)
        inside = np.flatnonzero(sampled)
        part = taken(columns, inside)
        size = np.bincount(part["latent"], minlength=self.n)[part["latent"]]
        quantile[inside] = by_strength(part) * self.spec.n_quantiles // size
        return {**columns, "sampled": sampled, "quantile": quantile}

    def _merge_pools(self, surveys: Sequence[dict[str, Any]]) -> None:
        pools = [columns_of(s, "pool.") for s in surveys]
        sizes = [len(p["hash"]) for p in pools]
        active = [p.pop("active") for p in pools]
        starts = np.cumsum([0, *sizes])
        pool = concatenated(pools)
        order = np.lexsort((pool["place"], pool["document_id"], pool["hash"]))[: self.spec.n_pool]
        self.pool = taken(pool, order)
        pairs = np.concatenate([a + starts[i] * self.n for i, a in enumerate(active)])
        new = np.full(starts[-1] + 1, -1, np.int64)
        new[order] = np.arange(len(order))
        window, latent = new[pairs // self.n], pairs % self.n
        self._active = (window[window >= 0], latent[window >= 0])

    def negatives(self, spec: MineSpec) -> Columns:
        """For each latent that has windows: random windows and near misses in which it is silent, none twice.

        A near miss holds one of the commonest tokens at which the latent peaks, and yet it does not fire.
        """
        n_pool = len(self.pool["hash"])
        empty = {"latent": np.zeros(0, np.int64), "window": np.zeros(0, np.int64), "peak": np.zeros(0, np.int64)}
        empty |= {"near": np.zeros(0, bool), "rank": np.zeros(0, np.int64)}
        if self.windows is None or not n_pool:
            return empty
        alive = np.unique(self.windows["latent"])
        parts = [empty]
        places = self._token_places()
        main = self._main_tokens()
        for i in range(0, len(alive), _LATENTS_AT_ONCE):
            chunk = alive[i : i + _LATENTS_AT_ONCE]
            fires = np.zeros((len(chunk), n_pool), bool)
            where = np.searchsorted(chunk, self._active[1]).clip(0, len(chunk) - 1)
            mine = chunk[where] == self._active[1]
            fires[where[mine], self._active[0][mine]] = True
            cells = np.repeat(chunk, n_pool), np.tile(self.pool["hash"], len(chunk))
            order = np.argsort(hashed(self.spec.seed + 2, *cells).reshape(len(chunk), n_pool), 1)
            for row, latent in enumerate(chunk):
                silent = order[row][~fires[row][order[row]]]
                near, peak = self._near_misses(silent, main.get(int(latent), ()), places, spec.n_near_miss)
                random = silent[~np.isin(silent, near)][: spec.n_random]
                window = np.concatenate([random, near])
                parts.append(
                    {
                        "latent": np.full(len(window), latent),
                        "window": window,
                        "peak": np.concatenate([self.pool["peak"][random], peak]),
                        "near": np.arange(len(window)) >= len(random),
                        "rank": np.concatenate([np.arange(len(random)), np.arange(len(near))]),
                    }
                )
        return concatenated(parts)

    def _main_tokens(self) -> dict[int, np.ndarray]:
        """The commonest tokens at each latent's peaks, the commonest first."""
        assert self.windows is not None
        latent = self.windows["latent"]
        token = self.windows["tokens"][np.arange(len(latent)), self.windows["peak"]].astype(np.int64)
        pair, count = np.unique(latent * (1 << 32) + token, return_counts=True)
        order = np.lexsort((pair, -count, pair >> 32))
        pair = pair[order][rank_within(pair[order] >> 32, np.arange(len(pair))) < _MAIN_TOKENS]
        edges = np.flatnonzero(np.diff(pair >> 32, prepend=-1))
        return {int(p[0] >> 32): p & 0xFFFFFFFF for p in np.split(pair, edges[1:]) if len(p)}

    def _token_places(self) -> tuple[np.ndarray, np.ndarray]:
        """All tokens of the pool, sorted, and where each stands (window x width + position)."""
        flat = self.pool["tokens"].reshape(-1)
        order = np.argsort(flat, kind="stable")
        return flat[order], order

    def _near_misses(
        self, silent: np.ndarray, tokens: Any, places: tuple[np.ndarray, np.ndarray], n: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Silent windows with one of the tokens, in the order of ``silent``, and where in them it stands."""
        sorted_tokens, order = places
        found = [order[np.searchsorted(sorted_tokens, t) : np.searchsorted(sorted_tokens, t, side="right")] for t in tokens]
        at = np.concatenate([np.zeros(0, np.int64), *found])
        width = self.pool["tokens"].shape[1]
        window, first = np.unique(at // width, return_index=True)
        near = silent[np.isin(silent, window)][:n]
        return near, (at[first] % width)[np.searchsorted(window, near)]


def _added(counts: Sequence[np.ndarray]) -> np.ndarray:
    total = np.zeros(max((len(c) for c in counts), default=0), np.int64)
    for count in counts:
        total[: len(count)] += count
    return total
