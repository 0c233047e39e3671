"""Non-activating windows by meaning: those nearest to the latent's own, in the space of an embedder.

The windows of the pool are embedded once, for all latents, and searched exactly by faiss, which skips those in which
the latent fires instead of building an index anew for each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field

from tasks.explainers.base import printable
from tasks.lazy import np
from tasks.lm.embedder import EmbedderSpec, Embeds, needs
from tasks.negatives._neighbours import strong_windows
from tasks.negatives.base import Drawn, Ground, Negatives, unlike_any

if TYPE_CHECKING:
    import numpy as np

_SPARE = 3
"""Windows found for each that is wanted, to choose from those of the right shape."""


class Embedding(Negatives, EmbedderSpec):
    """Windows of the pool in which the latent is silent, nearest to the windows in which it fires most strongly."""

    kind: Literal["embedding"] = "embedding"

    n_queries: int = Field(10, ge=1)
    """Windows of the latent, its strongest, to which near ones are sought, by turns."""

    WHERE: ClassVar[str] = "mine.negatives.embedding"

    def pinned(self) -> Self:
        needs(self.WHERE, "faiss-cpu")
        return super().pinned()

    def draw(self, latent: int, ground: Ground, taken: np.ndarray) -> Drawn:
        own, pool = strong_windows(ground, latent, self.n_queries).row, ground.stretches(ground.pool)
        if not self.n or not len(own) or not len(ground.pool):
            return unlike_any(ground.pool[:0])
        # Windows that overlap with the latent's own are left out: the same text cut elsewhere is not another text.
        allowed = ground.silent_in(latent, pool) & ground.free_of(pool, np.concatenate([own, taken]))
        n = min(_SPARE * self.n, int(allowed.sum()))
        if not n:
            return unlike_any(ground.pool[:0])
        model = ground.once(self.embedder, lambda: self.open_embedder(ground.runtime))
        index = ground.once(("pool index", self.embedder), lambda: _index(model, ground))
        place_QK, similarity_QK = _nearest(index, model.passages(texts(ground, own)), n, allowed)
        # By turns: the nearest of each window, then the next of each; who is near to several comes at the first of them.
        place, first = np.unique(place_QK.T.ravel(), return_index=True)
        order = np.argsort(first)
        place, first = place[order], first[order]
        rows = ground.matched(latent, pool.at(place[:n]), self.n)
        similarity = similarity_QK.T.ravel()[first][np.isin(ground.pool[place], rows)]
        return Drawn(rows, np.full(len(rows), -1, np.int32), similarity.astype(np.float32))


def texts(ground: Ground, rows: np.ndarray) -> list[str]:
    """The text of the window around each row."""
    tokens = ground.cache.token_id
    return [
        printable("".join(ground.texts[t] for t in tokens[b:e].tolist()))
        for b, e in zip(*ground.around(rows), strict=True)
    ]


def _index(model: Embeds, ground: Ground) -> Any:
    import faiss

    vectors = model.passages(texts(ground, ground.pool), ground.progress)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index


def _nearest(index: Any, queries: np.ndarray, n: int, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places and similarities (queries, n) of the allowed vectors most similar to each query, the most similar first."""
    import faiss

    bits = np.packbits(allowed, bitorder="little")
    chosen = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bits))
    similarity, place = index.search(queries, n, params=chosen)
    return place, similarity
