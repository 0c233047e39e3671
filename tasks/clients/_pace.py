"""How fast requests may leave: so many requests and tokens a minute, and not before a server wants to be asked."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

LONGEST_WAIT_SECONDS = 600.0
"""A server that asks for more patience than this is asked again after it all the same."""

PATIENCE_SECONDS = 3600.0
"""How long an API is waited for in all that is busy, or cannot be reached, before a run is ended."""

FIRST_WAIT_SECONDS, LONGEST_BACKOFF_SECONDS = 0.5, 30.0

BURST_SECONDS = 1.0
"""What may leave at once after a pause: as much as in this time."""


class Bucket:
    """An allowance that refills steadily. What is taken may exceed what is there; then the next one waits."""

    def __init__(self, per_minute: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = per_minute / 60 if per_minute else None
        self._most = max(1.0, (self._rate or 0.0) * BURST_SECONDS)
        self._level, self._clock, self._since = self._most, clock, clock()

    def wait_seconds(self) -> float:
        """Seconds until something may be taken."""
        if self._rate is None:
            return 0.0
        now = self._clock()
        self._level = min(self._most, self._level + (now - self._since) * self._rate)
        self._since = now
        return -self._level / self._rate if self._level < -1e-6 else 0.0

    def take(self, n: float) -> None:
        """Take from it; a negative number gives back."""
        if self._rate is not None:
            self._level -= n


class Pace:
    """When the next request may leave."""

    def __init__(
        self, requests_per_minute: float | None, tokens_per_minute: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._requests, self._tokens = Bucket(requests_per_minute, clock), Bucket(tokens_per_minute, clock)
        self._clock, self._not_before = clock, 0.0

    def wait_seconds(self) -> float:
        return max(self._requests.wait_seconds(), self._tokens.wait_seconds(), self._not_before - self._clock())

    async def turn(self, tokens: float) -> None:
        """Wait for the turn of a request that may use so many tokens, and take it."""
        while (wait := self.wait_seconds()) > 0:
            await asyncio.sleep(wait)
        self._requests.take(1)
        self._tokens.take(tokens)

    def used(self, taken: float, tokens: float) -> None:
        """A request that took an allowance of tokens used so many."""
        self._tokens.take(min(tokens, taken) - taken)

    def hold(self, seconds: float) -> None:
        """Let nothing leave for a while, since the server asks for it."""
        self._not_before = max(self._not_before, self._clock() + min(seconds, LONGEST_WAIT_SECONDS))


def backoff_seconds(tried: int, asked: float | None, draw: random.Random) -> float:
    """Seconds before a request is tried again: what the server asked for or else ever longer, and up to a quarter more,
    so that not all come back at once."""
    wait = min(FIRST_WAIT_SECONDS * 2 ** min(tried - 1, 16), LONGEST_BACKOFF_SECONDS)
    if asked is not None:
        wait = max(asked, 0.1 * wait)  # who says "at once" eight times is not asked eight times at once
    return min(wait, LONGEST_WAIT_SECONDS) * (1 + 0.25 * draw.random())
