"""Replies of an LLM on their way from the client to whoever reads them: kept on disk where they are many.

A run over a whole dictionary has a hundred thousand replies, and with log-probabilities each is some 100 kB of objects.
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterator, Mapping

from tasks.clients.base import Reply

_IN_MEMORY = 1 << 25
"""Bytes kept in memory before a temporary file takes over."""


class Replies(Mapping[str, Reply]):
    """Replies by digest. Only digests and places are held; a reply is read anew each time it is asked for."""

    def __init__(self, in_memory: int = _IN_MEMORY) -> None:
        self._file = tempfile.SpooledTemporaryFile(in_memory)  # noqa: SIM115 - closed with the last reference
        self._places: dict[str, tuple[int, int]] = {}
        self._end = 0

    def add(self, reply: Reply) -> None:
        """Keep a reply, in place of an earlier one to the same request."""
        data = pickle.dumps(reply, pickle.HIGHEST_PROTOCOL)
        self._file.seek(self._end)
        self._file.write(data)
        self._places[reply.digest] = self._end, len(data)
        self._end += len(data)

    def __getitem__(self, digest: str) -> Reply:
        begin, size = self._places[digest]
        self._file.seek(begin)
        return pickle.loads(self._file.read(size))  # our own bytes, of this process

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
