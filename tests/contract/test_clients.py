"""What every LLM client promises. A new file in ``tasks/clients`` is held to it before anybody tests it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


SERVERS = {"anthropic_batch": anthropic, "anthropic": anthropic, "openai": openai}
"""A local server for each kind: a context manager giving a runtime and an object with ``paid``, a Counter."""

every = pytest.mark.parametrize("kind", kinds(tasks.clients))


def client(kind: str) -> Client:
    """As its YAML says; of models that are the user's choice, the price is too."""
    found = decode(tasks.clients, yaml.safe_load((CONF / f"{kind}.yaml").read_text()), "client")
    unpriced = getattr(found, "price", True) is None
    return found.model_copy(update={"price_input": 1.0, "price_output": 2.0}) if unpriced else found


def questions(n: int = 4) -> list[Request]:
    return [Request("system", f"question {i}", None, 50) for i in range(n)]


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
    other = one.model_copy(update={"model": "another"})
    assert other.digest(base) != one.digest(base)


@every
def test_an_estimate_grows_with_every_question_and_with_its_length(kind):
    one = client(kind)
    few, many = one.estimate(questions(2)), one.estimate(questions(4))
    longer = one.estimate([Request("system", "question " * 100, None, 50)] * 4)
    assert 0 < few.usd < many.usd < longer.usd and 0 < few.input_tokens < many.input_tokens < longer.input_tokens


@every
def test_without_a_key_the_check_says_which(kind, monkeypatch, tmp_path):
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SpecError, match=r"client = .*, but \w+_API_KEY is not set; "):
        client(kind).check(Runtime())


@every
def test_every_question_has_one_answer_and_none_is_paid_twice(kind, served, tmp_path):
    runtime, api = served
    one, asked = client(kind), questions()
    for again in (False, True):
        replies = list(one.answer([*asked, asked[0]], Journal(tmp_path), runtime, Progress()))
        assert sorted(r.digest for r in replies) == sorted(one.digest(request) for request in asked)
        assert all(r.status == "ok" and r.json() == {"yes": True} and r.reused is again for r in replies)
    assert set(api.paid.values()) == {1} and len(api.paid) == 4


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
    with pytest.raises(ClientError, match=r"runtime\.max_usd = 0, but .*; set runtime.max_usd="):
        list(client(kind).answer(questions(), Journal(tmp_path), runtime.model_copy(update={"max_usd": 0}), Progress()))
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
    assert kept and KEY.encode() not in kept and KEY not in f"{one!r}{one.payload()}{replies}{runtime!r}"
