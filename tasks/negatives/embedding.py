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
from tasks.negatives._neighbours import clear_of, nothing, peaks
from tasks.negatives.base import Drawn, Ground, Negatives

if TYPE_CHECKING:
    import numpy as np


class Embedding(Negatives, EmbedderSpec):
    """Windows of the pool in which the latent is silent, nearest to the windows in which it fires most strongly."""

    kind: Literal["embedding"] = "embedding"

    n_queries: int = Field(10, ge=1)
    """Windows of the latent, its strongest, to which near ones are sought, by turns."""

    WHERE: ClassVar[str] = "negatives.embedding"

    def pinned(self) -> Self:
        needs(self.WHERE, "faiss-cpu")
        return super().pinned()

    def draw(self, latent: int, ground: Ground, taken: np.ndarray) -> Drawn:
        own = peaks(ground, latent, self.n_queries)
        if not self.n or not len(own) or not len(ground.pool):
            return nothing()
        # The same text cut at another place is not another text.
        allowed = ground.silent(latent, ground.pool) & clear_of(ground, ground.pool, np.concatenate([own, taken]))
        n = min(self.n, int(allowed.sum()))
        if not n:
            return nothing()
        model = ground.once(self.embedder, lambda: self.open_embedder(ground.runtime))
        index = ground.once(("pool index", self.embedder), lambda: _index(model, ground))
        place_QK, similarity_QK = _nearest(index, model.passages(texts(ground, own)), n, allowed)
        found: dict[int, float] = {}
        for turn in range(n):
            for query in range(len(own)):
                # As many as are wanted were sought for each, so one of them is new unless enough are found.
                new = (k for k in range(turn, n) if int(place_QK[query, k]) not in found)
                if len(found) < n and (k := next(new, None)) is not None:
                    found[int(place_QK[query, k])] = float(similarity_QK[query, k])
        rows = ground.pool[list(found)]
        return Drawn(rows, np.full(len(rows), -1, np.int32), np.array(list(found.values()), np.float32))


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
