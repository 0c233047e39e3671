"""Requests to an LLM, its replies, and what a client promises."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from artifacts.keys import canonical_json, digest_of
from tasks.spec import Runtime, Spec

if TYPE_CHECKING:
    from artifacts.journal import Journal
    from tasks.progress import Progress


class ClientError(RuntimeError):
    """The LLM API could not be used; the message says whether to wait, to pay or to mend something."""


@dataclass(frozen=True)
class Request:
    """One question. Equal content means equal digest, and an equal digest is never paid for twice."""

    system: str
    user: str
    schema: dict[str, Any] | None = None
    """JSON schema that the answer must follow."""

    max_tokens: int = 1024
    """Most tokens of the answer, thinking included."""

    logprobs: int = 0
    """Alternatives wanted at each token of the answer, with their log-probabilities, from clients that can give them
    (``Client.GIVES_LOGPROBS``); others answer without."""

    @cached_property
    def payload(self) -> dict[str, Any]:
        asked = {"system": self.system, "user": self.user, "schema": self.schema, "max_tokens": self.max_tokens}
        return {**asked, "logprobs": self.logprobs} if self.logprobs else asked


@dataclass(frozen=True)
class Usage:
    """Tokens of one reply, and what they cost in US dollars (None where no price is known)."""

    input_tokens: int = 0
    output_tokens: int = 0
    usd: float | None = 0.0


class TokenLogprobs(NamedTuple):
    """One token of an answer, and what else might have stood there."""

    token: str
    logprob: float
    """Natural logarithm."""

    top: dict[str, float]
    """The likeliest tokens there, with their log-probabilities."""


@dataclass(frozen=True)
class Reply:
    """One answer, or why there is none."""

    digest: str
    """Of the request and the client's spec; see ``Client.digest``."""

    status: str
    """``ok``, ``refused``, ``truncated``, ``errored``, ``expired``, ``canceled``, ``missing``."""

    text: str = ""
    usage: Usage = field(default_factory=Usage)
    detail: str = ""
    """What the API said, where the status is not ``ok``."""

    reused: bool = False
    """True when the journal had it, so nothing was paid now."""

    logprobs: tuple[TokenLogprobs, ...] | None = None
    """One per token of ``text``, where they were asked for and the client gives them."""

    def json(self) -> Any:
        """The answer parsed as JSON. Raises ``ValueError`` when it is not JSON."""
        return json.loads(self.text)


class Client(Spec):
    """A kind of client. Its spec (model, effort) is what was asked of whom; addresses and limits are runtime."""

    GIVES_LOGPROBS: ClassVar[bool] = False

    PAID: ClassVar[bool] = True
    """Whether somebody sends a bill: such clients have a price, keep ``runtime.max_usd``, and need a key."""

    def digest(self, request: Request) -> str:
        """The content address of a request put to this client."""
        return digest_of(canonical_json({"client": self.payload(), "request": request.payload}))

    def check(self, runtime: Runtime) -> None:
        """Raise ``SpecError`` when this client cannot work here (no key, unknown model). Sends nothing."""

    def estimate(self, requests: Iterable[Request]) -> Usage:
        """Tokens and dollars expected, from the text alone."""
        raise NotImplementedError

    def answer(
        self, requests: Iterable[Request], journal: Journal, runtime: Runtime, progress: Progress
    ) -> Iterator[Reply]:
        """One reply for each different request, in any order; see the digest for which. Journals before it waits.

        ``requests`` is a list, or anything else that can be gone through more than once: of many requests only the
        digests are kept. Raises ``ClientError`` when the API cannot be used at all, or ``max_usd`` would be passed.
        """
        raise NotImplementedError
