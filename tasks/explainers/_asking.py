"""Explainers that put one question per latent to an LLM and read a label in its answer."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from pydantic import Field

from tasks.clients.base import Reply, Request
from tasks.explainers.base import Explainer, Explanation, LatentExamples, fraction, last_object, one_line

LABEL = """\
one line of at most 20 words by which somebody who sees nothing else could tell, for a new passage, whether the \
latent is active on it and where. If it is about certain words, name them; if about a meaning, name the meaning; if it \
only fires in some context, say which. Do not speak of latents, tokens, passages or numbers."""

CONFIDENCE = """\
a number from 0 to 1: the share of new passages on which you expect the label to decide rightly."""

_TYPES = {"reasoning": "string", "label": "string", "confidence": "number"}


class Asking(Explainer):
    """One request per latent, one label back. The answer is bound to a schema, checked and cleaned."""

    chain_of_thought: bool = False
    """Ask for some reasoning before the label, and keep it as evidence. Tokens of an answer cost about five times those
    of a question, and EleutherAI's report on automatic interpretation (2024) found no gain by it: not by default."""

    max_label_characters: int = Field(200, ge=20)
    """Longer labels are cut."""

    max_tokens: int = Field(1500, ge=1)
    """Most tokens of the answer, thinking included."""

    REASONING: ClassVar[str]
    """What the LLM is to reason about, where it is asked to."""

    def question(self) -> str:
        """The system prompt up to what is answered."""
        raise NotImplementedError

    def answers(self) -> dict[str, str]:
        """What the LLM is to answer under ``label`` and ``confidence``."""
        return {"label": LABEL, "confidence": CONFIDENCE}

    def shown(self, examples: LatentExamples) -> dict[str, Any]:
        """What it is shown of a latent, as JSON."""
        raise NotImplementedError

    def fitness(self, examples: LatentExamples) -> str:
        """``ok``, or the status of a latent that is not asked about."""
        raise NotImplementedError

    def requests(self, examples: LatentExamples) -> list[Request]:
        if self.fitness(examples) != "ok":
            return []
        fields = {"reasoning": self.REASONING, **self.answers()} if self.chain_of_thought else self.answers()
        system = f"{self.question()}\n\nWhat you answer:\n" + "\n".join(f'- "{n}": {text}' for n, text in fields.items())
        user = json.dumps(self.shown(examples), ensure_ascii=False)
        return [Request(system, user, _schema(fields), self.max_tokens)]

    def read(self, replies: list[Reply], examples: LatentExamples) -> Explanation:
        if not replies:
            status = self.fitness(examples)
            return Explanation(examples.latent, "missing" if status == "ok" else status)
        (reply,) = replies
        if reply.status != "ok":
            return Explanation(examples.latent, reply.status, evidence={"detail": reply.detail})
        answer = last_object(reply.text, lambda found: bool(_text(found, "label")))
        if answer is None:
            return Explanation(examples.latent, "unparsable", evidence={"text": reply.text[:2000]})
        reasoning = one_line(_text(answer, "reasoning"), 1000) if self.chain_of_thought else ""
        return Explanation(
            examples.latent, "ok", one_line(_text(answer, "label"), self.max_label_characters),
            fraction(answer.get("confidence")), evidence={"reasoning": reasoning} if reasoning else {},
        )  # fmt: skip


def _schema(fields: dict[str, str]) -> dict[str, Any]:
    properties = {name: {"type": _TYPES[name]} for name in fields}
    return {"type": "object", "properties": properties, "required": list(fields), "additionalProperties": False}


def _text(answer: Any, name: str) -> str:
    """A field of an answer if it is text with something in it that can be printed, else nothing."""
    found = answer.get(name) if isinstance(answer, dict) else None
    return found if isinstance(found, str) and one_line(found) else ""
