"""Surprisal: does the explanation make activating windows likelier to a language model, more than it does others?

The measure of Paulo et al. (2410.13928, section 4) with a local base model. Both prompts differ in one line only, what
is said of the window; the example passages before it are the same, so what they do to a window cancels out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from tasks.explainers.base import Explanation, LatentExamples, Window, printable
from tasks.lm.pretrained import Pretrained
from tasks.lm.surprise import Reader
from tasks.scorers._measuring import Measured
from tasks.scorers.base import Bench

SHOWN = """\
Each note says what can be found in the passage under it.

Note: words for the weather
Passage: by noon the fog had lifted, though rain was forecast for the evening and the wind

Note: the second of two brackets
Passage: print(total(rows)) # all of them (see above) are kept

Note: nothing in particular
Passage: and after that she went back to the shop to ask whether they would take it

Note: numbers written as words
Passage: of the forty who came, only seven stayed, and two of those had to

"""

UNSAID = "nothing in particular"


class Surprisal(Measured, Pretrained):
    """AUROC of the nats per token that the explanation saves a language model on a window."""

    kind: Literal["surprisal"] = "surprisal"

    hub_id: str | None = "openai-community/gpt2"
    """Id on the Hugging Face hub of a causal language model, a base model rather than a chat one; ``path`` goes before it."""

    revision: str | None = "607a30d783dfa663caf39e06633721c8d4cfcd7e"
    """Commit on the hub, 40 hex characters."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of that model."""

    WHERE: ClassVar[str] = "scorers.surprisal"
    READER: ClassVar[str] = "reader"
    """The name of the model on the bench."""

    def measure(
        self, windows: Sequence[Window], explanation: Explanation, examples: LatentExamples, seed: int, bench: Bench
    ) -> Sequence[float | None]:
        model = bench.once(
            self.READER, lambda: Reader.open(*self.source(), self.dtype, bench.runtime, self.path is not None)
        )
        texts = [printable(window.text) for window in windows]
        before, after = (model.surprise(prompt(said), texts) for said in (UNSAID, printable(explanation.label)))
        return [None if a is None or b is None else b - a for a, b in zip(after, before, strict=True)]


def prompt(said: str) -> str:
    """All that stands before a window, of which something is said."""
    return f"{SHOWN}Note: {said}\nPassage:"
