"""What explaining and scoring share: which latents, all questions put at once, one latent's trouble kept to itself."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from artifacts.errors import ArtifactError
from tasks.clients.base import Client, ClientError, Reply, Request
from tasks.lazy import pa, pq
from tasks.replies import Replies
from tasks.spec import SpecError

if TYPE_CHECKING:
    from tasks.explainers.base import LatentExamples, Sentence
    from tasks.stage import Job

T = TypeVar("T")

_ROWS = 2000
"""Rows gathered before they are written."""


def shown(job: Job, latents: Sequence[int]) -> Iterator[LatentExamples]:
    """All that explainers and scorers may know of some latents, in ascending order; bounded memory."""
    from tasks.mine import examples

    amplified = {}
    if "amplify" in job.inputs:
        from tasks.amplify import amplified as read

        amplified = read(job.one("amplify"))
    latents = sorted(set(latents))
    sentences: Iterable[tuple[Sentence, ...]] = itertools.repeat(())
    if "corpus" in job.inputs:
        from tasks.mining.sentences import ranked_sentences

        sentences = ranked_sentences(job.one("mine").path, job.one("corpus").path, latents)
    for found, ranked in zip(examples(job.one("mine"), latents), sentences, strict=False):
        yield dataclasses.replace(found, amplified=amplified.get(found.latent), sentences=ranked)


class Questions(Iterable[Request]):
    """Requests that are made anew each time they are gone through, so that they need not be held."""

    def __init__(self, make: Callable[[], Iterator[Request]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[Request]:
        return self._make()


def ask(job: Job, client: Client, make: Callable[[], Iterator[Request]]) -> Mapping[str, Reply]:
    """All replies by digest. Raises ``ClientError`` when there are questions and not one came to an answer."""
    replies, answered = Replies(), False
    reasons: Counter[str] = Counter()
    for reply in client.answer(Questions(make), job.journal, job.runtime, job.progress):
        replies.add(reply)
        if reply.status in ("errored", "expired", "canceled", "missing"):
            reasons[f"{reply.status} ({reply.detail})"] += 1
        else:
            answered = True
    job.attempt.check()
    if replies and not answered:
        ((why, n),) = reasons.most_common(1)
        raise ClientError(
            f"{len(replies):,} requests were sent to the LLM, but not one was answered, {n:,} of them: {why}; "
            "mend that and give the same command, which asks again only what can still be answered"
        )
    return replies


class Troubles:
    """Exceptions of single latents: kept, so that the others go on, and raised when there are no others."""

    NOT_OURS = (SpecError, ClientError, ArtifactError, OSError, MemoryError)
    """What is wrong with the run, not with a latent."""

    def __init__(self) -> None:
        self.found: dict[Hashable, Exception] = {}
        self.fine: set[Hashable] = set()

    def around(self, whose: Hashable, work: Callable[[], T], otherwise: Callable[[str], T]) -> T:
        """What ``work`` returns, or ``otherwise`` of what went wrong in it."""
        try:
            result = work()
        except self.NOT_OURS:
            raise
        except Exception as error:  # kinds are open to all comers; the status column tells of it
            self.found[whose] = error
            return otherwise(f"{type(error).__name__}: {error}")
        self.fine.add(whose)
        return result

    def raise_if_all(self) -> None:
        """Raise the first exception when no latent came through: then it is the kind that is broken."""
        if self.found and not self.fine - self.found.keys():
            raise next(iter(self.found.values()))


class Rows:
    """A Parquet file written a few rows at a time."""

    def __init__(self, path: Path, schema: Any) -> None:
        self._schema, self._rows = schema, []
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")

    def add(self, **row: Any) -> None:
        self._rows.append(row)
        if len(self._rows) >= _ROWS:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is None and self._rows:
            self._flush()
        self._writer.close()


class Bill:
    """Tokens and dollars of some replies, each counted once."""

    def __init__(self) -> None:
        self.input_tokens = self.output_tokens = 0
        self.usd: float | None = 0.0
        self.reused_usd = 0.0
        self._seen: set[str] = set()

    def add(self, replies: Iterable[Reply]) -> None:
        for reply in replies:
            if reply.digest in self._seen:
                continue
            self._seen.add(reply.digest)
            self.input_tokens += reply.usage.input_tokens
            self.output_tokens += reply.usage.output_tokens
            self.usd = None if self.usd is None or reply.usage.usd is None else self.usd + reply.usage.usd
            self.reused_usd += (reply.usage.usd or 0.0) if reply.reused else 0.0

    def summary(self) -> dict[str, Any]:
        """What all answers cost, and which part of it had been paid before."""
        return {
            "usd": None if self.usd is None else round(self.usd, 8),
            "usd_paid_before": round(self.reused_usd, 8),
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
        }


def paid_now(summary: Mapping[str, Any]) -> float:
    """What an artifact's answers cost beyond those that had been paid for before: such sums count no answer twice."""
    return max(0.0, (summary.get("usd") or 0.0) - (summary.get("usd_paid_before") or 0.0))
