"""The explainer of latents that fire on one token or a few: shows their peaks with a little context, and counts.

Such latents are many in early layers. Two dozen short passages tell all there is, at a fraction of the price.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any, ClassVar, Literal

from pydantic import Field

from tasks.clients.base import Reply
from tasks.explainers._asking import CONFIDENCE, Asking
from tasks.explainers._shown import STRANGERS, by_strength
from tasks.explainers.base import Explanation, LatentExamples, Window, printable

_QUESTION = """\
You study single latents of a sparse autoencoder trained on the activations of a language model. One that fires on one \
token, or on a few, is shown to you as a JSON object, and you say which tokens it detects and what they are.

What the JSON holds:
- "tokens": pairs [token, n]: the tokens at which the latent peaks, and at how many of the places that were looked at. A \
token may be part of a word, and a space before it belongs to it.
- "peaks": passages [before, token, after], each cut out around one peak, for all of the tokens.

{strangers}"""


class SingleToken(Asking):
    """Asks an LLM once per latent, if the latent's peaks are all on a few different tokens."""

    REASONING: ClassVar[str] = """\
at most two short sentences: what the tokens are, and whether they stand for one thing wherever they occur."""

    kind: Literal["single_token"] = "single_token"

    n_tokens: int = Field(3, ge=1)
    """Different tokens that a latent may fire on; one word takes several, such as `` the``, ``The`` and `` The``."""

    threshold: float = Field(0.8, gt=0, le=1)
    """Share of the peaks of the train windows that must be on those tokens; else ``not_single_token``."""

    n_peaks: int = Field(12, ge=1)
    """Peaks shown, the tokens by turns."""

    context_tokens: int = Field(5, ge=0)
    """Tokens shown on either side of a peak."""

    min_windows: int = Field(3, ge=1)
    """Activating windows without which nothing is asked."""

    def question(self) -> str:
        return _QUESTION.format(strangers=STRANGERS)

    def answers(self) -> dict[str, str]:
        return {
            "label": """\
one line of at most 20 words that names the token or tokens, as they are written, and says what they are where that \
is more than the word itself: part of which words, in which sense, in what sort of text. Do not speak of latents or \
numbers.""",
            "confidence": CONFIDENCE + " Use low values when the tokens are common ones that must often occur without it.",
        }

    def shown(self, examples: LatentExamples) -> dict[str, Any]:
        tokens = self.tokens(examples)
        return {
            "tokens": [[printable(token), n] for token, n in tokens],
            "peaks": [self._cut(window) for window in self._peaks(examples, [token for token, _ in tokens])],
        }

    def fitness(self, examples: LatentExamples) -> str:
        if len(examples.train(activating=True)) < self.min_windows:
            return "too_few_examples"
        return "ok" if self.share(examples) >= self.threshold else "not_single_token"

    def tokens(self, examples: LatentExamples) -> list[tuple[str, int]]:
        """The commonest tokens at the peaks of train windows, and at how many peaks each; at most ``n_tokens``."""
        found = Counter(w.tokens[w.peak] for w in examples.train(activating=True))
        return sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))[: self.n_tokens]

    def share(self, examples: LatentExamples) -> float:
        """Share of the peaks of train windows that are on ``tokens``."""
        return sum(n for _, n in self.tokens(examples)) / max(1, len(examples.train(activating=True)))

    def read(self, replies: list[Reply], examples: LatentExamples) -> Explanation:
        found = super().read(replies, examples)
        if found.status == "too_few_examples":
            return found
        tokens = {"tokens": self.tokens(examples), "share": round(self.share(examples), 4)}
        return dataclasses.replace(found, evidence={**found.evidence, **tokens})

    def _peaks(self, examples: LatentExamples, tokens: list[str]) -> list[Window]:
        ordered = by_strength(examples.train(activating=True))
        of = [[w for w in ordered if w.tokens[w.peak] == token] for token in tokens]
        longest = max(map(len, of), default=0)
        return [windows[i] for i in range(longest) for windows in of if i < len(windows)][: self.n_peaks]

    def _cut(self, window: Window) -> list[str]:
        before = window.tokens[max(0, window.peak - self.context_tokens) : window.peak]
        after = window.tokens[window.peak + 1 : window.peak + 1 + self.context_tokens]
        return [printable("".join(before)), printable(window.tokens[window.peak]), printable("".join(after))]
