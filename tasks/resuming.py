"""Long work in parts: the rows of each part are kept as soon as there are any, and a killed run goes on from them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from artifacts.attempt import Attempt

Row = dict[str, Any]


class Parts:
    """A file in an attempt's scratch with a line of JSON for each part: its name, and its rows."""

    def __init__(self, attempt: Attempt, name: str) -> None:
        self._attempt, self._name = attempt, name
        self._path = attempt.recover(name) or attempt.scratch / name
        self._known: set[str] = set()
        whole = 0
        if self._path.exists():
            with self._path.open("rb") as lines:
                for line in lines:
                    if not line.endswith(b"\n"):
                        break  # cut off by a crash
                    whole += len(line)
                    self._known.add(json.loads(line)["part"])
            with self._path.open("rb+") as file:
                file.truncate(whole)

    def __contains__(self, part: str) -> bool:
        return part in self._known

    def add(self, part: str, rows: list[Row]) -> None:
        """Keep the rows of a part. Raises ``LeaseLost`` when another process has taken over."""
        with self._path.open("a") as file:
            file.write(json.dumps({"part": part, "rows": rows}) + "\n")
        self._known.add(part)
        self._attempt.check()
        self._attempt.save(self._name)

    def rows(self) -> Iterator[Row]:
        """All rows, part after part, in the order of their making; one part in memory at a time."""
        if self._path.exists():
            with self._path.open() as lines:
                for line in lines:
                    yield from json.loads(line)["rows"]
