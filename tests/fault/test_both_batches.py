"""What breaks between us and any paid batches API. Dollars on the server equal dollars in the ledger, always."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections import Counter
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest

from artifacts import ledger, spending
from artifacts.journal import Journal
from tasks.clients import _batches_api, _exchange, _pace
from tasks.clients._results import succeeded
from tasks.clients.base import ClientError
from tests import fake_anthropic as fake
from tests.fake_anthropic import status
from tests.fault.sides import (  # noqa: F401
    KEY,
    SIDES,
    Notes,
    Side,
    Watched,
    assert_on_the_bill,
    assert_settled,
    ledger_usd,
    questions,
    quick,
    shown,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("quick")
both = pytest.mark.parametrize("side", SIDES.values(), ids=SIDES)



class Killed(BaseException): ...


def die(*_: object) -> None:
    raise Killed


NETWORK = [
    ("create", [status(429, {"retry-after": "1"}), status(429, {"retry-after": "4290000"})], None),
    ("create", [status(529), status(503)], None),
    ("create", [fake.DROP_AFTER_ACCEPTING], "found batch"),
    ("create", [fake.DROP_BEFORE_ACCEPTING], "looks for the batch first"),
    ("create", [fake.DROP_AFTER_ACCEPTING, fake.DROP_BEFORE_ACCEPTING], "found batch"),
    ("create", [status(429)] * 12, "is busy (429"),
    ("create", [status(500)], "may have taken it"),
    ("create", [status(524)], "may have taken it"),
    ("create", [fake.GARBAGE], "found batch"),
    ("create", [fake.HTML], "does not answer like the API"),
    ("retrieve", [status(500), status(529), fake.DROP_BEFORE_ACCEPTING, fake.GARBAGE], None),
    ("results", [status(503), fake.DROP_BEFORE_ACCEPTING], None),
    ("results", [status(404)], None),
    ("results", [status(404)] * 4, None),
    ("results", [fake.CUT_IN_A_LINE] * 4, None),
    ("results", [fake.CUT_SILENTLY], None),
    ("results", [fake.GARBAGE], None),
    ("results", [fake.DUPLICATE], "twice; ignored"),
    ("results", [fake.UNKNOWN], "who-is-this"),
    ("results", [fake.MISSING], None),
]


@both
@pytest.mark.parametrize("where, faults, told", NETWORK, ids=lambda value: str(value)[:60])
def test_a_broken_line_costs_nothing_twice(tmp_path, side: Side, where, faults, told):
    notes = Notes()
    with side.server() as api:
        api.fault(where, *faults)
        replies = side.ask(api, tmp_path, notes=notes)
        assert {reply.status for reply in replies} == {"ok"} and not api.take(where)
        assert_settled(side, api, tmp_path, replies, 5)
        assert told is None or any(told in line for line in notes.lines)


@both
@pytest.mark.parametrize("seed", range(6))
def test_all_of_it_at_once_costs_nothing_twice(tmp_path, side: Side, seed):
    draw = Random(f"{seed}/storm")
    spoilt = {
        "create": [status(429), status(529), fake.DROP_AFTER_ACCEPTING, fake.DROP_BEFORE_ACCEPTING, status(500)],
        "upload": [status(429), fake.DROP_AFTER_ACCEPTING, fake.DROP_BEFORE_ACCEPTING, status(500)],
        "retrieve": [status(429), status(502), fake.DROP_BEFORE_ACCEPTING, fake.GARBAGE],
        "list": [status(503), fake.DROP_BEFORE_ACCEPTING, fake.GARBAGE],
        "results": [fake.CUT_IN_A_LINE, fake.CUT_SILENTLY, fake.DUPLICATE, fake.UNKNOWN, fake.MISSING, status(529)],
    }
    often: Counter = Counter()

    def answer(params):
        often[shown(params)] += 1
        return side.expired if often[shown(params)] == 1 and draw.random() < 0.2 else "{}"

    with side.server(answer=answer, polls_until_ended=1) as api:
        for where, faults in spoilt.items():
            api.fault(where, *(draw.choice(faults) if draw.random() < 0.4 else None for _ in range(12)))
        replies = []
        for _ in range(6):  # a command that ends in an error is given again
            try:
                replies = side.ask(api, tmp_path, n=9)
                break
            except ClientError:
                continue
        assert {reply.status for reply in replies} == {"ok"}
        assert_settled(side, api, tmp_path, replies, 9)


# what comes back


@both
def test_every_failure_is_a_status_and_none_is_an_answer(tmp_path, side: Side):
    given = ["{}", side.refusal, side.cut_short, side.behind_thinking, '{"label": ', side.words.succeeded("")]
    by_question = {question.user: result for question, result in zip(questions(6), given, strict=True)}
    with side.server(answer=lambda params: by_question[shown(params)]) as api:
        replies = {r.digest: r for r in side.ask(api, tmp_path, n=6)}
        found = [replies[side.client().digest(question)] for question in questions(6)]
        assert [r.status for r in found] == ["ok", "refused", "truncated", "ok", "ok", "errored"]
        assert found[3].json() == {"label": "x"} and found[4].text == '{"label": '
        assert_settled(side, api, tmp_path, list(replies.values()), 6)
        again = side.ask(api, tmp_path, n=6)
        assert all(reply.reused for reply in again) and Counter(r.status for r in again) == Counter(r.status for r in found)


@both
def test_only_the_end_of_a_line_ends_a_result(tmp_path, side: Side):
    text = "one \u2028 two \u2029 three \x85 four \x0b five \x0c six \x1c \x1d \x1e seven \r\n eight"
    with side.server(answer=lambda params: side.words.succeeded(text)) as api:
        replies = side.ask(api, tmp_path)
        assert {reply.text for reply in replies} == {text}
        assert_settled(side, api, tmp_path, replies, 5)
        assert {reply.text for reply in side.ask(api, tmp_path)} == {text}


@both
@pytest.mark.parametrize("lost", ["expired", "canceled"])
def test_a_batch_that_half_ends_costs_only_the_other_half(tmp_path, side: Side, lost):
    often: Counter = Counter()

    def answer(params):
        often[shown(params)] += 1
        return getattr(side, lost) if often[shown(params)] == 1 and "[0]" in shown(params) else "{}"

    with side.server(answer=answer) as api:
        replies = side.ask(api, tmp_path)
        assert {reply.status for reply in replies} == {"ok"}
        assert_settled(side, api, tmp_path, replies, 5)
        assert sorted(len(batch.requests) for batch in api.batches.values()) == [1, 1, 2, 2]


@both
@pytest.mark.parametrize("lost, told", [("expired", "expired"), ("canceled", "canceled"), ("passing", "errored")])
def test_what_fails_at_no_cost_is_sent_three_times_then_told(tmp_path, side: Side, lost, told):
    with side.server(answer=lambda params: getattr(side, lost) if "[2]" in shown(params) else "{}") as api:
        replies = side.ask(api, tmp_path)
        assert Counter(reply.status for reply in replies) == {"ok": 4, told: 1}
        assert len(api.batches) == 5 and set(api.paid.values()) == {1}
        assert ledger_usd(tmp_path) == pytest.approx(side.server_usd(api))


@both
def test_what_would_fail_again_is_never_sent_again(tmp_path, side: Side):
    with side.server(answer=lambda params: side.words.errored()) as api:
        assert {reply.status for reply in side.ask(api, tmp_path, n=2)} == {"errored"}
        assert {(r.status, r.reused) for r in side.ask(api, tmp_path, n=2)} == {("errored", True)}
        assert len(api.batches) == 1 and ledger_usd(tmp_path) == 0 == side.server_usd(api)


MANY = "many"
ODD = [
    ({"usage": None}, "ok"),
    ({"usage": {}}, "ok"),
    ({"usage": {"in": MANY, "out": 20}}, "errored"),
    ({"usage": {"in": 5, "out": {"text": 20}}}, "errored"),
    ({"usage": {"in": float("nan"), "out": 20}}, "errored"),
    ({"usage": {"in": float("inf"), "out": 20}}, "errored"),
    ({"usage": {"in": 10**400, "out": 20}}, "errored"),
    ({"usage": [5, 20]}, "errored"),
    ({"usage": MANY}, "errored"),
    ({"content": 5}, "errored"),
    ({"content": {"text": "{}"}}, "errored"),
    ({"content": [["{}"], 5, None]}, "errored"),
]


@both
@pytest.mark.parametrize("odd, told", ODD, ids=str)
def test_an_answer_of_odd_form_spoils_no_other_and_stays_on_the_bill(tmp_path, side: Side, odd, told):
    with side.server() as api:
        side.distort(api, "[2]", odd)
        replies = side.ask(api, tmp_path)
        assert Counter(reply.status for reply in replies) == Counter({"ok": 4}) + Counter([told])
        assert len(api.batches) == 3 and set(api.paid.values()) == {1}
        assert_on_the_bill(side, api, tmp_path)
        assert all(reply.reused for reply in side.ask(api, tmp_path)) and len(api.batches) == 3
        (row,) = ledger.rows(Journal(tmp_path))
        assert row["n_answered"] == 5 and row["n_unpriced"] == ("usage" in odd)
        assert (row["possibly_usd"] > 0) == ("usage" in odd)


@both
def test_counts_below_zero_are_no_money_back(tmp_path, side: Side):
    with side.server() as api:
        for text in ("[0]", "[3]"):
            side.distort(api, text, {"usage": {"in": -5000, "out": -20}})
        replies = side.ask(api, tmp_path)
        assert {reply.status for reply in replies} == {"ok"} and min(reply.usage.usd for reply in replies) == 0.0


def test_cached_tokens_below_zero_are_no_money_back():
    usage = {"output_tokens": 0, "cache_creation": {"ephemeral_1h_input_tokens": 900}, "cache_creation_input_tokens": 100}
    for odd in (usage, usage | {"cache_creation": {"ephemeral_1h_input_tokens": -900}}):
        message = fake.succeeded("{}") | {"usage": odd}
        record = SIDES["anthropic_batch"].client().price.batch_usd
        assert succeeded("d", message, record)["usd"] == record(0, 0, *((0, 100) if odd is usage else (100, 0)))


@both
@pytest.mark.parametrize("id", [None, 5, ["x"], {"x": 1}], ids=str)
def test_a_result_whose_id_is_none_is_ignored(tmp_path, side: Side, id):
    with side.server() as api:
        lines = api.lines
        api.lines = lambda *a: [b'{"custom_id": %s}\n' % json.dumps(id).encode(), *lines(*a)]
        assert_settled(side, api, tmp_path, side.ask(api, tmp_path), 5)


# addresses, keys, money


@both
def test_a_server_that_answers_html_is_one_clear_error_and_nothing_is_lost(tmp_path, side: Side):
    places = ("list", "upload", "create", "retrieve", "results")
    with side.server() as api:
        for where in places:
            api.fault(where, *[fake.HTML] * 40)
        with pytest.raises(ClientError, match="does not answer like the API .*Sign in.*; check the address"):
            side.ask(api, tmp_path)
        for where in places:
            while api.take(where):
                pass
        assert_settled(side, api, tmp_path, side.ask(api, tmp_path), 5)


@both
@pytest.mark.parametrize("where", ["create", "retrieve", "results"])
def test_the_key_does_not_follow_a_redirect(tmp_path, side: Side, where):
    with side.server() as api:
        api.fault(where, fake.REDIRECT)
        with pytest.raises(ClientError, match="the key goes to one host"):
            side.ask(api, tmp_path)
        assert_settled(side, api, tmp_path, side.ask(api, tmp_path), 5)


@both
def test_the_key_is_nowhere_but_in_the_header(tmp_path, side: Side, caplog, capfd):
    notes = Notes()
    with caplog.at_level(logging.DEBUG), side.server() as api:
        api.fault("create", status(429, message=f"slow down, {KEY}"), fake.DROP_AFTER_ACCEPTING)
        api.fault("results", fake.CUT_IN_A_LINE)
        side.ask(api, tmp_path, notes=notes)
        api.fault("create", status(401, message=f"bad key {KEY}"))
        with pytest.raises(ClientError, match="set a valid key") as caught:
            side.ask(api, tmp_path, n=7)
        assert api.keys == {KEY}
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    told = "\n".join([*notes.lines, caplog.text, *capfd.readouterr(), str(caught.value), repr(caught.value.__context__)])
    assert len(written) > 500 and KEY.encode() not in written and KEY not in told
    assert b"windows" not in written  # prompts stay out of the journal


@both
def test_nothing_is_sent_that_may_cost_more_than_the_limit(tmp_path, side: Side):
    with side.server() as api:
        with pytest.raises(ClientError, match=r"runtime\.max_usd = 1e-06, but 5 .*; set runtime\.max_usd="):
            side.ask(api, tmp_path, max_usd=0.000001)
        assert not api.batches and not api.count("POST", "")
        likely, most = side.client().foreseen(questions())
        with pytest.raises(ClientError, match=rf"may cost \${most:.4f} \(about \${likely.usd:.4f} is likely\)"):
            side.ask(api, tmp_path, max_usd=most * 0.9999)
        assert not api.batches
        notes = Notes()
        replies = side.ask(api, tmp_path, notes=notes, max_usd=most * 1.0001)
        assert any(f"about ${likely.usd:.4f}, at most ${most:.4f}" in line for line in notes.lines)
        assert 0 < sum(reply.usage.usd for reply in replies) <= most


@both
def test_a_limit_holds_though_every_byte_is_a_token(tmp_path, side: Side):
    def answer(params):
        n_bytes = len(json.dumps(params, ensure_ascii=False).encode())
        counts = {"in": n_bytes, "out": 64}
        return side.words.succeeded("{}", usage={side.counts[name]: n for name, n in counts.items()})

    with side.server(answer=answer, polls_until_ended=2) as api:
        likely, most = side.client().foreseen(questions())
        with pytest.raises(ClientError, match="is likely"):
            side.ask(api, tmp_path, max_usd=likely.usd)
        assert not api.batches
        watched = Watched(lambda: assert_on_the_bill(side, api, tmp_path))
        assert len(side.ask(api, tmp_path, notes=watched, max_usd=most)) == 5
        assert likely.usd < side.server_usd(api) <= most and watched.n_looks


@both
def test_results_that_always_break_off_stay_paid_for_and_are_fetched_later(tmp_path, side: Side):
    with side.server() as api:
        api.fault("results", *[fake.CUT_IN_A_LINE] * 5)
        with pytest.raises(ClientError, match="they stay paid for"):
            side.ask(api, tmp_path)
        assert_settled(side, api, tmp_path, side.ask(api, tmp_path), 5)


@both
def test_a_wait_outlives_an_api_that_is_away_for_a_while(tmp_path, side: Side, monkeypatch):
    monkeypatch.setattr(_batches_api, "TRIES", 1)
    notes = Notes()
    with side.server(polls_until_ended=1) as api:
        api.fault("retrieve", *[status(500)] * 3)
        assert_settled(side, api, tmp_path, side.ask(api, tmp_path, notes=notes), 5)
    assert sum("cannot be used now" in line for line in notes.lines) == 3


@both
def test_an_api_that_is_busy_without_end_is_waited_for_no_longer_than_our_patience(tmp_path, side: Side, monkeypatch):
    monkeypatch.setattr(_pace, "PATIENCE_SECONDS", 0.5)
    notes = Notes()
    with side.server() as api:
        api.fault("create", *[status(429, {"retry-after": "600"})] * 1000)
        with pytest.raises(ClientError, match="cannot be used now.*give the same command later"):
            side.ask(api, tmp_path, notes=notes)
        assert sum("is busy" in line for line in notes.lines) == 1
        api._faults.clear()
        assert_settled(side, api, tmp_path, side.ask(api, tmp_path), 5)


@both
def test_a_quota_that_is_used_up_is_not_an_api_that_is_busy(tmp_path, side: Side):
    with side.server() as api:
        api.fault("create", status(429, name="insufficient_quota"))
        with pytest.raises(ClientError, match="pay the bill"):
            side.ask(api, tmp_path)


@both
def test_a_batch_that_another_key_sent_is_not_paid_for_again(tmp_path, side: Side):
    with side.server() as api:
        digests = [side.client().digest(q) for q in questions()]
        entry = Journal(tmp_path).intend({}, digests, lambda i, d: d)
        Journal(tmp_path).sent(entry, "batch_of_others")
        with pytest.raises(ClientError, match="does not know it; use the key and address that sent it"):
            side.ask(api, tmp_path)
        assert not api.batches


@both
def test_results_that_are_not_found_stay_paid_for_while_the_api_must_have_them(tmp_path, side: Side):
    with side.server() as api:
        api.fault("results", *[status(404)] * _exchange.FETCHES)
        with pytest.raises(ClientError, match="does not know its results; use the key and address .*/sent/.* to .*/void/"):
            side.ask(api, tmp_path)
        assert_on_the_bill(side, api, tmp_path)
        assert_settled(side, api, tmp_path, side.ask(api, tmp_path), 5)


@both
def test_results_that_are_no_longer_kept_are_paid_for_again_and_stay_on_the_bill(tmp_path, side: Side, monkeypatch):
    monkeypatch.setattr(_exchange, "KEPT", timedelta(0))
    notes = Notes()
    with side.server() as api:
        api.fault("results", *[status(404)] * _exchange.FETCHES)
        assert {reply.status for reply in side.ask(api, tmp_path, notes=notes)} == {"ok"}
        assert any("no longer kept" in line for line in notes.lines)
        assert sorted(api.paid.values()) == [1, 1, 1, 2, 2]
        assert_on_the_bill(side, api, tmp_path)
        assert all(reply.reused for reply in side.ask(api, tmp_path))


@both
def test_a_batch_that_its_owner_gives_up_by_hand_is_sent_again_and_stays_on_the_bill(tmp_path, side: Side):
    with side.server() as api:
        api.fault("results", *[status(404)] * 99)
        with pytest.raises(ClientError, match="does not know its results") as caught:
            side.ask(api, tmp_path)
        while api.take("results"):
            pass
        source, target = re.search(r"copy (\S+) to (\S+)", str(caught.value)).groups()
        Path(target).parent.mkdir(exist_ok=True)
        shutil.copy(source, target)
        assert {reply.status for reply in side.ask(api, tmp_path)} == {"ok"}
        assert sorted(api.paid.values()) == [1, 1, 1, 2, 2]
        assert_on_the_bill(side, api, tmp_path)


@both
@pytest.mark.parametrize("killed_at", ["sent", "at poll"])
def test_what_a_killed_process_sent_counts_towards_the_limit_of_the_next(tmp_path, side: Side, killed_at, monkeypatch):
    def used(params):
        return side.words.succeeded("{}", usage={side.counts["out"]: 64})

    client = side.client(batch_requests=5)
    _, first = client.foreseen(questions())
    _, second = client.foreseen(questions(8)[5:])
    with side.server(answer=used, polls_until_ended=3) as api:
        with monkeypatch.context() as patched, pytest.raises(Killed):
            if killed_at == "sent":
                patched.setattr(Journal, "sent", die)
            side.ask(api, tmp_path, client=client, notes=Watched(die))
        spending._spent.clear()  # as in a new process
        notes = Notes()
        assert not any(batch.results for batch in api.batches.values())
        with pytest.raises(ClientError, match="3 requests .* is spent; set"):
            side.ask(api, tmp_path, n=8, client=client, notes=notes, max_usd=second)
        assert any("what is in flight may cost less, and is waited for first" in line for line in notes.lines)
        assert len(api.batches) == 1 and Journal(tmp_path).spent_usd == pytest.approx(side.server_usd(api))
        paid = side.server_usd(api)
        assert paid < first
        spending._spent.clear()
        replies = side.ask(api, tmp_path, n=8, client=client, max_usd=second)
        assert_settled(side, api, tmp_path, replies, 8)


@both
def test_what_is_in_flight_may_turn_out_to_leave_enough_of_the_limit(tmp_path, side: Side):
    client = side.client(batch_requests=5)
    _, most = client.foreseen(questions())
    with side.server(polls_until_ended=3) as api:
        with pytest.raises(Killed):
            side.ask(api, tmp_path, client=client, notes=Watched(die))
        spending._spent.clear()
        notes = Notes()
        replies = side.ask(api, tmp_path, n=8, client=client, notes=notes, max_usd=most)
        assert any("is waited for first" in line for line in notes.lines)
        assert_settled(side, api, tmp_path, replies, 8)
