"""Writing what happens to requests into the journal, a few lines at a time, each before it is acted upon."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from artifacts.live import Live

FLUSH_SECONDS = 0.2
"""Answers that come within this time are written together; or within a tenth of what an answer takes, if that is more,
up to ``LONGEST_FLUSH_SECONDS``. They are what a killed process loses besides what was in flight."""

LONGEST_FLUSH_SECONDS = 2.0


class Scribe:
    """The one task that writes."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._pending: list[tuple[tuple[Mapping[str, Any], ...], asyncio.Future[None]]] = []
        self._wake, self._urgent, self._hurry = asyncio.Event(), asyncio.Event(), False
        self._seconds = 0.0

    def note(self, *lines: Mapping[str, Any], urgent: bool = False) -> asyncio.Future[None]:
        """Done once lines are in the journal; without delay when it is urgent. Raises what writing raises."""
        done = asyncio.get_running_loop().create_future()
        self._pending.append((lines, done))
        self._wake.set()
        if urgent:
            self._urgent.set()
        return done

    def took(self, seconds: float) -> None:
        """An answer took so long."""
        self._seconds += 0.2 * (seconds - self._seconds)

    def hurry(self) -> None:
        """From now on everything is urgent."""
        self._hurry = True
        self._urgent.set()

    async def write(self) -> None:
        """Write what others note, together with what comes soon after. Ends when it is cancelled."""
        while True:
            await self._wake.wait()
            if not self._hurry:
                window = min(max(FLUSH_SECONDS, 0.1 * self._seconds), LONGEST_FLUSH_SECONDS)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._urgent.wait(), window)
            self._wake.clear()
            self._urgent.clear()
            pending, self._pending = self._pending, []
            lines = [line for noted, _ in pending for line in noted]
            error: Exception | None = None
            try:
                if lines:
                    await asyncio.to_thread(self._live.write, lines)
            except Exception as caught:
                error = caught
            for _, done in pending:
                if done.cancelled():
                    continue
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)
