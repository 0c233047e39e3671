"""Requests on their way to a live API: many at once, each noted before it leaves and each answer before it is told.

All of it runs in an event loop in a thread of its own, so that whoever asks may be in any thread, with a loop or
without. One task takes requests and has them noted a little ahead; one sends them at the pace and within the limit
that are set; each request is a task while it is tried; one writes what all of them note, a few at a time.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import queue
import random
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from artifacts.live import Live, asking, lost, unsent
from tasks.clients import _pace
from tasks.clients._batches_api import busy
from tasks.clients._failures import Failed, answer_of, failure
from tasks.clients._pace import Pace, backoff_seconds
from tasks.clients._results import UNREADABLE, unpaid
from tasks.clients._scribe import Scribe
from tasks.clients.base import ClientError, Request

if TYPE_CHECKING:
    from artifacts.journal import Journal
    from tasks.clients._live import LiveClient
    from tasks.spec import Runtime

DOUBTFUL_TRIES = 3
"""Times that a request is sent whose answer gets lost, since each time may have been paid for."""

GRACE_SECONDS = 10.0
"""How long answers in flight, which are paid for, are waited for when whoever asked goes away."""

FRUITLESS = 32
"""Requests in a row that come to nothing (or as many as may be in flight), after which there is no point in more."""


class Limit(Exception):
    """The next request may cost more than there is left."""


class Item(NamedTuple):
    request: Request
    digest: str
    most_usd: float
    most_tokens: int


class Flight:
    """The requests of one live entry. ``requests`` are gone through once, in another thread."""

    def __init__(
        self, client: LiveClient, connection: Any, requests: Iterator[Request], live: Live, journal: Journal,
        runtime: Runtime, note: Callable[[str], None] = lambda text: None,
    ) -> None:  # fmt: skip
        self.client, self.requests, self.live, self.journal, self.runtime = client, requests, live, journal, runtime
        self.note = note
        self._connection, self._host = connection, client.host(connection)
        self.error: BaseException | None = None
        self._out: queue.SimpleQueue[dict[str, Any] | str | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._hurried = False
        self._noted: dict[str, Item] = {}
        self._held: dict[str, float] = {}
        self._usd = 0.0
        self._fruitless = 0
        self._busy_since: float | None = None
        self._told_busy = False
        self._draw = random.Random()

    def records(self) -> Iterator[dict[str, Any]]:
        """A record for each request, once it is in the journal.

        Raises what ended the flight early, after what was in the air has landed: ``Limit``, ``ClientError``.
        """
        thread = threading.Thread(target=self._run, name=f"requests to {self.client.model}", daemon=True)
        thread.start()
        try:
            while (found := self._out.get()) is not None:
                if isinstance(found, str):  # told from here, since what shows progress belongs to this thread
                    self.note(found)
                    continue
                self._soon(self._room.release)
                yield found
        finally:
            self._hurried = True
            self._soon(lambda: self._stopping.set())
            thread.join()
        if self.error is not None:
            raise self.error

    def _soon(self, call: Any) -> None:
        with suppress(RuntimeError):  # the loop has ended
            if self._loop is not None:
                self._loop.call_soon_threadsafe(call)

    def _run(self) -> None:
        try:
            asyncio.run(self._fly())
        except BaseException as error:
            self.error = self.error or error
        finally:
            self._out.put(None)

    async def _fly(self) -> None:
        client = self.client
        self._stopping, self._landed = asyncio.Event(), asyncio.Event()
        self._scribe = Scribe(self.live)
        self._ahead = max(1, client.in_flight // 2)
        self._ready: asyncio.Queue[Item | None] = asyncio.Queue(self._ahead)
        self._slots, self._room = asyncio.Semaphore(client.in_flight), asyncio.Semaphore(8 * client.in_flight)
        self._pace = Pace(client.requests_per_minute, client.tokens_per_minute)
        self._flying: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        if self._hurried:
            return
        self._sdk = importlib.import_module(client.SDK)
        async with self._connection:
            writing = asyncio.create_task(self._scribe.write())
            workers = [asyncio.create_task(self._feed()), asyncio.create_task(self._send())]
            stopping = asyncio.create_task(self._stopping.wait())
            await asyncio.wait([workers[1], stopping], return_when=asyncio.FIRST_COMPLETED)
            if self._stopping.is_set():
                self._scribe.hurry()
            for task in [*workers, stopping]:
                task.cancel()
            for task in workers:
                with suppress(asyncio.CancelledError):
                    await task
            await self._land()
            with suppress(Exception):  # it is told already
                await self._scribe.note(*(unsent(digest) for digest in self._noted), urgent=True)
            writing.cancel()
            with suppress(asyncio.CancelledError):
                await writing

    async def _land(self) -> None:
        """Wait for what is in flight; not long, when nobody waits for it."""
        deadline = None
        while self._flying:
            if self._hurried:
                deadline = deadline or time.monotonic() + GRACE_SECONDS
                if time.monotonic() > deadline:
                    break
            await asyncio.wait(self._flying, timeout=0.1)
        for task in self._flying:
            task.cancel()
        await asyncio.gather(*self._flying, return_exceptions=True)

    def _fail(self, error: BaseException) -> None:
        self.error = self.error or error
        self._stopping.set()

    # from requests to the air

    async def _feed(self) -> None:
        """Note requests that are about to be sent, a few ahead of those that are."""
        try:
            while items := await asyncio.to_thread(self._next):
                self._noted |= {item.digest: item for item in items}
                await self._scribe.note(*(asking(item.digest, item.most_usd) for item in items), urgent=True)
                for item in items:
                    await self._ready.put(item)
            await self._ready.put(None)
        except Exception as error:
            self._fail(error)

    def _next(self) -> list[Item]:
        client = self.client
        return [
            Item(request, client.digest(request), client.most_usd(request), client.most_tokens(request))
            for request in itertools.islice(self.requests, self._ahead)
        ]

    async def _send(self) -> None:
        """Send what is noted, as fast as may be and no further than the limit."""
        while (item := await self._ready.get()) is not None:
            await self._slots.acquire()
            await self._room.acquire()
            await self._pace.turn(item.most_tokens)
            while not self._hold(item):
                if not self._held:
                    self._fail(Limit())
                    return
                self._landed.clear()
                await self._landed.wait()  # it may have cost less than it might
            del self._noted[item.digest]
            task = asyncio.create_task(self._ask(item))
            self._flying.add(task)
            task.add_done_callback(self._flying.discard)

    def _hold(self, item: Item) -> bool:
        """Whether the most that a request can cost is within the limit; then it is held for it."""
        held = self._held | {item.digest: item.most_usd}
        if not self.journal.pay(self.live.entry, self._usd + sum(held.values()), self.runtime.max_usd):
            return False
        self._held = held
        return True

    async def _ask(self, item: Item) -> None:
        """One request to its end."""
        try:
            began = time.monotonic()
            lines = await self._tried(item)
            record = lines[-1]
            self._held.pop(item.digest)
            self._usd += record.get("usd") or 0.0
            self.journal.pay(self.live.entry, self._usd + sum(self._held.values()))
            self._landed.set()
            self._slots.release()
            self._scribe.took(time.monotonic() - began)
            await self._scribe.note(*lines, urgent=not self._held)  # nothing comes soon after the last
            if record["status"] != "unsent":
                self._out.put(record)
        except Exception as error:
            self._fail(error)

    async def _tried(self, item: Item) -> list[dict[str, Any]]:
        """What to note of a request in the end: its record last, before it a try that may have been paid for."""
        tried = doubtful = 0
        began = time.monotonic()
        for sent in itertools.count(1):
            try:
                found = await self._answer(item)
            except Failed as error:
                failed = error
            else:
                self._fruitless, self._busy_since = 0, None
                self._pace.used(item.most_tokens, found["input_tokens"] + found["output_tokens"])
                return [found]
            tried += not failed.early
            over = not failed.again or tried >= self.client.tries or (failed.early and self._out_of_patience(began, str(failed)))
            if failed.stops:
                self._fail(ClientError(str(failed)))
                return [unsent(item.digest)]
            if failed.paid:
                doubtful += 1
                self._usd += item.most_usd
                over = over or doubtful >= DOUBTFUL_TRIES or not self._hold(item)
            wait = backoff_seconds(sent, failed.wait, self._draw)
            if failed.busy and not over:
                self._pace.hold(wait)
            lines = [lost(item.digest, item.most_usd)] if failed.paid else []
            if not (over or self._stopping.is_set()):
                if lines:
                    await self._scribe.note(*lines, urgent=True)
                await self._unless_stopping(self._turn_after(wait, item.most_tokens))
                lines = []
            if self._stopping.is_set() and not over:
                return [*lines, unsent(item.digest)]
            if over:
                self._give_up(str(failed))
                return [*lines, unpaid(item.digest, "errored", f"{failed} ({_times(sent)})", final=False)]
        raise AssertionError("the last try returns")

    def _out_of_patience(self, began: float, why: str) -> bool:
        """Whether a busy server was waited for long enough: by a request that began then, or by all without an answer."""
        now = time.monotonic()
        self._busy_since = self._busy_since or now
        if not self._told_busy:
            self._told_busy = True
            self._out.put(busy(self._host, why))
        return now - min(began, self._busy_since) > _pace.PATIENCE_SECONDS

    async def _turn_after(self, seconds: float, tokens: float) -> None:
        await asyncio.sleep(seconds)
        await self._pace.turn(tokens)

    async def _unless_stopping(self, waiting: Coroutine[Any, Any, None]) -> None:
        """Wait for something, or until nothing more is to be sent."""
        tasks = [asyncio.create_task(waiting), asyncio.create_task(self._stopping.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    async def _answer(self, item: Item) -> dict[str, Any]:
        """Send a request once. Raises ``Failed``."""
        try:
            async with asyncio.timeout(self.client.timeout_seconds):
                response = await self.client.post(self._connection, item.request)
        except Exception as error:
            raise failure(error, self._sdk, self._host) from None
        answer = answer_of(response, self._host)
        try:
            return self.client.record(item.digest, answer, item.request)
        except UNREADABLE as error:
            raise Failed(f"an answer of unknown form ({type(error).__name__})", again=True, paid=True) from None

    def _give_up(self, why: str) -> None:
        self._fruitless += 1
        if self._fruitless >= max(FRUITLESS, self.client.in_flight):
            self._fail(ClientError(
                f"{self._host} cannot be used now, but {self._fruitless} requests in a row came to nothing (the last: "
                f"{why}); nothing that was paid is lost: give the same command later"
            ))  # fmt: skip


def _times(n: int) -> str:
    return "1 try" if n == 1 else f"{n} tries"
