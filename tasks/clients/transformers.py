"""A causal language model on this machine as the LLM: no key, no bill, no text that leaves the house.

Requests are answered in batches of like length, greedily, by one ``generate`` call each. Answers under a schema are held
to it (``_constrained``), so even a tiny model's can be read. Each batch is in the journal once it is done: the same
request is not computed again, and a killed run goes on where it was.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar

from pydantic import Field

from tasks.clients._priced import of
from tasks.clients._results import reply_of, unpaid
from tasks.clients.base import Client, Reply, Request, Usage
from tasks.spec import SpecError

if TYPE_CHECKING:
    from artifacts.journal import Journal
    from tasks.clients._local_lm import Generated, LocalLM, Prompt
    from tasks.progress import Progress
    from tasks.spec import Runtime

T = TypeVar("T")

BYTES_PER_TOKEN = 3.0
POOL = 32
"""Batches' worth of requests that are sorted by length together, and held meanwhile."""


class Transformers(Client):
    """Any causal language model of transformers 5: a local folder, or the hub by id and commit. Safetensors only."""

    GIVES_LOGPROBS: ClassVar[bool] = True
    PAID: ClassVar[bool] = False
    NOT_ASKED: ClassVar[frozenset[str]] = frozenset({"batch_requests"})

    kind: Literal["transformers"] = "transformers"

    path: str | None = None
    """Local folder with config.json, safetensors and tokenizer.json; null when ``hub_id`` is given."""

    hub_id: str | None = None
    """Id on the Hugging Face hub, such as ``Qwen/Qwen3-4B-Instruct-2507``."""

    revision: str | None = None
    """Commit on the hub, 40 hex characters."""

    fingerprint: str | None = None
    """Of the local folder; filled in when a run is composed."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of weights and activations; auto takes the checkpoint's own."""

    context_tokens: int | None = Field(None, ge=16)
    """Longest prompt with its answer; null takes what the model was made for. More is only for trying out the way, with a
    model whose positions have no end."""

    max_string_characters: int = Field(400, ge=1)
    """Longest string in an answer under a schema that sets no limit itself."""

    batch_requests: int = Field(16, ge=1)
    """Most requests answered at a time. Never enters a key."""

    def payload(self) -> dict[str, Any]:
        """Contents count, not where they lie."""
        unasked = self.NOT_ASKED | (frozenset({"path"}) if self.fingerprint is not None else frozenset())
        return {name: value for name, value in super().payload().items() if name not in unasked}

    @property
    def model(self) -> str:
        """A name for people."""
        return self.hub_id or (self.path or "").rstrip("/").rpartition("/")[2]

    def pinned(self) -> Self:
        from tasks.lms.hf import HF

        try:
            found = HF(path=self.path, hub_id=self.hub_id, revision=self.revision).pinned()
        except SpecError as error:
            raise SpecError(str(error).replace("lm.", "client.").replace("lm 'hf'", "client 'transformers'")) from None
        return self.model_copy(update={n: getattr(found, n) for n in ("path", "revision", "fingerprint")})

    def check(self, runtime: Runtime) -> None:
        if not (self.path or self.hub_id):
            raise SpecError("client.path and client.hub_id are both null, but client 'transformers' needs a model; set one")
        if importlib.util.find_spec("llguidance") is None:
            raise SpecError(
                "client = 'transformers', but the package llguidance is not installed; pip install 'saint-sae[local]'"
            )

    def estimate(self, requests: Iterable[Request]) -> Usage:
        """Tokens, at no cost."""
        asked = [(len(json.dumps(r.payload, ensure_ascii=False).encode()), r.max_tokens) for r in requests]
        return Usage(sum(int(size / BYTES_PER_TOKEN) for size, _ in asked), sum(most for _, most in asked), 0.0)

    def answer(
        self, requests: Iterable[Request], journal: Journal, runtime: Runtime, progress: Progress
    ) -> Iterator[Reply]:
        left = dict.fromkeys(self.digest(request) for request in requests)
        with progress.bar(self.model, len(left), "replies") as bar:
            for reply in self._replies(requests, left, journal, runtime, progress):
                del left[reply.digest]
                bar.advance(1)
                yield reply

    def _replies(
        self, requests: Iterable[Request], left: dict[str, None], journal: Journal, runtime: Runtime, progress: Progress
    ) -> Iterator[Reply]:
        """Those in the journal first; what another process computes is left to it."""
        while left:
            with ExitStack() as stack:
                with journal.sending():
                    theirs = journal.claimed(left)
                    answered = journal.lookup(left).answered
                    mine = [digest for digest in left if digest not in theirs and digest not in answered]
                    who = {"kind": self.kind, "model": self.model, "spec": self.payload()}
                    live = stack.enter_context(journal.asking(who, mine)) if mine else None
                for id in dict.fromkeys(answered.values()):
                    for record in journal.replies(id):
                        if record["final"] and answered.get(record["digest"]) == id:
                            yield reply_of(record, reused=True)
                if live is not None:
                    for records in self._computed(of(self, requests, set(mine)), runtime, progress):
                        live.write(records)
                        yield from (reply_of(record, reused=False) for record in records)
                    for digest in mine:
                        if digest in left:  # or it would be waited for without end
                            yield Reply(digest, "missing", detail="the request was not made again")
                elif left:
                    time.sleep(min(journal.poll_seconds, runtime.poll_seconds))

    def _computed(
        self, requests: Iterator[Request], runtime: Runtime, progress: Progress
    ) -> Iterator[list[dict[str, Any]]]:
        """The journal's records of answers, a batch at a time, with the device held."""
        from tasks.clients._local_lm import forget
        from tasks.devices import before_freed, guarded

        self.check(runtime)
        with guarded(runtime, progress):
            before_freed(runtime, forget)
            yield from self._by(self._opened(runtime), requests)

    def _by(self, lm: LocalLM, requests: Iterator[Request]) -> Iterator[list[dict[str, Any]]]:
        for pool in _parts(requests, POOL * self.batch_requests):
            prompts = sorted((lm.prompt(request) for request in pool), key=lambda p: (p.budget > 0, len(p.token)))
            full = [p for p in prompts if p.budget < 1]
            if full:
                yield [self._too_long(p, lm) for p in full]
            for batch in _parts(iter(prompts[len(full) :]), self.batch_requests):
                answers = lm.answers(batch, self.max_string_characters)
                yield [self._record(p, g) for p, g in zip(batch, answers, strict=True)]

    def _opened(self, runtime: Runtime) -> LocalLM:
        from tasks.clients._local_lm import opened
        from tasks.lm.loading import device_of

        if self.fingerprint is not None:
            self._check_unchanged()
        source = self.path or self.hub_id or ""
        return opened(source, self.revision, self.path is not None, self.dtype, device_of(runtime), self.context_tokens)

    def _check_unchanged(self) -> None:
        if (now := self.pinned().fingerprint) != self.fingerprint:
            raise SpecError(
                f"client.path = {self.path!r}, but its files have fingerprint {now[:12]}..., not "
                f"{self.fingerprint[:12]}... as when this run was planned; put the old files back, or run again"
            )

    def _record(self, prompt: Prompt, given: Generated) -> dict[str, Any]:
        status, detail = "ok", ""
        if not given.ended:
            status, detail = "truncated", f"stopped after {given.n_tokens:,} tokens"
        elif not given.text.strip():
            status, detail = "errored", "an empty answer"
        found = {**unpaid(self.digest(prompt.request), status, detail, final=True), "text": given.text,
                 "input_tokens": len(prompt.token), "output_tokens": given.n_tokens, "model": self.model}  # fmt: skip
        return found if given.logprobs is None else {**found, "logprobs": given.logprobs}

    def _too_long(self, prompt: Prompt, lm: LocalLM) -> dict[str, Any]:
        detail = (
            f"the prompt has {len(prompt.token):,} tokens, but {self.model} reads {lm.context_tokens:,}; "
            "show fewer or shorter windows, or use a model with a longer context"
        )
        return unpaid(self.digest(prompt.request), "errored", detail, final=True)


def _parts(items: Iterator[T], n: int) -> Iterator[list[T]]:
    while part := list(islice(items, n)):
        yield part
