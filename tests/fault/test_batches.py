"""What breaks between us and a paid API. The server's ledger is the judge: each request is paid for exactly once."""

from __future__ import annotations

import json
import logging
import multiprocessing
from collections import Counter

import pytest

from artifacts.journal import Journal
from tasks.clients import _anthropic_batches, _batches_api, _pace
from tasks.clients.anthropic_batch import AnthropicBatch
from tasks.clients.base import ClientError, Request
from tasks.progress import Progress
from tasks.spec import Runtime, SpecError
from tests import fake_anthropic as fake
from tests.fake_anthropic import FakeAnthropic, status, succeeded
from tests.fault import batch_child
from tests.fault.sides import KEY, Notes


class Stop(Progress):
    """Ends a wait by an interrupt, as a person would."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advanced(self, bar) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    for name in ("ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL", "ANTHROPIC_CONFIG_DIR", "ANTHROPIC_CUSTOM_HEADERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setattr(_pace, "LONGEST_WAIT_SECONDS", 0.02)


@pytest.fixture(scope="module")
def fork():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.fault.batch_child"])
    return context


def questions(n: int = 5) -> list[Request]:
    return [Request("system", f'{{"windows": [{i}]}}', {"type": "object", "properties": {}}, 64) for i in range(n)]


def ask(
    api: FakeAnthropic, root, n: int = 5, notes: Notes | None = None, client: AnthropicBatch | None = None, **limits
):
    runtime = Runtime(base_url=api.url, poll_seconds=0.02, **limits)
    client = client or AnthropicBatch()
    return list(client.answer(questions(n), Journal(root), runtime, notes or Notes()))


def answers_only(api: FakeAnthropic, n: int = 5) -> bool:
    return len(api.paid) == n and set(api.paid.values()) == {1}


# killed


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("step", batch_child.STEPS)
def test_a_process_killed_at_any_step_costs_nothing_twice(tmp_path, fork, step, nth):
    with FakeAnthropic(answer=lambda params: "{}", polls_until_ended=1) as api:
        child = fork.Process(target=batch_child.ask, args=(api.url, str(tmp_path), None, step, nth))
        child.start()
        child.join(60)
        assert child.exitcode == -9
        replies = list(
            batch_child.client().answer(
                batch_child.requests(), Journal(tmp_path), batch_child.runtime(api.url), Progress()
            )
        )
        assert Counter(reply.status for reply in replies) == {"ok": batch_child.N}
        assert answers_only(api, batch_child.N)


def test_two_processes_with_the_same_questions_pay_once_and_both_get_the_answers(tmp_path, fork):
    with FakeAnthropic(answer=lambda params: "{}", polls_until_ended=2) as api:
        out = fork.Queue()
        children = [fork.Process(target=batch_child.ask, args=(api.url, str(tmp_path), out)) for _ in range(2)]
        for child in children:
            child.start()
        found = [out.get(timeout=200) for _ in children]
        for child in children:
            child.join(60)
        assert found == [["ok"] * batch_child.N] * 2
        assert answers_only(api, batch_child.N)


# the network


@pytest.mark.parametrize(
    "where, faults, notes_say",
    [
        ("create", [status(429), status(529), status(503)], None),
        ("create", [status(429, {"retry-after": "4290000"})], None),
        ("create", [fake.DROP_AFTER_ACCEPTING], "found batch"),
        ("create", [fake.DROP_BEFORE_ACCEPTING], "looks for the batch first"),
        ("create", [fake.DROP_AFTER_ACCEPTING, fake.DROP_BEFORE_ACCEPTING], "found batch"),
        ("create", [status(500)], "may have taken it"),
        ("retrieve", [status(500), status(529), fake.DROP_BEFORE_ACCEPTING], None),
        ("list", [status(502), fake.DROP_BEFORE_ACCEPTING], None),
        ("results", [status(503)], None),
        ("results", [fake.CUT_IN_A_LINE] * 4, None),
        ("results", [fake.CUT_SILENTLY], None),
        ("results", [fake.DUPLICATE], "twice; ignored"),
        ("results", [fake.UNKNOWN], "who-is-this"),
        ("results", [fake.MISSING], None),
    ],
)
def test_a_broken_line_costs_nothing_twice(tmp_path, where, faults, notes_say):
    notes = Notes()
    with FakeAnthropic(answer=lambda params: "{}") as api:
        api.fault(where, *faults)
        replies = ask(api, tmp_path, notes=notes, client=AnthropicBatch(batch_requests=3))
        assert Counter(reply.status for reply in replies) == {"ok": 5}
        assert answers_only(api)
        assert Journal(tmp_path).spent_usd == pytest.approx(sum(reply.usage.usd for reply in replies))
        assert notes_say is None or any(notes_say in line for line in notes.lines)


def test_a_lost_acknowledgement_is_not_taken_for_someone_elses_batch(tmp_path):
    with FakeAnthropic(answer=lambda params: "{}", polls_until_ended=1) as api:
        client, journal = AnthropicBatch(), Journal(tmp_path)
        digests = [client.digest(q) for q in questions()]
        journal.intend({"host": api.url, "after": None}, digests, lambda id, d: f"{d[:40]}-{id[-12:]}")
        others = [
            {"custom_id": f"other-{i}", "params": {"model": "m", "max_tokens": 1, "of": "others"}} for i in range(5)
        ]
        api.create(others)
        replies = ask(api, tmp_path)
        assert Counter(reply.status for reply in replies) == {"ok": 5}
        _theirs, ours = api.batches
        assert list(Journal(tmp_path).batches()) == [ours]


def test_a_lost_acknowledgement_is_looked_for_where_it_was_sent(tmp_path):
    with FakeAnthropic(answer=lambda params: "{}") as api:
        client = AnthropicBatch()
        Journal(tmp_path).intend({"host": "https://elsewhere"}, [client.digest(q) for q in questions()], lambda i, d: d)
        with pytest.raises(ClientError, match=r"set runtime\.base_url=https://elsewhere"):
            ask(api, tmp_path)
        assert not api.batches


def test_a_batch_that_is_never_acknowledged_ends_in_an_error_and_is_not_sent_for_ever(tmp_path):
    with FakeAnthropic(answer=lambda params: "{}") as api:
        api.fault("create", *[status(500)] * 50)
        with pytest.raises(ClientError, match="may have taken it"):
            ask(api, tmp_path)
        assert api.count("POST") == 3
        api.take("create")
        api._faults.clear()
        assert len(ask(api, tmp_path)) == 5 and answers_only(api)


def test_missing_answers_are_asked_again_only_after_the_results_were_read_again(tmp_path):
    with FakeAnthropic(answer=lambda params: "{}") as api:
        api.fault("results", *[fake.MISSING] * 5)
        replies = ask(api, tmp_path)
        assert Counter(reply.status for reply in replies) == {"ok": 5}
        assert sorted(len(batch.requests) for batch in api.batches.values()) == [1, 5]


def test_results_that_always_break_off_stay_paid_for_and_are_fetched_later(tmp_path):
    with FakeAnthropic(answer=lambda params: "{}") as api:
        api.fault("results", *[fake.CUT_IN_A_LINE] * 5)
        with pytest.raises(ClientError, match="they stay paid for"):
            ask(api, tmp_path)
        assert len(ask(api, tmp_path)) == 5 and answers_only(api)


def test_results_are_fetched_from_our_host_whatever_the_url_says(tmp_path):
    with FakeAnthropic(answer=lambda params: "{}") as thief, FakeAnthropic(answer=lambda params: "{}") as api:
        api.foreign_host = thief.url
        assert len(ask(api, tmp_path)) == 5
        assert not thief.seen and api.keys == {KEY}


def test_the_key_does_not_follow_a_redirect(tmp_path):
    with FakeAnthropic(answer=lambda params: "{}") as api:
        api.fault("results", fake.REDIRECT)
        with pytest.raises(ClientError, match="the key goes to one host"):
            ask(api, tmp_path)


def test_a_refused_batch_is_an_error_that_says_what_to_mend_and_leaves_nothing_in_doubt(tmp_path):
    with FakeAnthropic(answer=lambda params: "{}") as api:
        api.fault("create", status(401, message=f"bad key {KEY}"))
        with pytest.raises(ClientError, match="set a valid key") as caught:
            ask(api, tmp_path)
        assert KEY not in str(caught.value)
        assert not Journal(tmp_path).lookup([AnthropicBatch().digest(q) for q in questions()]).unknown
        assert len(ask(api, tmp_path)) == 5 and answers_only(api)


def test_no_server_at_all_is_an_error_that_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(_batches_api, "TRIES", 2)
    api = FakeAnthropic()
    api._server.server_close()
    with pytest.raises(ClientError, match="give the same command later"):
        ask(api, tmp_path)


def test_a_wait_outlives_an_api_that_is_away_for_a_while(tmp_path, monkeypatch):
    monkeypatch.setattr(_batches_api, "TRIES", 1)
    notes = Notes()
    with FakeAnthropic(answer=lambda params: "{}", polls_until_ended=1) as api:
        api.fault("retrieve", *[status(500)] * 3)
        assert len(ask(api, tmp_path, notes=notes)) == 5 and answers_only(api)
    assert sum("cannot be used now" in line for line in notes.lines) == 3


def test_a_batch_that_another_key_sent_is_not_paid_for_again(tmp_path):
    with FakeAnthropic(answer=lambda params: "{}") as api:
        entry = Journal(tmp_path).intend({}, [AnthropicBatch().digest(q) for q in questions()], lambda i, d: d)
        Journal(tmp_path).sent(entry, "msgbatch_of_others")
        with pytest.raises(ClientError, match="does not know it; use the key and address that sent it"):
            ask(api, tmp_path)
        assert not api.batches


def test_results_that_are_no_longer_kept_are_asked_for_again_and_said_to_be(tmp_path):
    notes = Notes()
    with FakeAnthropic(answer=lambda params: "{}", polls_until_ended=1) as api:
        entry = Journal(tmp_path).intend({}, [AnthropicBatch().digest(q) for q in questions()], lambda i, d: d)
        Journal(tmp_path).sent(entry, "old")
        api.create([{"custom_id": "x", "params": {"model": "m", "messages": []}}])
        old = api.batches.pop(next(iter(api.batches)))
        old.archived, api.batches["old"] = True, old
        assert len(ask(api, tmp_path, notes=notes)) == 5
    assert any("no longer kept" in line for line in notes.lines)


def test_a_batch_is_never_larger_than_the_api_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(_anthropic_batches.BatchesAPI, "MOST_BYTES", 900)
    with FakeAnthropic(answer=lambda params: "{}") as api:
        assert len(ask(api, tmp_path)) == 5 and answers_only(api)
        sizes = [len(json.dumps({"requests": batch.requests})) for batch in api.batches.values()]
        assert len(sizes) > 1 and max(sizes) <= 900


@pytest.mark.parametrize(
    "headers, seconds",
    [
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, 3.0),
        ({"retry-after-ms": "x"}, 3.0),
        ({}, 3.0),
    ],
)
def test_a_server_is_asked_again_when_it_said(headers, seconds):
    assert _batches_api.wait_asked(headers, 3.0) == seconds


def test_a_model_near_its_end_is_told_of(tmp_path):
    notes = Notes()
    with FakeAnthropic(answer=lambda params: "{}") as api:
        ask(
            api,
            tmp_path,
            notes=notes,
            client=AnthropicBatch(model="claude-3-opus-20240229", price_input=1, price_output=1),
        )
    assert any("retired on 2026-01-05" in line for line in notes.lines)


# results


def test_a_batch_that_half_expires_costs_only_the_other_half(tmp_path):
    seen: Counter = Counter()

    def answer(params):
        text = params["messages"][0]["content"]
        seen[text] += 1
        return fake.EXPIRED if seen[text] == 1 and text in ('{"windows": [0]}', '{"windows": [3]}') else "{}"

    with FakeAnthropic(answer=answer) as api:
        replies = ask(api, tmp_path)
        assert Counter(reply.status for reply in replies) == {"ok": 5}
        assert answers_only(api) and [len(b.requests) for b in api.batches.values()] == [5, 2]


@pytest.mark.parametrize(
    "result, found",
    [(fake.EXPIRED, "expired"), (fake.CANCELED, "canceled"), (fake.errored("overloaded_error"), "errored")],
)
def test_what_fails_at_no_cost_is_sent_three_times_then_told(tmp_path, result, found):
    with FakeAnthropic(answer=lambda params: result if "[2]" in params["messages"][0]["content"] else "{}") as api:
        replies = ask(api, tmp_path)
        assert Counter(reply.status for reply in replies) == {"ok": 4, found: 1}
        assert [len(b.requests) for b in api.batches.values()] == [5, 1, 1]


@pytest.mark.parametrize(
    "result, found",
    [
        (fake.errored("invalid_request_error"), "errored"),
        (succeeded("I cannot", stop="refusal"), "refused"),
        (succeeded('{"label": "cu', stop="max_tokens"), "truncated"),
        (succeeded(None), "errored"),
        (succeeded(""), "errored"),
    ],
)
def test_what_would_fail_again_is_data_and_never_sent_again(tmp_path, result, found):
    with FakeAnthropic(answer=lambda params: result) as api:
        assert {reply.status for reply in ask(api, tmp_path)} == {found}
        again = ask(api, tmp_path)
        assert {reply.status for reply in again} == {found} and all(reply.reused for reply in again)
        assert api.count("POST") == 1


def test_an_error_of_the_account_is_told_now_and_asked_again_by_the_next_command(tmp_path):
    results = [fake.errored("billing_error")] * 9 + ["{}"] * 3
    with FakeAnthropic(answer=lambda params: results.pop(0)) as api:
        assert {reply.status for reply in ask(api, tmp_path, n=3)} == {"errored"}
        assert {reply.status for reply in ask(api, tmp_path, n=3)} == {"ok"}


def test_the_text_is_found_behind_the_models_thinking(tmp_path):
    with FakeAnthropic(answer=lambda params: succeeded({"label": "x"}, thinking=True)) as api:
        assert [reply.json() for reply in ask(api, tmp_path, n=1)] == [{"label": "x"}]


# money


def test_answers_are_shared_by_all_runs_and_only_what_is_new_is_sent(tmp_path):
    with FakeAnthropic(answer=lambda params: "{}") as api:
        ask(api, tmp_path, n=3)
        replies = ask(api, tmp_path, n=5)
        assert [len(b.requests) for b in api.batches.values()] == [3, 2]
        assert sorted(reply.reused for reply in replies) == [False, False, True, True, True]


def test_answers_in_the_journal_need_neither_key_nor_server(tmp_path, monkeypatch):
    with FakeAnthropic(answer=lambda params: "{}") as api:
        ask(api, tmp_path)
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    assert len(ask(api, tmp_path)) == 5


def test_nothing_is_sent_that_may_cost_more_than_the_limit(tmp_path):
    notes = Notes()
    with FakeAnthropic(answer=lambda params: "{}") as api:
        with pytest.raises(
            ClientError, match=r"runtime.max_usd = 1e-05, but 5 .* \$0.0\d+ .*; set runtime.max_usd=0.01, "
        ):
            ask(api, tmp_path, notes=notes, max_usd=0.00001)
        assert not api.batches and any("at most $0.0" in line for line in notes.lines)


def test_what_was_spent_before_counts_towards_the_limit(tmp_path):
    client = AnthropicBatch()
    with FakeAnthropic(answer=lambda params: succeeded("{}", usage={"output_tokens": 64})) as api:
        whole = client.foreseen(questions(5))[1]
        first = sum(reply.usage.usd for reply in ask(api, tmp_path, n=4))
        left = client.foreseen(questions(5)[4:])[1]
        with pytest.raises(ClientError, match="is spent"):
            ask(api, tmp_path, n=5, max_usd=first + left * 0.9)
        assert len(ask(api, tmp_path, n=5, max_usd=first + left * 1.01)) == 5 and first + left <= whole


def test_stages_at_once_share_one_limit_though_nothing_is_paid_yet(tmp_path):
    client = AnthropicBatch()
    cap = client.foreseen(questions(5))[1] * 1.01
    with FakeAnthropic(answer=lambda params: "{}", polls_until_ended=10**9) as api:
        runtime = Runtime(base_url=api.url, poll_seconds=0.02, max_usd=cap)
        stuck = client.answer(questions(3), Journal(tmp_path), runtime, Stop(after=2))
        with pytest.raises(KeyboardInterrupt):
            list(stuck)
        with pytest.raises(ClientError, match="is spent"):
            list(client.answer(questions(8)[3:], Journal(tmp_path), runtime, Notes()))
        assert len(api.batches) == 1


def test_the_estimate_is_never_below_what_is_paid(tmp_path):
    with FakeAnthropic(answer=lambda params: succeeded("{}", usage={"output_tokens": 64})) as api:
        replies = ask(api, tmp_path)
        paid = sum(reply.usage.usd for reply in replies)
        assert 0 < paid <= AnthropicBatch().estimate(questions()).usd
        assert api.paid_tokens[1] == 5 * 64
        by_hand = (api.paid_tokens[0] * 0.10 + 5 * 64 * 0.50) * 0.5 / 1e6
        assert paid == pytest.approx(by_hand)


# secrets


def test_the_key_is_nowhere_but_in_the_header(tmp_path, caplog, capfd):
    notes = Notes()
    with caplog.at_level(logging.DEBUG), FakeAnthropic(answer=lambda params: "{}") as api:
        api.fault("create", status(429, message=f"slow down, {KEY}"), fake.DROP_AFTER_ACCEPTING)
        api.fault("results", fake.CUT_IN_A_LINE)
        ask(api, tmp_path, notes=notes)
        assert api.keys == {KEY}
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    told = "\n".join([*notes.lines, caplog.text, *capfd.readouterr()])
    assert len(written) > 500 and KEY.encode() not in written and KEY not in told
    assert KEY not in repr(AnthropicBatch()) and KEY not in str(AnthropicBatch().payload())


def test_a_missing_key_is_told_before_any_work(tmp_path, monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SpecError, match="client = 'anthropic_batch', but ANTHROPIC_API_KEY is not set"):
        AnthropicBatch().check(Runtime())


def test_prompts_are_not_in_the_journal(tmp_path):
    with FakeAnthropic(answer=lambda params: "{}") as api:
        ask(api, tmp_path)
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"windows" not in written
