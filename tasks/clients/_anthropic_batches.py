"""Anthropic's message batches, behind what an exchange needs of them.

The API gives batches no name and echoes no request until it has answered them. What remains after a lost
acknowledgement is to list what was created since the intent, to wait for what may be ours, and to look at the ids in
its results, which name the intent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tasks.clients._batches_api import Batch, BatchAPI, Cut, NotFound, Unacknowledged, scrubbed
from tasks.clients._results import record_of
from tasks.clients.base import ClientError

if TYPE_CHECKING:
    from artifacts.journal import Entry
    from tasks.prices import Price


class BatchesAPI(BatchAPI):
    """``sleep`` is a seam for tests."""

    MOST_BYTES = 240_000_000  # the API takes 256 MB

    def __init__(self, base_url: str | None = None, sleep: Callable[[float], None] = time.sleep) -> None:
        import anthropic

        self._sdk, self._sleep = anthropic, sleep
        try:
            self._client = anthropic.Anthropic(
                base_url=base_url, max_retries=0, http_client=anthropic.DefaultHttpxClient(follow_redirects=False)
            )
        except anthropic.AnthropicError as error:
            raise ClientError(
                f"client: the SDK found no usable credentials ({scrubbed(str(error))}); mend them"
            ) from None
        self.host = str(self._client.base_url).rstrip("/")

    @property
    def has_credentials(self) -> bool:
        """Whether the environment or a profile gives the SDK anything to identify itself with."""
        return any((self._client.api_key, self._client.auth_token, self._client.credentials))

    def mark(self) -> dict[str, Any]:
        page = self._call(lambda: self._client.messages.batches.list(limit=1))
        return {"after": page.data[0].id if page.data else None}

    def create(self, entry: str, requests: Mapping[str, dict[str, Any]]) -> str:
        body = [{"custom_id": id, "params": params} for id, params in requests.items()]
        batch = self._call(lambda: self._client.messages.batches.create(requests=body), posts=True)
        if not isinstance(getattr(batch, "id", None), str):
            raise Unacknowledged(f"{self.host} answered a new batch with something else; give the same command again")
        return batch.id

    def retrieve(self, id: str) -> Batch | None:
        try:
            return self._batch(self._call(lambda: self._client.messages.batches.retrieve(id)))
        except NotFound:
            return None

    def candidates(self, entry: Entry) -> set[str]:
        n = len(entry.requests)
        newer = self._newer_than(entry.client.get("after"))
        return {batch.id for batch in newer if (batch.total == n if batch.ended else batch.processing <= n)}

    def _newer_than(self, marker: str | None) -> Iterator[Batch]:
        """Batches created after the one of that id (all, for None), newest first."""
        after: dict[str, str] = {}
        while True:
            page = self._call(lambda after=after: self._client.messages.batches.list(limit=100, **after))
            for batch in page.data:
                if batch.id == marker:
                    return
                yield self._batch(batch)
            if not page.has_more or not page.data:
                return
            after = {"after_id": page.data[-1].id}

    def is_of(self, id: str, entry: Entry) -> bool | None:
        batch = self.retrieve(id)
        if batch is None or batch.archived:
            return False
        if not batch.ended:
            return None
        results = self.results(batch)
        try:
            return any(str(line.get("custom_id")) in entry.requests for line in results)
        finally:
            results.close()

    def results(self, batch: Batch) -> Iterator[dict[str, Any]]:
        """Streamed from our host whatever ``results_url`` says."""
        import httpx2
        from anthropic._decoders.jsonl import JSONLDecoder

        path = f"/v1/messages/batches/{batch.id}/results"
        options = {"headers": {"Accept": "application/binary"}}
        lines = self._call(
            lambda: self._client.get(path, cast_to=JSONLDecoder[dict[str, object]], stream=True, options=options)
        )
        try:
            for line in lines:
                if not isinstance(line, dict):
                    raise Cut(f"a result of batch {batch.id} is no JSON object")
                yield line
        except (ValueError, httpx2.HTTPError, self._sdk.APIConnectionError) as error:
            raise Cut(f"the results of batch {batch.id} break off ({scrubbed(str(error))})") from None
        finally:
            lines.close()

    def record(self, digest: str, result: dict[str, Any], price: Price | None) -> dict[str, Any]:
        return record_of(digest, result.get("result"), price, scrubbed)

    def _batch(self, found: Any) -> Batch:
        counts = getattr(found, "request_counts", None)
        if counts is None:
            raise self._strange(found)
        total = counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired
        return Batch(
            id=found.id,
            ended=found.processing_status == "ended",
            processing=counts.processing,
            total=total,
            created=found.created_at,
            archived=found.archived_at is not None,
        )
