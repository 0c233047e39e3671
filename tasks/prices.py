"""What Claude models cost, and until when they answer: tables with dates, since both change.

Prices are US dollars per million tokens at the standard rate. Sources: model pages of platform.claude.com, read
November 2026; retirement dates from its page on model deprecations.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date

AS_OF = date(2026, 11, 20)
"""When the tables below were read."""

BATCH = 0.5
"""Message batches cost half, input and output, cached or not."""

CACHE_WRITE_5M, CACHE_WRITE_1H, CACHE_READ = 1.25, 2.0, 0.1
"""Price of cached input tokens, relative to plain ones."""


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens, of single requests: batches cost ``BATCH`` of it."""

    input: float
    output: float
    long_above: int | None = None
    """Prompt length in tokens above which everything costs ``long_factor`` times as much."""

    long_factor: float = 1.0

    batch: float = BATCH
    """Price in a batch, relative to the standard rate."""

    def batch_usd(
        self, input_tokens: int, output_tokens: int, write_5m: int = 0, write_1h: int = 0, read: int = 0
    ) -> float:
        """What one request costs in a batch. ``input_tokens`` are those outside the cache."""
        return self.batch * self.live_usd(input_tokens, output_tokens, write_5m, write_1h, read)

    def live_usd(
        self, input_tokens: int, output_tokens: int, write_5m: int = 0, write_1h: int = 0, read: int = 0
    ) -> float:
        """What one request costs by itself. ``input_tokens`` are those outside the cache; the rest were written to it
        for five minutes or an hour, or read from it."""
        weighted = input_tokens + CACHE_WRITE_5M * write_5m + CACHE_WRITE_1H * write_1h + CACHE_READ * read
        prompt = input_tokens + write_5m + write_1h + read
        factor = self.long_factor if self.long_above is not None and prompt > self.long_above else 1.0
        return factor * (self.input * weighted + self.output * output_tokens) / 1e6


PRICES = {
    "claude-haiku-5-5": Price(0.10, 0.50, long_above=100_000, long_factor=5.0),
    "claude-sonnet-5-5": Price(2.0, 10.0),
    "claude-opus-5-5": Price(4.0, 20.0),
    "claude-fable-5-1": Price(10.0, 50.0),
    "claude-fable-5": Price(10.0, 50.0),
    "claude-sonnet-5": Price(2.0, 10.0),
    "claude-opus-5": Price(5.0, 25.0),
    "claude-haiku-4-5": Price(1.0, 5.0),
}

RETIRED = {
    "claude-sonnet-4-5": date(2026, 11, 30),
    "claude-mythos-preview": date(2026, 6, 30),
    "claude-opus-4-0": date(2026, 6, 15),
    "claude-opus-4": date(2026, 6, 15),
    "claude-sonnet-4-0": date(2026, 6, 15),
    "claude-sonnet-4": date(2026, 6, 15),
    "claude-3-7-sonnet": date(2026, 2, 19),
    "claude-3-5-haiku": date(2026, 2, 19),
    "claude-3-opus": date(2026, 1, 5),
    "claude-3-5-sonnet": date(2025, 10, 28),
    "claude-3-sonnet": date(2025, 7, 21),
    "claude-2": date(2025, 7, 21),
}
"""Last day of each model that has one. The SDK warns of these too, but not for batches."""


def family(model: str) -> str:
    """The model without the date of its snapshot or ``-latest``."""
    return re.sub(r"-(\d{8}|latest)$", "", model)


def price_of(model: str) -> Price | None:
    """The price of a model, None where the table does not know it."""
    return PRICES.get(family(model))


def retirement(model: str, today: date | None = None) -> str | None:
    """A warning for a model that is retired or will be; None for the others."""
    last = RETIRED.get(family(model))
    if last is None:
        return None
    verb = "was retired" if (today or date.today()) > last else "will be retired"
    return f"client.model = {model!r}, but it {verb} on {last}; use a newer one, such as 'claude-haiku-5-5'"
