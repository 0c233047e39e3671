"""One fact that was looked at, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "wrong"]


@dataclass(frozen=True)
class Check:
    """A line of ``saint doctor``."""

    name: str
    status: Status
    """``warning``: a run will do, but a person should know. ``wrong``: a run fails, or is not safe."""

    found: str
    todo: str = ""
    """Empty when there is nothing to do."""


def from_error(name: str, error: Exception, status: Status = "wrong") -> Check:
    """A check that failed with an error in our grammar: the fact before its last semicolon, the remedy after it."""
    found, mark, todo = " ".join(str(error).split()).rpartition("; ")
    return Check(name, status, found, todo) if mark else Check(name, status, todo or type(error).__name__)
