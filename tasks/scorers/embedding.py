"""Embedding: are activating windows nearer to the explanation, in a space of meanings, than others are?

The measure of Paulo et al. (2410.13928, section 4): cheap, without an LLM, and blind to what an embedder does not see
(single tokens, places in a text). Its worth hangs on the embedder, so compare scores of one model only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from tasks.explainers.base import Explanation, LatentExamples, Window, printable
from tasks.lm.embedder import EmbedderSpec
from tasks.scorers._measuring import Measured
from tasks.scorers.base import Bench


class Embedding(Measured, EmbedderSpec):
    """AUROC of the cosine similarity of windows to the explanation."""

    kind: Literal["embedding"] = "embedding"

    query_prefix: str | None = None
    """Put before each explanation, such as ``Instruct: Find passages of which this is true.\\nQuery: ``; null takes what
    the model itself brings for queries, mostly nothing."""

    WHERE: ClassVar[str] = "scorers.embedding"

    def measure(
        self, windows: Sequence[Window], explanation: Explanation, examples: LatentExamples, seed: int, bench: Bench
    ) -> Sequence[float | None]:
        model = bench.once(self.embedder, lambda: self.open_embedder(bench.runtime))
        passages = model.passages([printable(window.text) for window in windows])
        return (passages @ model.queries([printable(explanation.label)], self.query_prefix)[0]).tolist()
