"""Replies from a file: what was answered is answered again, and nothing else is made up."""

from __future__ import annotations

import json

import pytest

from artifacts.journal import Journal
from tasks.clients.anthropic import Anthropic
from tasks.clients.anthropic_batch import AnthropicBatch
from tasks.clients.base import Request, TokenLogprobs
from tasks.clients.recorded import Recorded, record
from tasks.progress import Progress
from tasks.spec import Runtime, SpecError
from tests.fake_anthropic import FakeAnthropic, succeeded

ASKED = [Request("system", f"question {i}", {"type": "object"}, 50) for i in range(5)]


@pytest.fixture
def journal(tmp_path, monkeypatch):
    """Of a run that asked five questions, of which one was refused."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-canary-key")
    found = Journal(tmp_path / "journal")

    def answer(params):
        text = params["messages"][0]["content"]
        return succeeded("no", stop="refusal") if text.endswith("3") else {"said": text}

    with FakeAnthropic(answer=answer) as api:
        list(AnthropicBatch().answer(ASKED, found, Runtime(base_url=api.url, poll_seconds=0.02), Progress()))
    return found


def replay(path, requests, root, **fields):
    one = Recorded(path=str(path), **fields).pinned()
    found = {r.digest: r for r in one.answer(requests, Journal(root), Runtime(), Progress())}
    return [found[one.digest(request)] for request in requests]


@pytest.mark.parametrize("name", ["replies.jsonl", "replies.parquet"])
def test_a_run_is_repeated_without_key_server_or_cost(tmp_path, journal, monkeypatch, name):
    assert record(journal, tmp_path / name) == 5
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    replies = replay(tmp_path / name, ASKED, tmp_path / "other")
    assert [r.status for r in replies] == ["ok", "ok", "ok", "refused", "ok"]
    assert [r.json()["said"] for r in replies if r.status == "ok"] == [f"question {i}" for i in (0, 1, 2, 4)]
    assert all(r.reused and r.usage.usd == 0 and r.usage.output_tokens == 20 for r in replies)


def test_what_was_answered_at_once_is_recorded_too(tmp_path, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-canary-key")
    found = Journal(tmp_path / "journal")
    with FakeAnthropic(answer=lambda params: {"said": params["messages"][0]["content"]}) as api:
        list(Anthropic().answer(ASKED, found, Runtime(base_url=api.url, poll_seconds=0.02), Progress()))
    assert record(found, tmp_path / "r.jsonl") == 5
    assert [r.json()["said"] for r in replay(tmp_path / "r.jsonl", ASKED, tmp_path)] == [q.user for q in ASKED]


def test_a_question_that_nobody_asked_is_missing(tmp_path, journal):
    record(journal, tmp_path / "r.jsonl")
    others = [Request("system", "question 0", {"type": "object"}, 51), Request("s", "what?"), ASKED[0]]
    replies = replay(tmp_path / "r.jsonl", others, tmp_path / "other")
    assert [r.status for r in replies] == ["missing", "missing", "ok"]
    assert "r.jsonl holds no reply to this request; record a run that asked it" in replies[0].detail


def test_replies_written_by_hand_answer_by_their_text(tmp_path):
    rows = [
        {"system": "s", "user": "u", "text": "{}", "logprobs": [["{}", -0.5, {"{}": -0.5, "no": -1.0}]]},
        {"system": "s", "user": "v", "text": "", "status": "refused", "detail": "not that"},
    ]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    one, two = replay(tmp_path / "r.jsonl", [Request("s", "u"), Request("s", "v", None, 7)], tmp_path)
    assert one.logprobs == (TokenLogprobs("{}", -0.5, {"{}": -0.5, "no": -1.0}),) and one.json() == {}
    assert (two.status, two.detail) == ("refused", "not that")


def test_a_key_follows_the_replies_and_not_their_place(tmp_path):
    for name, text in (("a", "{}"), ("b", "{}"), ("c", "[]")):
        (tmp_path / name).write_text(json.dumps({"system": "s", "user": "u", "text": text}))
    a, b, c = (Recorded(path=str(tmp_path / name)).pinned().payload() for name in "abc")
    assert a == b != c and "path" not in a


def test_a_file_that_changed_since_the_run_was_planned_is_not_used(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps({"system": "s", "user": "u", "text": "{}"}))
    one = Recorded(path=str(path)).pinned()
    path.write_text(json.dumps({"system": "s", "user": "u", "text": "[]"}))
    with pytest.raises(SpecError, match=r"client\.path = .*not the file any more that this run was planned with"):
        list(one.answer([Request("s", "u")], Journal(tmp_path), Runtime(), Progress()))


def test_replies_of_two_models_are_not_mixed(tmp_path, journal, monkeypatch):
    other = AnthropicBatch(model="claude-sonnet-5-5")
    with FakeAnthropic(answer=lambda params: {"said": "other"}) as api:
        list(other.answer(ASKED, journal, Runtime(base_url=api.url, poll_seconds=0.02), Progress()))
    assert record(journal, tmp_path / "r.jsonl") == 10
    with pytest.raises(SpecError, match="claude-haiku-5-5, claude-sonnet-5-5; set client.model to one"):
        replay(tmp_path / "r.jsonl", ASKED, tmp_path)
    (reply,) = replay(tmp_path / "r.jsonl", ASKED[:1], tmp_path, model="claude-sonnet-5-5")
    assert reply.json() == {"said": "other"}
    with pytest.raises(SpecError, match="holds no replies of model 'unheard'"):
        replay(tmp_path / "r.jsonl", ASKED, tmp_path, model="unheard")


@pytest.mark.parametrize(
    "name, content, told",
    [
        ("r.jsonl", None, "no file is there; set it to a file of recorded replies"),
        ("r.jsonl", b"<html>", "is neither JSON lines nor"),
        ("r.jsonl", b"\xff\xfe", "is neither JSON lines nor"),
        ("r.parquet", b"PAR1", "is neither JSON lines nor"),
        ("r.jsonl", b'{"user": "u"}', "its row 1 has no text, or neither digest nor user"),
        ("r.jsonl", b"[1]", "its row 1 has no text"),
        ("r.jsonl", b"", "it holds no replies; use one that saint ledger --record wrote"),
    ],
)
def test_a_file_that_is_none_is_told_before_any_work(tmp_path, name, content, told):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SpecError, match=rf"client\.path = .*{told}"):
        Recorded(path=str(tmp_path / name)).pinned()


def test_what_is_not_final_is_not_recorded(tmp_path):
    journal = Journal(tmp_path / "journal")
    entry = journal.intend({"spec": AnthropicBatch().payload()}, ["a", "b"], lambda id, digest: digest)
    journal.sent(entry, "batch")
    base = {"text": "{}", "detail": "", "usd": 0.0, "input_tokens": 1, "output_tokens": 1}
    journal.replied(entry, [{**base, "digest": "a", "status": "ok", "final": True},
                            {**base, "digest": "b", "status": "expired", "final": False}])  # fmt: skip
    assert record(journal, tmp_path / "r.jsonl") == 1
