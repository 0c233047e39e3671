"""Explanations, the requests that ask for them, and the examples they are made from."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from tasks.clients.base import Reply, Request
from tasks.spec import Spec


@dataclass(frozen=True)
class Window:
    """Some tokens around a position, with one latent's activation at each."""

    window_id: str
    """Stable id: ``<split>/<document>/<row>`` of its centre."""

    split: str
    """``train`` (an explainer may see it) or ``test`` (only scorers see it)."""

    group: str
    """Of activating windows the sampler's: ``top``, ``quantile``, ``random``; of non-activating ones the kind in
    ``tasks/negatives``: ``random``, ``near_miss``, ``decoder``, ``encoder``, ``cooccurrence``, ``embedding``."""

    quantile: int
    """0 is the strongest; -1 for non-activating windows."""

    document_id: int
    tokens: tuple[str, ...]
    """Text of each token; joined they are the text of the window."""

    values: tuple[float, ...]
    """Activation of the latent at each token; 0 where it is silent."""

    peak: int
    """Index in ``tokens`` of the strongest (or, for a negative, the central) token."""

    starts_context: bool = False
    """Whether the first token is also the first of its context."""

    neighbour: int = -1
    """Of a non-activating window drawn for a similar latent: that latent; else -1."""

    similarity: float | None = None
    """How alike the neighbour is, 1 for equal; None without one."""

    @property
    def activating(self) -> bool:
        return max(self.values, default=0.0) > 0

    @property
    def text(self) -> str:
        return "".join(self.tokens)


@dataclass(frozen=True)
class Amplified:
    """What a language model does when a latent is amplified, beside what it does untouched (stage ``amplify``)."""

    strength: float
    """Multiple of the latent's largest activation that was added along its decoder row."""

    kl: float
    """KL(untouched || amplified) of next-token distributions in nats, mean over prompts."""

    raised: tuple[tuple[str, float], ...]
    """Tokens whose probability rises most, with the rise, mean over the prompts for explainers; most first."""

    lowered: tuple[tuple[str, float], ...]
    """Tokens whose probability falls most, with the change (< 0)."""

    prompts: tuple[str, ...]
    """Those at even places are for explainers, the others for scorers: see ``half``."""

    untouched: tuple[str, ...]
    """A continuation of each prompt by the model as it is."""

    steered: tuple[str, ...]
    """A continuation of each prompt with the latent amplified; same seed."""

    def half(self, scoring: bool) -> list[tuple[str, str, str]]:
        """Prompts with both continuations: those that explainers see, or those that only scorers do."""
        return list(zip(self.prompts, self.untouched, self.steered, strict=True))[int(scoring) :: 2]


@dataclass(frozen=True)
class Sentence:
    """A whole sentence on which a latent is active."""

    ranking: str
    """``mean``, ``max`` or ``last`` activation: by which it came among the sentences kept."""

    text: str
    value: float
    """In that ranking; > 0."""


@dataclass(frozen=True)
class LatentExamples:
    """All that an explainer or scorer may know of one latent."""

    latent: int
    n_fires: int
    density: float
    """Fraction of tokens on which it fires."""

    max_value: float
    windows: tuple[Window, ...]
    promoted: tuple[tuple[str, float], ...] = ()
    """Tokens that the decoder row pushes up through the unembedding, with logit; strongest first."""

    suppressed: tuple[tuple[str, float], ...] = ()
    amplified: Amplified | None = None
    """Only for kinds with ``amplify`` among their ``INPUTS``, and latents that were amplified."""

    sentences: tuple[Sentence, ...] = ()
    """Of the train split, by ranking, the highest first; only for kinds with ``corpus`` among their ``INPUTS``."""

    def train(self, activating: bool) -> list[Window]:
        return [w for w in self.windows if w.split == "train" and w.activating == activating]

    def test(self, activating: bool) -> list[Window]:
        return [w for w in self.windows if w.split == "test" and w.activating == activating]


@dataclass(frozen=True)
class Explanation:
    """What somebody says that a latent means, or why nobody could say it."""

    latent: int
    status: str
    """``ok``, or why there is none, which is data: ``too_few_examples``, ``unparsable``, the status of a reply that is not
    ``ok`` (``refused``, ``truncated``, ``errored``, ``expired``, ``canceled``, ``missing``), or what a kind adds
    (``none``, ``not_amplified``, ``not_single_token``, ``not_in_file``, ``no_other``)."""

    label: str = ""
    """One readable line; empty unless ``ok``."""

    confidence: float | None = None
    """The explainer's own, 0 to 1, where it states one."""

    predicate: dict[str, Any] | None = None
    """An executable rule, for explainers that give one; ``tasks.predicates`` runs it."""

    evidence: dict[str, Any] = field(default_factory=dict)
    """What led to it, as JSON: terms with log-odds, promoted tokens."""


class Explainer(Spec):
    """A kind of explainer. Pure: it makes requests and reads replies."""

    NEEDS_CLIENT: ClassVar[bool] = True

    INPUTS: ClassVar[frozenset[str]] = frozenset()
    """Artifacts that it rests on beside ``mine``: ``amplify``, ``corpus``."""

    SAYS: ClassVar[Literal["own", "other", "nothing"]] = "own"
    """Whose meaning it says: the latent's own; another's, as a baseline; or none."""

    GIVES_PREDICATE: ClassVar[bool] = False
    """Whether all its explanations are executable rules, so that no judge need be paid for those."""

    def check(self, n_latents: int | None = None, sae: str | None = None) -> None:
        """Raise ``SpecError`` when it cannot explain the latents of this SAE.

        ``sae`` is the address of the artifact with the SAE. None for what is not known yet.
        """

    def requests(self, examples: LatentExamples) -> list[Request]:
        """The requests that ask an LLM for an explanation; empty for explainers that need none."""
        return []

    def read(self, replies: list[Reply], examples: LatentExamples) -> Explanation:
        """The explanation that some replies (in the order of ``requests``) give."""
        raise NotImplementedError


def last_object(text: str, fits: Callable[[Any], bool]) -> Any:
    """The JSON in a text, or else the last JSON object in it, that fits; None when there is none.

    Servers that bind no answer to a schema put prose, fences or a draft before it, and braces may stand in any of them.
    """
    with suppress(ValueError, RecursionError):
        if fits(whole := json.loads(text)):
            return whole
    decoder = json.JSONDecoder()
    at = len(text)
    for _ in range(1000):  # what follows an answer holds fewer braces; a text of nothing else is not read for ever
        if (at := text.rfind("{", 0, at)) < 0:
            break
        with suppress(ValueError, RecursionError):
            found, _ = decoder.raw_decode(text, at)
            if fits(found):
                return found
    return None


def fraction(number: Any) -> float | None:
    """A number from 0 to 1 that came from outside; None for anything else: a label stands without a confidence."""
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number <= 1:
        return None
    return float(number)


def one_line(text: str, limit: int = 200) -> str:
    """A text that came from outside as one printable line: no control characters, terminal escapes or bidi marks."""
    kept = (" " if c.isspace() else c for c in text if c.isspace() or unicodedata.category(c)[0] != "C")
    line = " ".join("".join(kept).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "\u2026"


def printable(text: str) -> str:
    """A text that can be sent as UTF-8: lone halves of surrogate pairs become question marks."""
    return text.encode("utf-8", "replace").decode()
