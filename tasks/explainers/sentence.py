"""The sentence explainer, after the prompt of SAINT's first version: whole sentences, one shared topic, a certainty.

Kept for comparison. It shows no tokens and no silent text, so it can only say what the sentences are about; what it
asks is SAINT's question (yym68686/saint) in other words, under a schema.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from tasks.explainers._asking import Asking
from tasks.explainers._shown import STRANGERS
from tasks.explainers.base import LatentExamples, Sentence, printable

_QUESTION = """\
Sentences that set off one latent of a sparse autoencoder come to you as a JSON object: "sentences" is an array of \
passages, the strongest first. Some of them may be there by accident. Say what the sentences have in common: one topic, \
or one trait of meaning, wording or form.

{strangers}"""


class Shared(Asking):
    """Asks an LLM once per latent what its strongest sentences share, and how sure it is."""

    INPUTS: ClassVar[frozenset[str]] = frozenset({"corpus"})
    REASONING: ClassVar[str] = """\
at most three short sentences: which traits several of the sentences share, and which one fits most of them."""

    kind: Literal["sentence"] = "sentence"

    ranking: Literal["mean", "max", "last"] = "max"
    """Sentences with the highest mean activation, largest activation, or activation at the last token."""

    n_sentences: int = Field(10, ge=1)
    """Sentences shown, as far as mine.n_sentences kept them."""

    max_sentence_characters: int = Field(500, ge=20)
    """Longer sentences are cut."""

    min_sentences: int = Field(3, ge=1)
    """Sentences without which nothing is asked."""

    def question(self) -> str:
        return _QUESTION.format(strangers=STRANGERS)

    def answers(self) -> dict[str, str]:
        return {
            "label": "one line of at most 20 words that names what the sentences share, as precisely as most of them allow.",
            "confidence": """\
your certainty from 0 to 1 that most of the sentences share this, and that sentences taken at random would not.""",
        }

    def shown(self, examples: LatentExamples) -> dict[str, Any]:
        return {"sentences": [self._cut(found.text) for found in self._ranked(examples)]}

    def fitness(self, examples: LatentExamples) -> str:
        fewest = min(self.min_sentences, self.n_sentences)
        return "ok" if len(self._ranked(examples)) >= fewest else "too_few_examples"

    def _ranked(self, examples: LatentExamples) -> list[Sentence]:
        return [found for found in examples.sentences if found.ranking == self.ranking][: self.n_sentences]

    def _cut(self, text: str) -> str:
        whole = printable(text)
        return whole if len(whole) <= self.max_sentence_characters else whole[: self.max_sentence_characters - 1] + "\u2026"
