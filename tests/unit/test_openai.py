"""How a question is put to an OpenAI-compatible server, and how its answers are read."""

from __future__ import annotations

import json

import pytest

from artifacts.journal import Journal
from tasks.clients._chat import bare
from tasks.clients._failures import Failed
from tasks.clients.anthropic import Anthropic
from tasks.clients.base import Request
from tasks.clients.openai import OpenAI
from tasks.clients.openai_batch import OpenAIBatch
from tasks.progress import Progress
from tasks.spec import Runtime, SpecError
from tests.fake_openai import FakeOpenAI, said

SCHEMA = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"], "additionalProperties": False}
ASKED = Request("system", "user", SCHEMA, 77)


def client(**fields) -> OpenAI:
    return OpenAI(**{"model": "m", "price_input": 1.0, "price_output": 2.0, **fields})


def test_a_question_in_the_servers_words():
    assert client().params(ASKED) == {
        "model": "m",
        "messages": [{"role": "system", "content": "system"}, {"role": "user", "content": "user"}],
        "max_completion_tokens": 77,
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA}},
    }
    more = client(max_tokens_name="max_tokens", temperature=0, effort="low", extra={"seed": 3}).params(ASKED)
    assert (more["max_tokens"], more["temperature"], more["reasoning_effort"], more["seed"]) == (77, 0, "low", 3)
    assert "max_completion_tokens" not in more and "response_format" not in client().params(Request("s", "u"))


@pytest.mark.parametrize(
    "fields",
    [{}, {"structured": "none"}, {"structured": "json_object", "max_tokens_name": "max_tokens"},
     {"temperature": 0.5, "effort": "minimal", "extra": {"seed": 3}}],
)  # fmt: skip
def test_a_batch_says_what_is_said_at_once(fields):
    for request in (ASKED, Request("s", "u", None, 9, logprobs=40)):
        params = client(**fields).params(request)
        assert OpenAIBatch(model="m", **fields).params(request) == params
        assert params.get("top_logprobs", 20) == 20, "the most that the API gives"


def test_a_batch_keeps_the_key_that_it_had_before_it_knew_of_other_forms():
    asked = {"kind": "openai_batch", "model": "m", "effort": None, "temperature": None}
    assert OpenAIBatch(model="m").payload() == asked
    assert OpenAIBatch(model="m", structured="none").payload() == {**asked, "structured": "none"}


@pytest.mark.parametrize("structured, form", [("json_object", {"type": "json_object"}), ("none", None)])
def test_without_schemas_at_the_server_the_model_is_told_in_words(structured, form):
    params = client(structured=structured).params(ASKED)
    assert params.get("response_format") == form and json.dumps(SCHEMA) in params["messages"][0]["content"]
    assert params["messages"][1]["content"] == "user"


@pytest.mark.parametrize(
    "text, found",
    [
        ('```json\n{"yes": true}\n```', '{"yes": true}'),
        ('<think>hm ``` hm</think>\n```\n{"yes": true}```', '{"yes": true}'),
        ('{"yes": "```"}', '{"yes": "```"}'),
        ("I say yes", "I say yes"),
    ],
)
def test_fences_and_thoughts_around_json_are_taken_off(text, found):
    assert bare(text).strip() == found


def test_only_what_is_not_held_to_a_schema_is_bared(tmp_path, monkeypatch):
    with FakeOpenAI(answer=lambda params: '```\n{"yes": true}\n```') as api:
        monkeypatch.setenv("OPENAI_API_KEY", "x")
        for structured, text in (("none", '{"yes": true}'), ("json_schema", '```\n{"yes": true}\n```')):
            asked = client(structured=structured).answer([ASKED], Journal(tmp_path), Runtime(base_url=api.url), Progress())
            assert [reply.text for reply in asked] == [text]


def test_the_address_is_the_runtimes_or_the_clients_or_the_environments(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://c/v1")
    own = client(base_url="http://b/v1")
    addresses = [own.host(own.connect(Runtime(base_url="http://a/v1"))), own.host(own.connect(Runtime())),
                 client().host(client().connect(Runtime()))]  # fmt: skip
    assert addresses == ["http://a/v1", "http://b/v1", "http://c/v1"]


def test_extra_may_not_change_what_is_asked():
    with pytest.raises(ValueError, match=r"client\.extra\.stream = True, but that is not for extra to say"):
        client(extra={"stream": True})


def test_a_missing_key_and_a_missing_package_are_told_before_any_work(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(SpecError, match="OPENAI_API_KEY is not set; set it .to any word"):
        client().check(Runtime())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r"pip install 'saint-sae\[openai\]'"):
        client().check(Runtime())


def test_a_server_that_tells_no_usage_is_counted_at_the_most():
    answer = {"choices": [{"message": {"content": "{}"}, "finish_reason": "stop"}]}
    record = client().record("d", answer, ASKED)
    assert record["status"] == "ok" and record["usd"] == client().most_usd(ASKED) and "no usage" in record["detail"]


@pytest.mark.parametrize("code, again", [(502, True), (400, False), ("x", True)])
def test_an_error_under_a_200_is_an_error(code, again):
    for answer in ({"error": {"code": code, "message": "m"}}, {"choices": [{"error": {"code": code, "message": "m"}}]}):
        with pytest.raises(Failed) as caught:
            client().record("d", answer, ASKED)
        assert caught.value.again is again and caught.value.paid


def test_text_in_parts_is_one_text():
    answer = {"choices": [{"message": {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}}], "usage": {}}
    assert client().record("d", answer, ASKED)["text"] == "ab"


def test_a_refusal_in_words_is_refused():
    api = FakeOpenAI(answer=lambda params: said(None, refusal="no"))
    _, answer = api.completed(client().params(ASKED))
    api._server.server_close()
    assert client().record("d", answer, ASKED)["status"] == "refused"


def test_a_long_system_turn_is_kept_by_the_api_and_a_short_one_is_not():
    long, short = Request("s" * 3000, "u"), Request("s", "u")
    assert Anthropic().params(long)["system"] == [{"type": "text", "text": "s" * 3000, "cache_control": {"type": "ephemeral"}}]
    assert Anthropic().params(short)["system"] == "s" and Anthropic(cache=False).params(long)["system"] == "s" * 3000
    usage = {"input_tokens": 10, "cache_creation_input_tokens": 100, "cache_read_input_tokens": 1000, "output_tokens": 5}
    record = Anthropic().record("d", {"content": [{"type": "text", "text": "x"}], "usage": usage}, long)
    assert record["usd"] == pytest.approx((0.10 * (10 + 125 + 100) + 0.50 * 5) / 1e6) and record["input_tokens"] == 1110
