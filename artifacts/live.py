"""What happened to requests that go out one by one: lines in parts, each of them durable before it is acted upon.

A line has the ``digest`` of a request and a ``status``:

- ``asking``: it is about to be sent; it may cost ``most_usd``.
- ``unsent``: it was about to be, but was not, or surely was not accepted.
- ``lost``: it was sent, and the answer was lost on the way; that may have cost ``most_usd``. It may be sent again.
- anything else is the end: the record of an answer, or of why there is none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from artifacts.backends.base import Backend
    from artifacts.journal import Entry

ASKING, UNSENT, LOST = "asking", "unsent", "lost"
UNDER_WAY = frozenset({ASKING, UNSENT, LOST})


class Live:
    """An entry of the journal that this process is asking. Not for several threads at once."""

    def __init__(
        self, entry: Entry, create: Callable[[str, Iterable[str]], bool], check: Callable[[], None]
    ) -> None:
        self.entry = entry
        self._create, self._check = create, check
        self._parts = 0

    def write(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Record lines, durably before it returns.

        Raises ``LeaseLost`` when another process has taken this one for dead: the lines are kept, but send no more.
        """
        self._create(f"live/{self.entry.id}.{self._parts:08d}.jsonl", (json.dumps(dict(line)) for line in lines))
        self._parts += 1
        self._check()


class Parts:
    """The parts in a folder."""

    def __init__(self, backend: Backend, folder: str) -> None:
        self._backend, self._folder = backend, folder

    def paths(self) -> dict[str, list[str]]:
        """Live entry to the paths of its parts, in order."""
        found: dict[str, list[str]] = {}
        for path in self._backend.paths(self._folder):
            if path.endswith(".jsonl"):
                found.setdefault(id_of(path), []).append(path)
        return found

    def lines(self, paths: Iterable[str]) -> Iterator[dict[str, Any]]:
        """All lines. Raises ``FileNotFoundError`` when a part is gone, since it became replies."""
        for path in paths:
            with self._backend.open(path) as file:
                for line in file:
                    yield json.loads(line)

    def ends(self, paths: Iterable[str]) -> Iterator[dict[str, Any]]:
        """The lines that are records."""
        return (line for line in self.lines(paths) if line.get("status") not in UNDER_WAY)


def id_of(path: str) -> str:
    """The entry that a path in a journal belongs to."""
    return path.rpartition("/")[2].partition(".")[0]


def asking(digest: str, most_usd: float) -> dict[str, Any]:
    return {"digest": digest, "status": ASKING, "most_usd": most_usd}


def unsent(digest: str) -> dict[str, Any]:
    return {"digest": digest, "status": UNSENT}


def lost(digest: str, most_usd: float) -> dict[str, Any]:
    return {"digest": digest, "status": LOST, "most_usd": most_usd}


def folded(lines: Callable[[], Iterator[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """One record for each request that was sent, from the lines of all parts, which are gone through twice.

    ``possibly_usd`` is the most that tries may have cost whose answers were lost. A request without an end (its
    process died) ends here, as ``lost``.
    """
    under_way: dict[str, float] = {}
    possibly: dict[str, float] = {}
    ended: set[str] = set()
    for line in lines():
        digest, status = line["digest"], line["status"]
        if status == ASKING:
            under_way[digest] = line["most_usd"]
        elif status == LOST:
            possibly[digest] = possibly.get(digest, 0.0) + line["most_usd"]
        else:
            under_way.pop(digest, None)
            if status != UNSENT:
                ended.add(digest)
    for line in lines():
        if line["status"] not in UNDER_WAY:
            yield {**line, "possibly_usd": possibly.get(line["digest"], 0.0)}
    for digest in dict.fromkeys([*under_way, *possibly]):
        if digest not in ended:
            most = under_way.get(digest, 0.0) + possibly.get(digest, 0.0)
            yield {"digest": digest, "status": LOST, "final": False, "text": "", "usd": 0.0, "possibly_usd": most,
                   "input_tokens": 0, "output_tokens": 0, "detail": "the process that asked ended first"}  # fmt: skip
