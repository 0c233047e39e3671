"""What this process has spent, in US dollars: several stages of one run share one limit.

Batches that another process sent and did not live to fetch are spent by the one that waits for them.
"""

from __future__ import annotations

import threading

_spent: dict[str, dict[str, float]] = {}
"""Journal folder to what each of its entries costs."""

_lock = threading.Lock()


def spent(journal: str) -> float:
    """US dollars paid for answers in a journal, or to be paid at most for those in flight."""
    with _lock:
        return sum(_spent.get(journal, {}).values())


def pay(journal: str, entry: str, usd: float, limit: float | None = None) -> bool:
    """Set what an entry costs, unless more than ``limit`` would be spent then: then it is False and nothing changes."""
    with _lock:
        found = _spent.setdefault(journal, {})
        if limit is not None and sum(found.values()) - found.get(entry, 0.0) + usd > limit:
            return False
        found[entry] = usd
        return True


def forget(journal: str, entry: str) -> None:
    """An entry costs nothing after all."""
    with _lock:
        _spent.get(journal, {}).pop(entry, None)
