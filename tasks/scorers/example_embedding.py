"""Example embedding: do activating windows lie near each other in a space of meanings, and apart from others?

After the measure of the same name beside intruder scoring (2507.08473). No explanation enters: it tells how much of a
latent an embedder can see at all, which bounds what any explanation can earn before the scorer ``embedding``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from tasks.explainers.base import Explanation, LatentExamples, Window, printable
from tasks.lm.embedder import EmbedderSpec
from tasks.scorers._choosing import by_group, evenly, generator
from tasks.scorers._measuring import Measured
from tasks.scorers.base import Bench


class ExampleEmbedding(Measured, EmbedderSpec):
    """AUROC of how much more alike a window is to activating examples than to non-activating ones, on average.

    Examples are windows of the train split, which windows of the test split, those measured, share no document with. All
    examples count for every window, so nothing hangs on which of them were put together.
    """

    kind: Literal["example_embedding"] = "example_embedding"

    n_examples: int = Field(40, ge=1)
    """Examples of each class, drawn evenly from all quantiles and from all kinds of non-activating windows."""

    WHERE: ClassVar[str] = "scorers.example_embedding"
    USES_EXPLANATION: ClassVar[bool] = False

    def measure(
        self, windows: Sequence[Window], explanation: Explanation, examples: LatentExamples, seed: int, bench: Bench
    ) -> Sequence[float | None]:
        draw = generator(seed, examples.latent, "examples")
        positive = evenly(examples.train(True), self.n_examples, draw)
        negative = by_group(examples.train(False), self.n_examples, {}, draw)
        if min(len(positive), len(negative)) < self.min_windows:
            return []
        model = bench.once(self.embedder, lambda: self.open_embedder(bench.runtime))
        vectors = model.passages([printable(window.text) for window in (*windows, *positive, *negative)])
        held, shown = vectors[: len(windows)], vectors[len(windows) :]
        # The mean similarity to some vectors is the similarity to their mean.
        towards = shown[: len(positive)].mean(0) - shown[len(positive) :].mean(0)
        return (held @ towards).tolist()
