"""What clients that are paid share: prices, estimates, the limit on spending, and how the three are told."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, model_validator

from tasks.clients.base import Client, ClientError, Request, Usage
from tasks.prices import Price, price_of, retirement
from tasks.spec import SpecError, without_password

if TYPE_CHECKING:
    from tasks.progress import Progress
    from tasks.spec import Runtime

BYTES_PER_TOKEN = 2.5
"""A low guess, so that estimates err on the dear side: our prompts are JSON, which has short tokens."""

OVERHEAD_TOKENS = 50
"""What an API adds to a prompt, as a rule; ``MOST_OVERHEAD_TOKENS`` is what it may add, for a schema above all."""

MOST_OVERHEAD_TOKENS = 600


class Priced(Client):
    """A client that costs money by the token."""

    model: str
    """Model id."""

    price_input: float | None = Field(None, ge=0)
    """US dollars per million input tokens, before any discount for batches; null takes our table. Never enters a key."""

    price_output: float | None = Field(None, ge=0)
    """US dollars per million output tokens, before any discount for batches; null takes our table. Never enters a key."""

    NOT_ASKED: ClassVar[frozenset[str]] = frozenset({"price_input", "price_output"})
    """Fields that change no answer."""

    @model_validator(mode="after")
    def _both_prices(self) -> Self:
        if (self.price_input is None) != (self.price_output is None):
            raise SpecError(
                f"client.price_input = {self.price_input}, but client.price_output = {self.price_output}; "
                "set both or none"
            )
        return self

    def payload(self) -> dict[str, Any]:
        return {name: value for name, value in super().payload().items() if name not in self.NOT_ASKED}

    @property
    def price(self) -> Price | None:
        """What is paid, as configured or from our table."""
        if self.price_input is not None and self.price_output is not None:
            return Price(self.price_input, self.price_output)
        return price_of(self.model)

    def usd(self, input_tokens: int, output_tokens: int) -> float | None:
        """What one request costs in the way that this client asks; None without a price."""
        return self.price.live_usd(input_tokens, output_tokens) if self.price else None

    def check_price(self, runtime: Runtime) -> None:
        """Raise ``SpecError`` when there is a limit on spending that no price could hold to."""
        if self.price is None and runtime.max_usd is not None:
            raise SpecError(
                f"client.model = {self.model!r}, but its price is not in our table, so runtime.max_usd could not be "
                "kept; set client.price_input and client.price_output (US dollars per million tokens), or "
                "runtime.max_usd=none for no limit"
            )

    def check_address(self, runtime: Runtime, sdk: str) -> None:
        """Raise ``SpecError`` for an address with a password in it; ``sdk`` is how its environment variables begin."""
        without_password(runtime.base_url, "runtime.base_url", sdk)
        without_password(getattr(self, "base_url", None), "client.base_url", sdk)
        without_password(os.environ.get(f"{sdk}_BASE_URL"), f"{sdk}_BASE_URL", sdk)

    def estimate(self, requests: Iterable[Request]) -> Usage:
        """The most that some requests should cost: every answer as long as it may be. Dollars None without a price."""
        input_tokens = output_tokens = 0
        usd = 0.0
        for request in requests:
            asked = OVERHEAD_TOKENS + int(n_bytes(request) / BYTES_PER_TOKEN)
            input_tokens += asked
            output_tokens += request.max_tokens
            usd += self.usd(asked, request.max_tokens) or 0.0
        return Usage(input_tokens, output_tokens, usd if self.price else None)

    def most_usd(self, request: Request) -> float:
        """The most that one request can cost whatever it says: no token is shorter than a byte. 0 without a price."""
        return self.usd(MOST_OVERHEAD_TOKENS + n_bytes(request), request.max_tokens) or 0.0

    def foreseen(self, requests: Iterable[Request]) -> tuple[Usage, float]:
        """The estimate of some requests, and the US dollars that they cannot pass together; goes through them once."""
        most = 0.0

        def passing() -> Iterator[Request]:
            nonlocal most
            for request in requests:
                most += self.most_usd(request)
                yield request

        return self.estimate(passing()), most

    def most_tokens(self, request: Request) -> int:
        """Tokens that one request should take at most, input and output."""
        return OVERHEAD_TOKENS + int(n_bytes(request) / BYTES_PER_TOKEN) + request.max_tokens


def n_bytes(request: Request) -> int:
    """Length of all that a request says."""
    return len(json.dumps(request.payload, ensure_ascii=False).encode())


def of(client: Priced, requests: Iterable[Request], digests: set[str]) -> Iterator[Request]:
    """The requests that have these digests, each once."""
    left = set(digests)
    for request in requests:
        if not left:
            return
        if (digest := client.digest(request)) in left:
            left.discard(digest)
            yield request


def announced(
    client: Priced, likely: Usage, most: float, n: int, n_asked: int, spent: float, limit: float | None
) -> str:
    """What is about to be sent, in a line."""
    usd = "at a price that is not known" if likely.usd is None else f"about ${likely.usd:.4f}, at most ${most:.4f}"
    return (
        f"{n:,} of {n_asked:,} requests go to {client.model}: about {likely.input_tokens:,} tokens "
        f"in, at most {likely.output_tokens:,} out, {usd}; "
        f"spent so far ${spent:.4f}, {'no limit' if limit is None else f'limit ${limit:g}'}"
    )


def beyond(client: Priced, likely: Usage, most: float, n: int, spent: float, limit: float) -> ClientError:
    """The error of a limit that ends a run."""
    return ClientError(
        f"runtime.max_usd = {limit:g}, but {n:,} requests to {client.model} may cost ${most:.4f} (about "
        f"${likely.usd or 0.0:.4f} is likely) and ${spent:.4f} is spent; set "
        f"runtime.max_usd={math.ceil(100 * (spent + most)) / 100}, which is surely enough, or ask about fewer latents"
    )


def warn(client: Priced, host: str, progress: Progress) -> None:
    """Tell of a model that is on its way out, and of a line that others can read."""
    if warning := retirement(client.model):
        progress.note(warning)
    if not host.startswith(("https://", "http://127.0.0.1", "http://localhost", "http://[::1]")):
        progress.note(f"{host} is not encrypted, but the key and the corpus go through it; use https")
