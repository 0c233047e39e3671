"""Signals that end a process from outside: SIGTERM of batch systems, SIGHUP of a terminal that closes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any


def hear(act: Callable[[int], None]) -> Callable[[], None]:
    """Have ``act`` called with the number of such a signal; returns what undoes this. SIGHUP stays ignored where it is (``nohup``).

    After the first of either, SIGHUP is ignored for good: a terminal that closes sends it twice, by the shell and by the kernel,
    and the second would break off what the first has begun. What is printed from then on goes nowhere: to write to a
    terminal that is gone is an error, in the place of whatever was to be told.
    """
    terminals = [file for file in (1, 2) if os.isatty(file)]

    def heard(number: int, frame: Any) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        if number == signal.SIGHUP:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for file in terminals:
                os.dup2(nowhere, file)
        act(number)

    numbers = [signal.SIGTERM, *([signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else [])]
    before = {number: signal.signal(number, heard) for number in numbers}

    def undo() -> None:
        for number, handler in before.items():
            if signal.getsignal(number) is heard:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    return undo
