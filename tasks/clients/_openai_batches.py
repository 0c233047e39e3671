"""Batches of OpenAI-compatible servers, behind what an exchange needs of them: a file of requests goes up, a batch of
it is made, files of answers come down.

A batch carries metadata, so one whose acknowledgement was lost is known by the entry that it names; and where a server
keeps no metadata, by the name of its file. Uploads cost nothing: they are tried again, and what is left over is deleted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tasks.clients._batches_api import Batch, BatchAPI, Cut, NotFound, Unacknowledged, scrubbed
from tasks.clients._chat import bare
from tasks.clients._chat_results import record_of
from tasks.clients.base import ClientError

if TYPE_CHECKING:
    from artifacts.journal import Entry
    from tasks.prices import Price

ENDPOINT = "/v1/chat/completions"
TAG = "saint_entry"
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})

SLACK = timedelta(days=1)
"""By which clocks here and there may differ."""


class OpenAIBatchesAPI(BatchAPI):
    """``in_words``: the model is told its form in words only, see ``Chat.in_words``. ``sleep`` is a seam for tests."""

    MOST_BYTES = 190_000_000  # the API takes 200 MB

    def __init__(
        self, base_url: str | None = None, sleep: Callable[[float], None] = time.sleep, *, in_words: bool = False
    ) -> None:
        import openai

        self._sdk, self._sleep, self._in_words = openai, sleep, in_words
        try:
            self._client = openai.OpenAI(
                base_url=base_url, max_retries=0, http_client=openai.DefaultHttpxClient(follow_redirects=False)
            )
        except openai.OpenAIError as error:
            raise ClientError(
                f"client: the SDK found no usable credentials ({scrubbed(str(error))}); mend them"
            ) from None
        self.host = str(self._client.base_url).rstrip("/")

    def create(self, entry: str, requests: Mapping[str, dict[str, Any]]) -> str:
        lines = (
            json.dumps({"custom_id": id, "method": "POST", "url": ENDPOINT, "body": body}, ensure_ascii=False)
            for id, body in requests.items()
        )
        data = "\n".join(lines).encode() + b"\n"
        file = self._call(lambda: self._client.files.create(file=(_file_name(entry), data), purpose="batch"))
        if not isinstance(getattr(file, "id", None), str):
            raise self._strange(file)
        try:
            batch = self._call(
                lambda: self._client.batches.create(
                    input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h", metadata={TAG: entry}
                ),
                posts=True,
            )
        except Unacknowledged:
            raise
        except ClientError:
            self._delete(file.id)
            raise
        if not isinstance(getattr(batch, "id", None), str):
            raise Unacknowledged(f"{self.host} answered a new batch with something else; give the same command again")
        return batch.id

    def retrieve(self, id: str) -> Batch | None:
        try:
            return self._batch(self._call(lambda: self._client.batches.retrieve(id)))
        except NotFound:
            return None

    def candidates(self, entry: Entry) -> set[str]:
        """Exact: batches that name the entry. Goes through the whole list, since no order is promised."""
        return {batch.id for batch in self._listed(self._client.batches.list, entry) if self._names(batch, entry)}

    def _names(self, batch: Any, entry: Entry) -> bool:
        if batch.metadata:
            return batch.metadata.get(TAG) == entry.id
        try:
            file = self._call(lambda: self._client.files.retrieve(batch.input_file_id))
        except NotFound:
            return False
        return file.filename == _file_name(entry.id)

    def is_of(self, id: str, entry: Entry) -> bool | None:
        return True

    def results(self, batch: Batch) -> Iterator[dict[str, Any]]:
        import httpx2

        for file in batch.files:
            opened = self._call(lambda file=file: self._client.files.with_streaming_response.content(file).__enter__())
            try:
                for line in _lines(opened.iter_bytes()):
                    if not line.strip():
                        continue
                    found = json.loads(line)
                    if not isinstance(found, dict):
                        raise Cut(f"a result of batch {batch.id} is no JSON object")
                    yield found
            except (ValueError, httpx2.HTTPError, self._sdk.APIConnectionError) as error:
                raise Cut(f"the results of batch {batch.id} break off ({scrubbed(str(error))})") from None
            finally:
                opened.close()

    def record(self, digest: str, result: dict[str, Any], price: Price | None) -> dict[str, Any]:
        found = record_of(digest, result, price, scrubbed)
        return {**found, "text": bare(found["text"])} if self._in_words and "logprobs" not in found else found

    def forget(self, entry: Entry, batch: Batch | None) -> None:
        """Delete the file of requests: nobody reads it again."""
        with suppress(ClientError):  # it costs nothing where it is
            if batch is not None:
                self._delete(batch.input)
                return
            for file in self._listed(self._client.files.list, entry, purpose="batch"):
                if file.filename == _file_name(entry.id):
                    self._delete(file.id)

    def _delete(self, file: str) -> None:
        with suppress(ClientError):
            self._call(lambda: self._client.files.delete(file))

    def _listed(self, list: Callable[..., Any], entry: Entry, **query: Any) -> Iterator[Any]:
        """What was created since an intent; stops early where what is listed grows older."""
        after: dict[str, Any] = {}
        last = None
        while True:
            page = self._call(lambda after=after: list(limit=100, **query, **after))
            for item in page.data:
                created = datetime.fromtimestamp(item.created_at, UTC)
                if created >= entry.when - SLACK:
                    yield item
                elif last is not None and last > created:
                    return
                last = created
            if not getattr(page, "has_more", False) or not page.data:
                return
            after = {"after": page.data[-1].id}

    def _batch(self, found: Any) -> Batch:
        status = getattr(found, "status", None)
        if not isinstance(status, str):
            raise self._strange(found)
        counts = found.request_counts
        done, failed, total = (counts.completed, counts.failed, counts.total) if counts else (0, 0, 0)
        rest = {"expired": ("expired", "expired"), "cancelled": ("canceled", "canceled")}.get(status)
        return Batch(
            id=found.id,
            ended=status in ENDED,
            processing=max(0, total - done - failed),
            total=total,
            created=datetime.fromtimestamp(found.created_at, UTC),
            rest=("errored", _why(found)) if status == "failed" else rest,
            n_answered=done,
            files=tuple(file for file in (found.output_file_id, found.error_file_id) if file),
            input=found.input_file_id,
        )


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines as JSON lines have them: U+2028 and its like, at which others end a line too, may stand in a text."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    yield rest


def _file_name(entry: str) -> str:
    return f"saint-{entry}.jsonl"


def _why(batch: Any) -> str:
    """What a server says of a batch that it did not work on at all."""
    told = (batch.errors.data if batch.errors else None) or []
    return scrubbed("; ".join(f"{e.code}: {e.message}" for e in told[:3])) or "the batch was not accepted"
