"""The default LLM explainer: one question per latent, with passages on which it is active and others.

The passages are a corpus's, and anybody may have written them. They travel as JSON data under a rule that says so,
the answer is bound to a schema, and what comes back is checked and cleaned before anybody sees it.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from tasks.explainers._asking import CONFIDENCE, Asking
from tasks.explainers._shown import STRANGERS, by_turns, how_marked, marked, spread
from tasks.explainers.base import LatentExamples, printable

_QUESTION = """\
You study single latents of a sparse autoencoder trained on the activations of a language model. For one latent you \
get a JSON object and say what the latent detects.

What the JSON holds:
- "active": passages on which the latent is active, strong ones first. A passage is an array to be read from left to \
right. {marks}
- "silent": passages, as plain strings, on which the latent is not active anywhere. Some of them contain words on \
which it is active elsewhere: ask what is different there.{promoted}

{strangers}"""

_PROMOTED = """
- "promoted": tokens that the latent makes the model more likely to say next. A hint, at times a misleading one."""


class Default(Asking):
    """Asks an LLM once per latent."""

    KEEPS_KEY: ClassVar[dict[str, Any]] = {"activations": True, "chain_of_thought": True, "threshold": 0.0}
    REASONING: ClassVar[str] = """\
at most three short sentences: what the active tokens share, what comes before them, and which silent passages rule \
out a simpler reading."""

    kind: Literal["default"] = "default"

    n_active: int = Field(20, ge=1)
    """Activating windows shown: half of them the strongest, the rest spread over the whole range."""

    n_silent: int = Field(10, ge=0)
    """Non-activating windows shown: near misses and random ones by turns."""

    n_promoted: int = Field(10, ge=0)
    """Promoted tokens shown; 0 does not speak of them."""

    activations: bool = True
    """Show how strong the latent is on each token, 1 to 10; without, only on which tokens it is active."""

    threshold: float = Field(0.0, ge=0, lt=1)
    """Share of the latent's largest activation up to which tokens are left unmarked; the peak of a window is marked
    always. 0 marks every token on which the latent is active."""

    min_windows: int = Field(3, ge=1)
    """Activating windows without which nothing is asked."""

    def question(self) -> str:
        promoted = _PROMOTED if self.n_promoted else ""
        return _QUESTION.format(marks=how_marked(self.threshold, self.activations), promoted=promoted, strangers=STRANGERS)

    def answers(self) -> dict[str, str]:
        low = " Use low values when the active passages share nothing that the silent ones lack."
        return {**super().answers(), "confidence": CONFIDENCE + low}

    def shown(self, examples: LatentExamples) -> dict[str, Any]:
        active = spread(examples.train(activating=True), self.n_active)
        found: dict[str, Any] = {
            "active": [marked(w, examples.max_value, self.threshold, self.activations) for w in active],
            "silent": [printable(w.text) for w in by_turns(examples.train(activating=False), self.n_silent)],
        }
        if self.n_promoted:
            found["promoted"] = [printable(token) for token, _ in examples.promoted[: self.n_promoted]]
        return found

    def fitness(self, examples: LatentExamples) -> str:
        return "ok" if len(examples.train(activating=True)) >= self.min_windows else "too_few_examples"
