"""What a person sees while a run works: one live display on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tasks.progress import Progress, Running

LINE_SECONDS = 10.0


@contextmanager
def display() -> Iterator[Progress]:
    """A listener for progress, shown on standard error."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Rich

    columns = (
        TextColumn("{task.description:24}"),
        BarColumn(24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Rich(*columns, console=Console(stderr=True), refresh_per_second=4, speed_estimate_period=20) as rich:
        yield Live(rich)


def said(figures: dict[str, Any]) -> str:
    """Figures on one line: ``fvu 0.081  tokens/s 41,000``."""
    names = {"tokens_per_second": "tokens/s"}
    return "  ".join(
        f"{names.get(name, name)} {value:,}" if isinstance(value, (int, float)) else f"{name} {value}"
        for name, value in figures.items()
    )


class Live(Progress):
    """Bars of Rich; stages report from any thread."""

    def __init__(self, rich: Any) -> None:
        self._rich = rich
        self._bars: dict[int, Any] = {}

    def started(self, bar: Running) -> None:
        total = None if bar.total is None else round(bar.total)
        self._bars[id(bar)] = self._rich.add_task(bar.label, total=total, unit=bar.unit, figures="")

    def advanced(self, bar: Running) -> None:
        self._rich.update(self._bars[id(bar)], completed=round(bar.done), figures=said(bar.figures))

    def finished(self, bar: Running) -> None:
        self._rich.stop_task(self._bars.pop(id(bar)))

    def note(self, text: str) -> None:
        self._rich.console.print(text, markup=False, highlight=False)


class Lines(Progress):
    """A line per bar when it ends, and every ten seconds while it runs."""

    def __init__(self) -> None:
        self._last: dict[int, float] = {}
        self._lock = threading.Lock()

    def started(self, bar: Running) -> None:
        self._last[id(bar)] = time.monotonic()

    def advanced(self, bar: Running) -> None:
        if time.monotonic() - self._last[id(bar)] >= LINE_SECONDS and bar.done != bar.total:  # of the end, ``finished`` tells
            self._last[id(bar)] = time.monotonic()
            self._print(bar)

    def finished(self, bar: Running) -> None:
        self._last.pop(id(bar), None)
        self._print(bar)

    def note(self, text: str) -> None:
        with self._lock:
            print(text, file=sys.stderr, flush=True)

    def _print(self, bar: Running) -> None:
        of = f" of {round(bar.total):,}" if bar.total else ""
        seconds = time.monotonic() - bar.since
        self.note(f"{bar.label}: {round(bar.done):,}{of} {bar.unit} in {seconds:.0f} s  {said(bar.figures)}".rstrip())


def clean(text: str) -> str:
    """Without control characters: what came from a corpus or an API must not drive a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def print_json(value: Any) -> int:
    """Print a value as JSON; returns exit code 0."""
    print(json.dumps(value, indent=1, default=str))
    return 0


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], right: Sequence[str] = ()) -> None:
    """Rows under a header on standard output; ``right`` are the columns that hold numbers."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        grid.add_column(name, justify="right" if name in right else "left", no_wrap=name != "figures")
    for row in rows:
        grid.add_row(*(Text(clean(str(cell))) for cell in row))
    Console(width=None if sys.stdout.isatty() else 160).print(grid)


def size(n: float | None) -> str:
    """Bytes as a person reads them."""
    n = float(n or 0)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n < 1000 or unit == "TB":
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return ""
