"""Progress of long work, told to whoever listens. Stages report; ``flows`` decides what people see."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Bar(Protocol):
    """One running piece of work."""

    def advance(self, n: float = 1, **figures: Any) -> None:
        """``n`` more units are done; ``figures`` are the latest numbers to show (``fvu=0.12``)."""


class Progress:
    """Silent progress; listeners subclass it and override ``started``, ``advanced``, ``finished`` and ``note``."""

    @contextmanager
    def bar(self, label: str, total: float | None = None, unit: str = "") -> Iterator[Bar]:
        """A bar over ``total`` units (None when unknown), open for the time of the ``with`` block."""
        running = Running(self, label, total, unit)
        self.started(running)
        try:
            yield running
        finally:
            self.finished(running)

    def started(self, bar: Running) -> None: ...
    def advanced(self, bar: Running) -> None: ...
    def finished(self, bar: Running) -> None: ...

    def note(self, text: str) -> None:
        """One line a person should see once (an expected size, a warning)."""

    def event(self, what: str, **facts: Any) -> None:
        """Something that the record of a run keeps: ``made`` an artifact, ``waiting`` for a device; facts are JSON."""


class Both(Progress):
    """Progress told to two listeners."""

    def __init__(self, one: Progress, other: Progress) -> None:
        self._two = (one, other)

    def started(self, bar: Running) -> None:
        for listener in self._two:
            listener.started(bar)

    def advanced(self, bar: Running) -> None:
        for listener in self._two:
            listener.advanced(bar)

    def finished(self, bar: Running) -> None:
        for listener in self._two:
            listener.finished(bar)

    def note(self, text: str) -> None:
        for listener in self._two:
            listener.note(text)

    def event(self, what: str, **facts: Any) -> None:
        for listener in self._two:
            listener.event(what, **facts)


class Running:
    """A bar that is open: what was done, since when, and the latest figures."""

    def __init__(self, progress: Progress, label: str, total: float | None, unit: str) -> None:
        self.progress, self.label, self.total, self.unit = progress, label, total, unit
        self.done: float = 0
        self.figures: dict[str, Any] = {}
        self.since = time.monotonic()

    def advance(self, n: float = 1, **figures: Any) -> None:
        self.done += n
        self.figures.update(figures)
        self.progress.advanced(self)
