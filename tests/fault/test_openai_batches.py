"""What is peculiar to batches of OpenAI-compatible servers: files, metadata, batches that fail whole, log-probabilities."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from artifacts.journal import Journal
from tasks.clients import _openai_batches
from tasks.clients.base import ClientError, Request, TokenLogprobs
from tasks.clients.openai_batch import OpenAIBatch
from tasks.prices import Price
from tasks.progress import Progress
from tasks.spec import Runtime, SpecError
from tests import fake_openai_batches as fake
from tests.fake_anthropic import CUT_IN_A_LINE, DROP_AFTER_ACCEPTING, DROP_BEFORE_ACCEPTING, MISSING, status
from tests.fault.sides import SIDES, Notes, assert_settled, questions, quick  # noqa: F401

pytestmark = pytest.mark.usefixtures("quick")
side = SIDES["openai_batch"]


@pytest.mark.parametrize("switches", [{}, {"keeps_metadata": False}, {"newest_first": False, "page_size": 2}], ids=str)
def test_a_batch_whose_acknowledgement_was_lost_is_found_by_name_among_others(tmp_path, switches):
    notes = Notes()
    with side.server(polls_until_ended=1, **switches) as api:
        theirs = api.upload("theirs.jsonl", api_lines(3))["id"]
        asked = {"input_file_id": theirs, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        for _ in range(3):
            api.create({**asked, "metadata": {"of": "others"}})
        api.fault("create", DROP_AFTER_ACCEPTING, None, DROP_AFTER_ACCEPTING)
        replies = side.ask(api, tmp_path, notes=notes)
        assert {reply.status for reply in replies} == {"ok"}
        assert sum("found batch" in line for line in notes.lines) == 2
        assert set(Journal(tmp_path).batches()) == set(list(api.batches)[3:])
        assert max(n for body, n in api.paid.items() if body not in theirs_of(api)) == 1


def api_lines(n: int) -> bytes:
    return b"\n".join(
        json.dumps({"custom_id": f"other-{i}", "method": "POST", "url": "/v1/chat/completions",
                    "body": {"model": "m", "messages": [{"content": f"theirs {i}"}]}}).encode()
        for i in range(n)
    )  # fmt: skip


def theirs_of(api) -> set[str]:
    return {fake.digest(json.loads(line)["body"]) for line in api_lines(3).splitlines()}


@pytest.mark.parametrize(
    "where, faults",
    [("upload", [status(429), status(500), DROP_BEFORE_ACCEPTING]), ("create", [status(429)]),
     ("create", [DROP_BEFORE_ACCEPTING]), ("delete", [status(403)] * 9)],
)  # fmt: skip
def test_no_file_of_requests_is_left_behind_where_that_can_be_helped(tmp_path, where, faults):
    with side.server() as api:
        api.fault(where, *faults)
        assert_settled(side, api, tmp_path, side.ask(api, tmp_path), 5)
        assert len(api.uploads) == (3 if where == "delete" else 0)


def test_a_refused_batch_leaves_no_file_and_no_doubt(tmp_path):
    with side.server() as api:
        api.fault("create", status(400, message="no such model"))
        with pytest.raises(ClientError, match=r"refused \(400 .*no such model\); mend the request"):
            side.ask(api, tmp_path)
        assert not api.files
        assert not Journal(tmp_path).lookup([side.client().digest(q) for q in questions()]).unknown


def test_a_batch_that_fails_whole_is_sent_again_and_costs_nothing(tmp_path):
    with side.server() as api:
        api.fault("create", fake.FAILED, fake.FAILED)
        assert_settled(side, api, tmp_path, side.ask(api, tmp_path), 5)


def test_a_batch_that_always_fails_says_why(tmp_path):
    with side.server() as api:
        api.fault("create", *[fake.FAILED] * 9)
        replies = side.ask(api, tmp_path, n=2)
        assert {(r.status, r.detail) for r in replies} == {("errored", "token_limit_exceeded: too much at once")}
        assert len(api.batches) == 3 and not api.paid


def test_half_sent_results_of_an_expired_batch_are_not_taken_for_unpaid(tmp_path):
    often: Counter = Counter()

    def answer(body):
        often[body["messages"][1]["content"]] += 1
        return fake.EXPIRED if often.total() == 1 else "{}"

    with side.server(answer=answer) as api:
        api.fault("results", MISSING, None, CUT_IN_A_LINE)
        replies = side.ask(api, tmp_path, client=side.client(batch_requests=5))
        assert {reply.status for reply in replies} == {"ok"}
        assert_settled(side, api, tmp_path, replies, 5)


def test_a_batch_is_never_larger_than_the_api_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(_openai_batches.OpenAIBatchesAPI, "MOST_BYTES", 1400)
    sizes = []
    with side.server() as api:
        upload = api.upload
        api.upload = lambda name, content: (sizes.append(len(content)), upload(name, content))[1]
        replies = side.ask(api, tmp_path, client=side.client(batch_requests=100))
        assert_settled(side, api, tmp_path, replies, 5)
    assert len(sizes) > 1 and max(sizes) <= 1400 < sum(sizes)


def test_log_probabilities_come_back_and_stay_in_the_journal(tmp_path):
    told = {"content": [{"token": "{}", "logprob": -0.25, "bytes": None,
                         "top_logprobs": [{"token": "{}", "logprob": -0.25}, {"token": "no", "logprob": -1.5}]}]}  # fmt: skip
    asked = []

    def answer(body):
        asked.append(body)
        return fake.succeeded("{}", logprobs=told)

    with side.server(answer=answer) as api:
        request = Request("s", "u", None, 10, logprobs=40)
        for _ in range(2):
            (reply,) = side.client().answer(
                [request], Journal(tmp_path), Runtime(base_url=api.url, poll_seconds=0.02), Progress()
            )
            assert reply.logprobs == (TokenLogprobs("{}", -0.25, {"{}": -0.25, "no": -1.5}),)
    (body,) = asked
    assert body["logprobs"] is True and body["top_logprobs"] == 20  # the most that the API gives


def test_only_what_is_not_held_to_a_schema_is_bared(tmp_path):
    for structured, text in (("none", '{"a": 1}'), ("json_schema", '```\n{"a": 1}\n```')):
        with side.server(answer=lambda body: '```\n{"a": 1}\n```') as api:
            replies = side.ask(api, tmp_path, client=side.client(structured=structured))
            assert {reply.text for reply in replies} == {text}


def test_what_is_asked_is_in_the_apis_words():
    client = OpenAIBatch(model="m", effort="low", temperature=0.0)
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    assert client.params(Request("s", "u", schema, 7)) == {
        "model": "m", "max_completion_tokens": 7, "reasoning_effort": "low", "temperature": 0.0,
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}},
    }  # fmt: skip
    assert set(OpenAIBatch(model="m").params(Request("s", "u"))) == {"model", "max_completion_tokens", "messages"}


def test_the_discount_of_a_batch_is_a_field_of_the_price():
    assert OpenAIBatch(model="m", price_input=2, price_output=8, price_batch=1).price == Price(2, 8, batch=1)
    usd = OpenAIBatch(model="m", price_input=2, price_output=8).price.batch_usd(1_000_000, 1_000_000)
    assert usd == pytest.approx(5.0)


def test_a_server_of_ones_own_costs_nothing_and_says_nothing_of_tokens(tmp_path):
    client = OpenAIBatch(model="m", price_input=0, price_output=0)
    client.check(Runtime())
    with side.server() as api:
        replies = side.ask(api, tmp_path, client=client, max_usd=0)
        assert {(r.status, r.usage.usd) for r in replies} == {("ok", 0.0)}


def test_a_model_without_a_price_asks_for_one():
    with pytest.raises(SpecError, match=r"client\.model = 'unheard-of', but its price .*; set client\.price_input"):
        OpenAIBatch(model="unheard-of").check(Runtime())
