"""What every LLM client promises. A new file in ``tasks/clients`` is held to it before anybody tests it."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import tasks.clients
from artifacts import ledger
from artifacts.journal import Journal
from tasks.asking import Questions
from tasks.clients.base import Client, ClientError, Request
from tasks.kinds import decode, kinds
from tasks.progress import Progress
from tasks.spec import Runtime, SpecError
from tests.fake_anthropic import FakeAnthropic
from tests.fake_openai import FakeOpenAI
from tests.fake_openai_batches import FakeOpenAIBatches

CONF = Path(__file__).parents[2] / "conf/client"
KEY = "sk-canary-key"


@contextmanager
def anthropic(monkeypatch) -> Iterator[tuple[Runtime, FakeAnthropic]]:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    with FakeAnthropic(answer=lambda params: '{"yes": true}') as api:
        yield Runtime(base_url=api.url, poll_seconds=0.02), api


@contextmanager
def openai(monkeypatch) -> Iterator[tuple[Runtime, FakeOpenAI]]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with FakeOpenAI(answer=lambda params: '{"yes": true}') as api:
        yield Runtime(base_url=api.url, poll_seconds=0.02), api


@contextmanager
def openai_batches(monkeypatch) -> Iterator[tuple[Runtime, FakeOpenAIBatches]]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with FakeOpenAIBatches(answer=lambda body: '{"yes": true}') as api:
        yield Runtime(base_url=api.url, poll_seconds=0.02), api


@contextmanager
def no_server(monkeypatch) -> Iterator[tuple[Runtime, Any]]:
    """For clients that read a file: the file is all there is."""
    yield Runtime(poll_seconds=0.02), SimpleNamespace(paid=None, seen=[])


@contextmanager
def this_machine(monkeypatch) -> Iterator[tuple[Runtime, Any]]:
    """For clients that compute: what they compute stands for what a server is paid for."""
    pytest.importorskip("llguidance", reason="the extra 'local' is not installed")
    from tasks.clients._local_lm import LocalLM

    computed: Counter = Counter()
    answers = LocalLM.answers

    def counted(self, prompts, most_characters):
        computed.update(prompt.request.user for prompt in prompts)
        return answers(self, prompts, most_characters)

    monkeypatch.setattr(LocalLM, "answers", counted)
    yield Runtime(device="cpu", poll_seconds=0.02), SimpleNamespace(paid=computed, seen=computed)


SERVERS = {
    "anthropic": anthropic,
    "anthropic_batch": anthropic,
    "openai": openai,
    "openai_batch": openai_batches,
    "recorded": no_server,
    "transformers": this_machine,
}
"""A local server for each kind: a context manager giving a runtime and an object with ``paid``, a Counter (or None)."""

_FILES = tempfile.TemporaryDirectory(prefix="saint-clients-")


@cache
def _model() -> str:
    from tests.small import write_model

    return str(write_model(Path(_FILES.name) / "model"))


@cache
def _replies() -> str:
    path = Path(_FILES.name) / "replies.jsonl"
    rows = [{"system": q.system, "user": q.user, "text": '{"yes": true}'} for q in questions(8)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


FIELDS: dict[str, Callable[[], dict[str, Any]]] = {
    "openai": lambda: {"model": "m", "price_input": 0.4, "price_output": 1.6},
    "openai_batch": lambda: {"model": "m", "price_input": 0.4, "price_output": 1.6},
    "recorded": lambda: {"path": _replies()},
    "transformers": lambda: {"path": _model(), "context_tokens": 2048},
}
"""Fields that a kind's YAML leaves to the user."""

WHO = {"transformers": "revision", "recorded": "fingerprint"}
"""The field that says who is asked, where it is not ``model``."""

every = pytest.mark.parametrize("kind", kinds(tasks.clients))


def client(kind: str) -> Client:
    fields = yaml.safe_load((CONF / f"{kind}.yaml").read_text()) | FIELDS.get(kind, dict)()
    return decode(tasks.clients, fields, "client")


def questions(n: int = 4) -> list[Request]:
    schema = {"type": "object", "properties": {"yes": {"type": "boolean", "const": True}}, "required": ["yes"],
              "additionalProperties": False}  # fmt: skip
    return [Request("system", f"question {i}", schema, 50) for i in range(n)]


@pytest.fixture
def served(kind, monkeypatch):
    for name in ("ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    if kind not in SERVERS:
        pytest.skip(f"no local server for {kind}; add one to SERVERS")
    with SERVERS[kind](monkeypatch) as (runtime, api):
        yield runtime, api


@every
def test_its_yaml_has_every_field_and_only_those(kind):
    assert set(yaml.safe_load((CONF / f"{kind}.yaml").read_text())) == set(type(client(kind)).model_fields)


@every
def test_a_digest_changes_with_the_question_and_with_who_is_asked_and_with_nothing_else(kind):
    one = client(kind)
    base = Request("s", "u", {"type": "object"}, 10)
    others = [Request("S", "u", {"type": "object"}, 10), Request("s", "U", {"type": "object"}, 10),
              Request("s", "u", None, 10), Request("s", "u", {"type": "object"}, 11)]  # fmt: skip
    digests = {one.digest(request) for request in [base, *others]}
    assert len(digests) == 5 and all(len(d) == 64 for d in digests)
    assert client(kind).digest(Request("s", "u", {"type": "object"}, 10)) == one.digest(base)
    other = one.model_copy(update={WHO.get(kind, "model"): "another"})
    assert other.digest(base) != one.digest(base)


@every
def test_an_estimate_grows_with_every_question_and_with_its_length(kind):
    one = client(kind)
    few, many = one.estimate(questions(2)), one.estimate(questions(4))
    longer = one.estimate([Request("system", "question " * 200, None, 50)] * 4)
    assert 0 < few.input_tokens < many.input_tokens < longer.input_tokens
    assert 0 < few.usd < many.usd < longer.usd if one.PAID else few.usd == longer.usd == 0


@every
def test_without_a_key_the_check_says_which(kind, monkeypatch, tmp_path):
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    if not client(kind).PAID:
        with SERVERS[kind](monkeypatch) as (runtime, _):
            client(kind).check(runtime)  # nobody wants to know who asks
        return
    with pytest.raises(SpecError, match=r"client = .*, but \w+_API_KEY is not set; "):
        client(kind).check(Runtime())


@every
def test_every_question_has_one_answer_and_none_is_paid_twice(kind, served, tmp_path):
    runtime, api = served
    one, asked = client(kind), questions()
    for again in (False, True):
        replies = list(one.answer([*asked, asked[0]], Journal(tmp_path), runtime, Progress()))
        assert sorted(r.digest for r in replies) == sorted(one.digest(request) for request in asked)
        assert all(r.status == "ok" and r.json() == {"yes": True} for r in replies)
        assert all(r.reused is (again or api.paid is None) and (again or (r.usage.usd > 0) is one.PAID) for r in replies)
    assert api.paid is None or (set(api.paid.values()) == {1} and len(api.paid) == 4)


@every
def test_questions_are_gone_through_and_not_kept(kind, served, tmp_path):
    runtime, _ = served
    made = []

    def make():
        for request in questions():
            made.append(request)
            yield request

    assert len(list(client(kind).answer(Questions(make), Journal(tmp_path), runtime, Progress()))) == 4
    assert len(made) % 4 == 0 and len(made) > 4


@every
def test_the_limit_holds_and_nothing_is_sent_beyond_it(kind, served, tmp_path):
    runtime, api = served
    one, limited = client(kind), runtime.model_copy(update={"max_usd": 0})
    if not one.PAID:  # what costs nothing is within any limit
        assert len(list(one.answer(questions(), Journal(tmp_path), limited, Progress()))) == 4
        return
    with pytest.raises(ClientError, match=r"runtime\.max_usd = 0, but .*; set runtime.max_usd="):
        list(one.answer(questions(), Journal(tmp_path), limited, Progress()))
    assert not api.paid


@every
def test_what_is_paid_is_in_the_ledger(kind, served, tmp_path):
    runtime, _ = served
    paid = sum(r.usage.usd for r in client(kind).answer(questions(), Journal(tmp_path), runtime, Progress()))
    rows = ledger.rows(Journal(tmp_path))
    assert sum(row["usd"] for row in rows) == pytest.approx(paid) and not any(row["possibly_usd"] for row in rows)
    if paid:
        assert [(row["kind"], row["n_requests"], row["n_answered"]) for row in rows] == [(kind, 4, 4)]
        assert paid <= client(kind).estimate(questions()).usd


@every
def test_the_limit_may_be_lifted(kind, served, tmp_path):
    runtime, _ = served
    free = runtime.model_copy(update={"max_usd": None})
    assert {r.status for r in client(kind).answer(questions(), Journal(tmp_path), free, Progress())} == {"ok"}


@every
def test_no_question_is_no_work(kind, served, tmp_path):
    runtime, api = served
    assert list(client(kind).answer([], Journal(tmp_path), runtime, Progress())) == [] and not api.seen


@every
def test_the_key_is_kept_nowhere(kind, served, tmp_path):
    runtime, _ = served
    one = client(kind)
    replies = list(one.answer(questions(), Journal(tmp_path), runtime, Progress()))
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert (kept or not one.PAID) and KEY.encode() not in kept and KEY not in f"{one!r}{one.payload()}{replies}{runtime!r}"
