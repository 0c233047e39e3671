"""The two paid batch APIs, side by side: a fake server, a client, and results in each one's words."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from artifacts import ledger
from artifacts.journal import Journal
from tasks.clients import _pace
from tasks.clients.base import Reply, Request
from tasks.progress import Progress
from tasks.spec import Runtime
from tests import fake_anthropic, fake_openai_batches
from tests.fault import batch_child

KEY = "sk-canary-key"


class Notes(Progress):
    """What was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


class Watched(Progress):
    """Looks at something whenever a batch is looked at."""

    def __init__(self, look: Callable[[], None]) -> None:
        self.look, self.n_looks = look, 0

    def advanced(self, bar: Any) -> None:
        self.n_looks += 1
        self.look()


def shown(params: dict[str, Any]) -> str:
    """The user's turn of a request."""
    return params["messages"][-1]["content"]


@dataclass(frozen=True)
class Side:
    """One API."""

    kind: str
    words: ModuleType
    refusal: dict[str, Any]
    cut_short: dict[str, Any]
    behind_thinking: dict[str, Any]
    passing: dict[str, Any]
    """An error of the API's, which may not come again."""

    @property
    def expired(self) -> dict[str, Any]:
        return self.words.EXPIRED

    @property
    def canceled(self) -> dict[str, Any]:
        return self.words.CANCELED

    @property
    def counts(self) -> dict[str, str]:
        """What the API calls its counts of tokens."""
        claude = {"in": "input_tokens", "out": "output_tokens"}
        return claude if self.kind == "anthropic_batch" else {"in": "prompt_tokens", "out": "completion_tokens"}

    def server(self, **switches: Any) -> Any:
        served = {"anthropic_batch": fake_anthropic.FakeAnthropic, "openai_batch": fake_openai_batches.FakeOpenAIBatches}
        return served[self.kind](**{"answer": lambda params: "{}", **switches})

    def client(self, **fields: Any) -> Any:
        return batch_child.client(self.kind).model_copy(update=fields)

    def ask(self, api: Any, root: Path, n: int = 5, notes: Progress | None = None, client: Any = None, **limits: Any) -> list[Reply]:
        """All replies to ``n`` questions, which go out in batches of two."""
        runtime = Runtime(base_url=api.url, poll_seconds=0.02, **limits)
        return list((client or self.client()).answer(questions(n), Journal(root), runtime, notes or Progress()))

    def distort(self, api: Any, text: str, odd: dict[str, Any]) -> None:
        """Have the server put its answers to questions with a text oddly: ``usage`` (with ``in`` and ``out``) or
        ``content``. It is paid as always."""
        claude, lines = self.kind == "anthropic_batch", api.lines
        usage = odd.get("usage")
        usage = {self.counts[name]: n for name, n in usage.items()} if isinstance(usage, dict) else usage

        def spoilt(batch: Any, *a: Any) -> list[bytes]:
            asked = {r["custom_id"]: shown(r["params" if claude else "body"]) for r in batch.requests}
            found = [json.loads(line) for line in lines(batch, *a)]
            for line in found:
                if text in asked[line["custom_id"]]:
                    answer = line["result"]["message"] if claude else line["response"]["body"]
                    message = answer if claude else answer["choices"][0]["message"]
                    if "usage" in odd:
                        answer["usage"] = usage
                    else:
                        message["content"] = odd["content"]
            return [json.dumps(line).encode() + b"\n" for line in found]

        api.lines = spoilt

    def server_usd(self, api: Any) -> float:
        """What the server was paid, by its own count of tokens."""
        return self.client().price.batch_usd(*api.paid_tokens)


SIDES = {
    "anthropic_batch": Side(
        "anthropic_batch",
        fake_anthropic,
        fake_anthropic.succeeded("I cannot", stop="refusal"),
        fake_anthropic.succeeded('{"label": "cu', stop="max_tokens"),
        fake_anthropic.succeeded({"label": "x"}, thinking=True),
        fake_anthropic.errored("overloaded_error"),
    ),
    "openai_batch": Side(
        "openai_batch",
        fake_openai_batches,
        fake_openai_batches.succeeded(None, refusal="I cannot"),
        fake_openai_batches.succeeded('{"label": "cu', stop="length"),
        fake_openai_batches.succeeded(
            None, content=[{"type": "thinking", "thinking": "let me see"}, {"type": "text", "text": '{"label": "x"}'}]
        ),
        fake_openai_batches.errored(503, "overloaded"),
    ),
}


def questions(n: int = 5) -> list[Request]:
    return [Request("system", f'{{"windows": [{i}]}}', {"type": "object", "properties": {}}, 64) for i in range(n)]


def ledger_usd(root: Path) -> float:
    """What our records say was paid: all of them, those that nobody asks for any more too."""
    return sum(record["usd"] for record in records(root))


def records(root: Path) -> Iterator[dict[str, Any]]:
    """Every record of a journal."""
    for _, found in Journal(root).entries():
        yield from found or ()


def assert_settled(side: Side, api: Any, root: Path, replies: list[Reply], n: int) -> None:
    """Each question was answered once, paid once, and both sides count the same dollars."""
    digests = [side.client().digest(q) for q in questions(n)]
    assert sorted(r.digest for r in replies) == sorted(digests)
    assert len(api.paid) == n and set(api.paid.values()) == {1}
    assert ledger_usd(root) == pytest.approx(side.server_usd(api), rel=1e-12)
    final = Counter(record["digest"] for record in records(root) if record["final"])
    assert final == dict.fromkeys(digests, 1)


def assert_on_the_bill(side: Side, api: Any, root: Path) -> None:
    """Neither the ledger nor the limit knows of fewer dollars than the server took."""
    told = sum(row["usd"] + row["possibly_usd"] for row in ledger.rows(Journal(root)))
    assert 0 < side.server_usd(api) <= min(told, Journal(root).spent_usd) * (1 + 1e-12)


@pytest.fixture
def quick(monkeypatch):
    """A key, and no long waits."""
    for name in ("ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL", "ANTHROPIC_CONFIG_DIR", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(_pace, "LONGEST_WAIT_SECONDS", 0.02)
