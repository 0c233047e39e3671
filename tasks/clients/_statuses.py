"""What HTTP statuses of LLM APIs mean, to clients that ask at once and to those of batches alike."""

from __future__ import annotations

SURELY_NOT_ACCEPTED = frozenset({400, 401, 402, 403, 404, 405, 413, 415, 422, 429, 431, 503, 529})
"""Answers to a POST after which nothing was done, or paid for. After any other failure it may have been."""

PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
"""After which the same request may succeed. Those from 520 are of proxies that stand before an API, which may have
taken what it was sent, and 529 is Anthropic's way to say that it is overloaded."""

BUSY = frozenset({429, 503, 529})
"""Those that concern all requests: nothing else is sent either until the server wants to be asked again."""

UNPAID = frozenset({"insufficient_quota", "billing_error", "billing_hard_limit_reached", "billing_not_active"})
"""Names of errors that a bill stands behind, whatever the status."""


def too_early(status: int, wait: float | None) -> bool:
    """Whether a server says no more than that it is busy, so that the request counts as not tried yet.

    So does 429, and the others of ``BUSY`` if they tell when to come again (``wait``); else they may be a server that is
    gone behind a proxy that is not.
    """
    return status == 429 or (status in BUSY and wait is not None)
