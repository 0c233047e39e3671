"""Capture activations: text through a language model, the rows at some hookpoints to disk.

A shard is some consecutive documents of one split; an artifact is one shard at one hookpoint. Hookpoints of a shard
are captured in one forward pass that stops after the deepest. Contexts are bucketed by length and padded on the right;
rows are stored in the order of the text, whatever the batches were. Padding, BOS and other special tokens are not stored.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from tasks.corpus import documents
from tasks.lazy import np, pc, pq, torch
from tasks.lm.buckets import batches, blocks, limited
from tasks.lm.contexts import Context, contexts
from tasks.lm.hookpoints import Hookpoint
from tasks.lm.recording import Recording
from tasks.spec import Spec, SpecError
from tasks.stage import Job, Unit, stage

if TYPE_CHECKING:
    import pyarrow as pa

    from tasks.lm.language_model import LanguageModel

BLOCK_BATCHES = 8
"""Batches of tokens whose contexts are sorted by length together: more pad less, and hold more rows in memory."""


class CaptureSpec(Spec):
    """What is captured: which text, where in the model, in which precision."""

    hookpoint: str = "layers.0"
    """``layers.8``: residual stream after block 8 (0-based); ``layers.8.mlp``, ``layers.8.attn``: what they add to it. Further sites
    are in ``tasks.lm.hookpoints``."""

    split: Literal["train", "validation", "test"] = "train"
    """Part of the corpus; splits share no document."""

    shard: int = Field(0, ge=0)
    """Which of the shards, from 0."""

    n_shards: int = Field(1, ge=1)
    """Parts that the split is cut into, whole documents each, about equal in characters."""

    context_tokens: int = Field(256, ge=2)
    """Longest context in tokens, BOS included."""

    context: Literal["document", "sentence"] = "document"
    """``document``: consecutive sentences share a context while they fit; ``sentence``: each has its own."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision that the language model computes in."""

    store_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision of the rows on disk: 2 or 4 bytes a number."""

    codec: Literal["crc32c", "blosc"] = "crc32c"
    """``crc32c``: uncompressed, fastest; ``blosc``: zstd, about a third smaller, a seventh of the reading speed."""

    max_tokens: int | None = Field(None, ge=1)
    """Rows of a shard at most, counted in whole contexts; null takes all of its text."""

    @model_validator(mode="after")
    def _fits(self) -> CaptureSpec:
        if self.shard >= self.n_shards:
            raise SpecError(
                f"capture.shard = {self.shard}, but capture.n_shards is {self.n_shards}; use 0 to {self.n_shards - 1}"
            )
        Hookpoint.parse(self.hookpoint)
        return self


def row_bytes(d: int, spec: CaptureSpec) -> int:
    """Bytes of a stored row, uncompressed: ``d`` numbers and four int32 of where they came from."""
    return d * (4 if spec.store_dtype == "float32" else 2) + 16


class Expected(NamedTuple):
    """What a capture will come to, before any of it is done."""

    n_tokens: int
    n_bytes: int
    flops: float
    """Of the forward pass, attention scores left out."""


def expected(n_chars: int, facts: Any, spec: CaptureSpec) -> Expected:
    """Size and work of capturing ``n_chars`` of text at one hookpoint, over all shards of a split.

    ``facts`` has n_layers and d_model, and vocab_size and the widths within blocks where they are known. English takes about 4.4
    characters a token under GPT-2's 50,257 pieces and 2.0 under 512, and lies on the line between them in the logarithm of the
    vocabulary.
    """
    vocab_size = getattr(facts, "vocab_size", None) or 50257
    per_token = max(1.0, 4.4 + 0.523 * math.log(vocab_size / 50257))
    n_tokens = round(n_chars / per_token)
    if spec.max_tokens is not None:
        n_tokens = min(n_tokens, spec.max_tokens * spec.n_shards)
    d, at = facts.d_model, Hookpoint.parse(spec.hookpoint)
    row = row_bytes(at.width(facts) or d, spec)
    n_blocks = at.layer + 1
    return Expected(n_tokens, n_tokens * row, 2.0 * n_tokens * n_blocks * 12 * d * d)


def cuts(n_chars: Sequence[int], n_shards: int) -> list[int]:
    """Documents at which shards begin, and their number: shard i is documents cuts[i] to cuts[i + 1].

    A document goes where its first character lies when the text is cut into equal parts, but every shard gets one.
    """
    starts = [0, *accumulate(n_chars)]
    total, n = starts[-1] or 1, len(n_chars)
    found = [0]
    for shard in range(1, n_shards):
        even = next((i for i in range(found[-1], n) if starts[i] * n_shards >= total * shard), n)
        found.append(max(found[-1] + 1, min(even, n - (n_shards - shard))))
    return [*found, n]


@stage("capture", version=1, together="hookpoint", tags=("gpu",))
def capture(units: Iterator[Unit]) -> None:
    """Capture shards, with one language model for all of them."""
    lane: _Lane | None = None
    for unit in units:
        lane = lane or _Lane(unit[0])
        lane.make(unit)


class _Lane:
    """A language model and a corpus, kept from one shard to the next."""

    def __init__(self, job: Job[CaptureSpec]) -> None:
        self.corpus, self.lm = job.one("corpus"), job.one("lm")
        self.runtime, self.progress = job.runtime, job.progress
        self.model: LanguageModel | None = None
        self._loaded: tuple[str, int] | None = None
        self._checked: set[str] = set()
        """Hookpoints of the loaded model that were held against it."""
        self._told = False

    def make(self, unit: Unit) -> None:
        """Capture one shard at the hookpoints of its jobs."""
        spec: CaptureSpec = unit[0].spec
        text = self._text(spec)
        model = self._model(spec, [job.spec.hookpoint for job in unit])
        outputs = {job.spec.hookpoint: _recording(job, model.d_at(job.spec.hookpoint)) for job in unit}
        found = contexts(
            text, model.tokenizer, model.bos_token_id, spec.context_tokens, spec.context, self.corpus.summary["joiner"]
        )
        todo = blocks(limited(found, spec.max_tokens), BLOCK_BATCHES * self.runtime.lm_batch_tokens)
        pace = _Pace()
        first = next(todo, [])  # timed, so that a person learns at once what the rest will take
        pace.add(self._run(first, model, outputs))
        total = self._expect(unit, text, first, pace, sum(row_bytes(output.d, spec) for output in outputs.values()))
        label = f"capture {spec.split} {spec.shard + 1}/{spec.n_shards}"
        with self.progress.bar(label, total, "tokens") as bar:
            bar.advance(pace.n_tokens, tokens_per_second=pace.tokens_per_second)
            for block in todo:
                for job in unit:
                    job.attempt.check()
                pace.begin()
                n = pace.add(self._run(block, model, outputs))
                bar.advance(n, tokens_per_second=pace.tokens_per_second)
        for job in unit:
            output = outputs[job.spec.hookpoint]
            output.close()
            job.summary.update(
                n_rows=output.n_rows,
                n_contexts=output.n_contexts,
                d_in=output.d,
                hookpoint=job.spec.hookpoint,
                split=spec.split,
                tokens_per_second=pace.tokens_per_second,
            )

    def _model(self, spec: CaptureSpec, hookpoints: list[str]) -> LanguageModel:
        """The model down to the deepest hookpoint at least, its hooks checked against its own hidden states."""
        layer = max(Hookpoint.parse(hookpoint).layer for hookpoint in hookpoints)
        longest = self.lm.summary.get("context_length")
        if longest and spec.context_tokens > longest:
            raise SpecError(
                f"capture.context_tokens = {spec.context_tokens}, but the language model reads at most {longest} tokens; "
                f"use {longest}"
            )
        if self.model is None or self._loaded is None or self._loaded[0] != spec.dtype or self._loaded[1] < layer:
            from tasks.lm.language_model import LanguageModel

            self.model = None  # the old one's memory goes before the new one comes
            # One block more than is run: the hidden state of the last loaded block cannot be checked, being normed.
            self.model = LanguageModel.open(self.lm, self.runtime, dtype=spec.dtype, n_layers=layer + 2)
            self._loaded, self._checked = (spec.dtype, layer), set()
        if not self._checked.issuperset(hookpoints):
            self.model.check_hooks(hookpoints)
            self._checked.update(hookpoints)
        return self.model

    def _text(self, spec: CaptureSpec) -> pa.Table:
        """The sentences of a shard."""
        table = documents(self.corpus, spec.split)
        n_chars = table["n_chars"].to_pylist()
        if len(n_chars) < spec.n_shards:
            raise SpecError(
                f"capture.n_shards = {spec.n_shards}, but the split {spec.split} has {len(n_chars)} documents; "
                f"use at most {len(n_chars)}, or more text"
            )
        where = cuts(n_chars, spec.n_shards)
        first, last = table["document_id"][where[spec.shard]], table["document_id"][where[spec.shard + 1] - 1]
        self._share = sum(n_chars[where[spec.shard] : where[spec.shard + 1]]) / max(sum(n_chars), 1)
        return pq.read_table(
            self.corpus.path / "sentences.parquet",
            filters=[
                ("split", "=", spec.split),
                ("document_id", ">=", first.as_py()),
                ("document_id", "<=", last.as_py()),
            ],
        )

    def _run(self, block: list[Context], model: LanguageModel, outputs: dict[str, Recording]) -> int:
        """Forward passes over some contexts, and their rows to disk in the order of the contexts; how many rows."""
        if not block:
            return 0
        lengths = np.array([int(context.keep.sum()) for context in block])
        starts = np.concatenate([[0], np.cumsum(lengths)])
        for output in outputs.values():
            output.begin(int(starts[-1]))
        with torch.inference_mode():
            for batch in batches(block, self.runtime.lm_batch_tokens):
                found = model.activations(batch.token_BT, batch.mask_BT, list(outputs))
                rows = torch.from_numpy(np.concatenate([np.arange(starts[i], starts[i + 1]) for i in batch.members]))
                for hookpoint, x_BTD in found.items():
                    outputs[hookpoint].take(x_BTD[batch.keep_BT.to(x_BTD.device)], rows)
        columns = (
            np.concatenate([context.token_id[context.keep] for context in block]),
            np.concatenate([np.flatnonzero(context.keep) for context in block]),
            np.concatenate([context.sentence_id[context.keep] for context in block]),
            np.repeat([context.document_id for context in block], lengths),
        )
        for hookpoint, output in outputs.items():
            if not output.write(*columns, lengths):
                raise SpecError(
                    f"capture.dtype = {output.attributes['dtype']!r}, but {hookpoint} has values in it that are not finite; "
                    "use float32 or bfloat16"
                )
        return int(starts[-1])

    def _expect(self, unit: Unit, text: pa.Table, first: list[Context], pace: _Pace, bytes_per_row: int) -> int:
        """Rows of this shard, from how many the text of its first block came to. Tells a person of all shards, once."""
        if not first:
            return 0
        spec: CaptureSpec = unit[0].spec
        chars = np.cumsum(pc.utf8_length(text["text"]).to_numpy())
        last = np.searchsorted(text["sentence_id"].to_numpy(), first[-1].sentence_id[-1])
        n = max(pace.n_tokens, round(pace.n_tokens * chars[-1] / max(chars[last], 1)))
        if spec.max_tokens is not None:
            n = min(n, max(spec.max_tokens, pace.n_tokens))
        if not self._told:
            self._told = True
            shards = 1 / max(self._share, 1e-9) if spec.max_tokens is None else spec.n_shards
            where = ", ".join(job.spec.hookpoint for job in unit)
            self.progress.note(
                f"capture {spec.split} at {where}: about {n * shards / 1e6:,.2f} M tokens, "
                f"{n * shards * bytes_per_row / 1e9:,.2f} GB, {n * shards / max(pace.tokens_per_second, 1):,.0f} s "
                f"in {spec.n_shards} shards, of which those that exist are not made again"
            )
        return n


def _recording(job: Job[CaptureSpec], d: int) -> Recording:
    spec = job.spec
    attributes = {name: getattr(spec, name) for name in ("hookpoint", "split", "dtype")}
    return Recording(job.out, d, store_dtype=spec.store_dtype, codec=spec.codec, attributes=attributes)


class _Pace:
    """Tokens and the seconds that they took."""

    def __init__(self) -> None:
        self.n_tokens, self.seconds = 0, 0.0
        self.begin()

    def begin(self) -> None:
        self._since = time.monotonic()

    def add(self, n_tokens: int) -> int:
        self.n_tokens += n_tokens
        self.seconds += time.monotonic() - self._since
        return n_tokens

    @property
    def tokens_per_second(self) -> int:
        return round(self.n_tokens / max(self.seconds, 1e-9))
