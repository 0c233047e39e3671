"""Windows with a token at which the latent often peaks, and in which it is silent all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tasks.lazy import np
from tasks.mining.hashing import hashed, number
from tasks.negatives.base import Drawn, Ground, Negatives, unlike_any

if TYPE_CHECKING:
    import numpy as np

_ROWS_AT_ONCE = 1 << 18


class NearMiss(Negatives):
    """Where a description that only names the word goes wrong. The shared token is the window's peak.

    Looked for among ``n_rows`` rows of each token, drawn once from all of the split. Windows are drawn without replacement,
    overlap neither each other nor those of other kinds, and are matched in length and place of the peak to the latent's
    activating windows (``Ground.matched``).
    """

    kind: Literal["near_miss"] = "near_miss"

    n: int = Field(20, ge=0)
    """Windows per latent and split, as far as there are."""

    n_tokens: int = Field(3, ge=1)
    """Commonest peak tokens of the latent that count."""

    n_rows: int = Field(128, ge=1)
    """Rows of each token that are looked at; memory is 4 bytes for each of them and each token of the vocabulary."""

    def draw(self, latent: int, ground: Ground, taken: np.ndarray) -> Drawn:
        starts, rows = ground.once(("rows of tokens", self.n_rows), lambda: rows_of_tokens(ground, self.n_rows))
        ids, counts = np.unique(ground.cache.token_id[ground.peaks(latent)], return_counts=True)
        main = ids[np.argsort(-counts, kind="stable")[: self.n_tokens]]
        found = np.concatenate(
            [np.zeros(0, np.int64), *(rows[starts[t] : starts[t + 1]].astype(np.int64) for t in main)]
        )
        windows = ground.stretches(found)
        windows = windows.at(ground.silent_in(latent, windows) & ground.free_of(windows, taken))
        windows = windows.at(ground.order(latent, windows.row, self.kind))
        return unlike_any(ground.matched(latent, windows.at(ground.apart_of(windows)), self.n))


def rows_of_tokens(ground: Ground, n: int) -> tuple[np.ndarray, np.ndarray]:
    """At most ``n`` rows of each token, drawn evenly: those of token t are ``rows[starts[t]:starts[t + 1]]``.

    Goes over the split a part at a time, and keeps no more than it returns and a part.
    """
    seed = number(ground.seed, f"{ground.split}/rows of tokens")
    token, row, order = np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.uint64)
    for start in range(0, ground.cache.n_rows, _ROWS_AT_ONCE):
        more = np.arange(start, min(start + _ROWS_AT_ONCE, ground.cache.n_rows))
        token = np.concatenate([token, ground.cache.token_id[more]])
        row = np.concatenate([row, more])
        order = np.concatenate([order, hashed(seed, more)])
        by_token = np.lexsort((order, token))
        token = token[by_token]
        rank = np.arange(len(token)) - np.searchsorted(token, token)
        kept = rank < n
        token, row, order = token[kept], row[by_token][kept], order[by_token][kept]
    return np.searchsorted(token, np.arange(len(ground.texts) + 1)), row.astype(np.uint32)
