"""Replies from a file: a run repeated, shared or tested with no key, no server and no cost.

``saint ledger --record`` writes such a file from a store's journal, as JSON lines or Parquet. A row answers one request,
which it names in one of two ways:

- ``digest`` and ``client``: the request's digest for a client, and that client's payload. So it is recorded, since
  journals keep digests and never prompts.
- ``system`` and ``user``: the two turns. So people write them.

Beside that it has ``text``, and where it is not just that: ``status``, ``detail``, ``input_tokens``, ``output_tokens``,
``logprobs``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

from artifacts.keys import canonical_json, digest_of
from tasks.clients._results import reply_of
from tasks.clients.base import Client, Reply, Request, Usage
from tasks.fingerprint import fingerprint
from tasks.lazy import pa, pq
from tasks.spec import SpecError

if TYPE_CHECKING:
    from artifacts.journal import Journal
    from tasks.progress import Progress
    from tasks.spec import Runtime

COLUMNS = ("digest", "client", "system", "user", "status", "text", "detail", "input_tokens", "output_tokens", "logprobs")
NESTED = ("client", "logprobs")
"""Columns that are JSON inside a Parquet file."""

BYTES_PER_TOKEN = 3.0


class Recorded(Client):
    """Whatever was answered before."""

    GIVES_LOGPROBS: ClassVar[bool] = True
    PAID: ClassVar[bool] = False
    kind: Literal["recorded"] = "recorded"

    path: str | None = None
    """File of replies: JSON lines or Parquet."""

    model: str | None = None
    """Whose replies, where the file holds those of several models; null is for files of one."""

    fingerprint: str | None = None
    """Of the file; filled in when a run is composed."""

    def payload(self) -> dict[str, Any]:
        """Contents count, not where they lie."""
        return {name: value for name, value in super().payload().items() if name != "path" or self.fingerprint is None}

    def pinned(self) -> Self:
        if not self.path or not Path(self.path).expanduser().is_file():
            raise SpecError(
                f"client.path = {self.path!r}, but no file is there; set it to a file of recorded replies, which "
                "saint ledger --record PATH writes"
            )
        path = Path(self.path).expanduser().absolute()
        found = self.model_copy(update={"path": str(path), "fingerprint": fingerprint(path)})
        found._replies()
        return found

    def check(self, runtime: Runtime) -> None:
        if not self.path:
            raise SpecError("client.path is null, but client 'recorded' replays a file; set it to one that saint ledger --record wrote")

    def estimate(self, requests: Iterable[Request]) -> Usage:
        """Tokens of the questions, at no cost."""
        sizes = [len(json.dumps(request.payload, ensure_ascii=False)) for request in requests]
        return Usage(sum(int(size / BYTES_PER_TOKEN) for size in sizes), 0, 0.0)

    def answer(
        self, requests: Iterable[Request], journal: Journal, runtime: Runtime, progress: Progress
    ) -> Iterator[Reply]:
        self.check(runtime)
        left = dict.fromkeys(self.digest(request) for request in requests)
        if not left:
            return
        if self.fingerprint is not None and fingerprint(self.path or "") != self.fingerprint:
            raise SpecError(
                f"client.path = {self.path!r}, but it is not the file any more that this run was planned with; "
                "put the old one back, or run again to use the new one"
            )
        replies = self._replies()
        with progress.bar("recorded", len(left), "replies") as bar:
            for request in requests:
                digest = self.digest(request)
                if digest in left:
                    del left[digest]
                    yield replies.of(digest, request, self.path)
                    bar.advance(1)

    def _replies(self) -> _Replies:
        path = Path(self.path or "")
        try:
            stat = path.stat()
            return _read(path, stat.st_mtime_ns, stat.st_size, self.model)
        except OSError as error:
            raise SpecError(f"client.path = {self.path!r}, but it cannot be read ({error.strerror}); mend that") from None


class _Replies(NamedTuple):
    """A file of replies, in memory."""

    by_digest: dict[str, dict[str, Any]]
    by_text: dict[tuple[str, str], dict[str, Any]]
    clients: list[dict[str, Any]]
    """Payloads of the clients that answered."""

    def of(self, digest: str, request: Request, path: str | None) -> Reply:
        row = self.by_text.get((request.system, request.user))
        asked = request.payload
        for client in self.clients:
            row = row or self.by_digest.get(digest_of(canonical_json({"client": client, "request": asked})))
        if row is None:
            detail = f"{path} holds no reply to this request; record a run that asked it"
            return Reply(digest, "missing", detail=detail, reused=True)
        return reply_of({"detail": "", "input_tokens": 0, "output_tokens": 0, **row, "usd": 0.0, "digest": digest}, True)


@lru_cache(maxsize=2)  # explaining and scoring read the same
def _read(path: Path, mtime: int, size: int, model: str | None) -> _Replies:
    found = _Replies({}, {}, [])
    for number, row in enumerate(_rows(path), 1):
        where = f"client.path = {str(path)!r}, but its row {number}"
        if not isinstance(row.get("text"), str) or not (row.get("digest") or isinstance(row.get("user"), str)):
            raise SpecError(f"{where} has no text, or neither digest nor user; use one that saint ledger --record wrote")
        client = row.pop("client", None) or {}
        if model is not None and row.get("digest") and client.get("model") != model:
            continue
        row.setdefault("status", "ok")
        if row.get("digest"):
            found.by_digest.setdefault(row["digest"], row)
            if client not in found.clients:
                found.clients.append(client)
        if isinstance(row.get("user"), str):
            found.by_text.setdefault((row.get("system") or "", row["user"]), row)
    if not found.by_digest and not found.by_text:
        whose = "no replies" if model is None else f"no replies of model {model!r}"
        raise SpecError(f"client.path = {str(path)!r}, but it holds {whose}; use one that saint ledger --record wrote")
    models = sorted({str(client.get("model")) for client in found.clients})
    if len(models) > 1:
        raise SpecError(
            f"client.model is null, but {path.name} holds replies of {', '.join(models)}; set client.model to one of them"
        )
    return found


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        if path.suffix == ".parquet":
            for batch in pq.ParquetFile(path).iter_batches(4096):
                for row in batch.to_pylist():
                    nested = {name: json.loads(row[name]) for name in NESTED if row.get(name)}
                    yield {name: value for name, value in {**row, **nested}.items() if value is not None}
            return
        with open(path, encoding="utf-8") as file:
            for line in file:
                if line.strip():
                    row = json.loads(line)
                    yield row if isinstance(row, dict) else {}
    except ValueError as error:  # of JSON, of UTF-8, and ArrowInvalid
        raise SpecError(
            f"client.path = {str(path)!r}, but it is neither JSON lines nor, as *.parquet, Parquet ({error}); "
            "use one that saint ledger --record wrote"
        ) from None


def record(journal: Journal, path: Path) -> int:
    """Write all final replies of a journal to a new file that ``Recorded`` replays; how many there are.

    Parquet when the name ends so, else JSON lines. Prompts are not in it, as they are not in the journal; entries of
    a time when journals did not tell who was asked are left out. Raises ``SpecError`` when there is nothing to write, or
    something in the way.
    """
    if path.exists():
        raise SpecError(f"{path}, but a file is there, and replies in it may be paid for; name one that is new")
    if not path.absolute().parent.is_dir():
        raise SpecError(f"{path}, but {path.absolute().parent} is no folder; make it, or name a file elsewhere")
    rows: dict[str, dict[str, Any]] = {}
    for entry, records in journal.entries():
        client = entry.client.get("spec")
        for found in (records or ()) if client is not None else ():
            if found["final"]:
                row = {name: found[name] for name in COLUMNS if name in found}
                rows.setdefault(found["digest"], {**row, "client": client})
    if not rows:
        raise SpecError(f"{path}, but this store holds no answers to record; name the store of a run that asked an LLM")
    ordered = [rows[digest] for digest in sorted(rows)]
    draft = path.with_name(f".{path.name}.tmp")
    if path.suffix == ".parquet":
        kinds = {"input_tokens": pa.int64(), "output_tokens": pa.int64()}
        schema = pa.schema([(name, kinds.get(name, pa.string())) for name in COLUMNS])
        flat = [{n: json.dumps(row[n]) if n in NESTED and n in row else row.get(n) for n in COLUMNS} for row in ordered]
        pq.write_table(pa.Table.from_pylist(flat, schema=schema), draft, compression="zstd")
    else:
        draft.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in ordered), encoding="utf-8")
    draft.replace(path)
    return len(ordered)
