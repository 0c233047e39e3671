"""What breaks between us and a live API. The server's ledger is the judge: no answer that arrived is paid for twice, and
our ledger never says less than its."""

from __future__ import annotations

import itertools
import json
import logging
import multiprocessing
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

from artifacts import ledger
from artifacts.errors import LeaseLost
from artifacts.journal import Journal
from artifacts.live import asking
from tasks.clients import _flight, _pace
from tasks.clients.anthropic import Anthropic
from tasks.clients.base import ClientError, Reply, Request
from tasks.clients.openai import OpenAI
from tasks.progress import Progress
from tasks.spec import Runtime
from tests import fake_anthropic as fake
from tests import objects
from tests.fake_anthropic import FakeAnthropic, errored, status, succeeded
from tests.fake_openai import FakeOpenAI, error, said
from tests.fault import live_child
from tests.fault.sides import KEY, Notes


@dataclass
class World:
    """A live API and its client; both kinds have the same prices here."""

    kind: str
    api: Any
    root: Path

    @property
    def where(self) -> str:
        return {"anthropic": "message", "openai": "chat"}[self.kind]

    def client(self, **fields: Any) -> Any:
        priced = {"price_input": 1.0, "price_output": 2.0, "in_flight": 8, **fields}
        return Anthropic(**priced) if self.kind == "anthropic" else OpenAI(**{"model": "m", **priced})

    def fault(self, *what: Any) -> None:
        self.api.fault(self.where, *what)

    def answers(self, n: int = 5, notes: Progress | None = None, client: Any = None, **limits: Any) -> Iterator[Reply]:
        runtime = Runtime(base_url=self.api.url, poll_seconds=0.02, **limits)
        return (client or self.client()).answer(questions(n), Journal(self.root), runtime, notes or Progress())

    def ask(self, *args: Any, **fields: Any) -> list[Reply]:
        return list(self.answers(*args, **fields))

    @property
    def usd(self) -> float:
        """What the server was paid."""
        return (1.0 * self.api.paid_tokens[0] + 2.0 * self.api.paid_tokens[1]) / 1e6

    @property
    def ledger(self) -> dict[str, Any]:
        (row,) = ledger.rows(Journal(self.root))
        return row

    def refused(self) -> Any:
        return errored() if self.kind == "anthropic" else error(400)

    def said(self, what: str) -> Any:
        """An answer that is no answer."""
        return {
            "anthropic": {"refusal": succeeded("I cannot", stop="refusal"), "cut": succeeded('{"a', stop="max_tokens"),
                          "nothing": succeeded(None), "blank": succeeded(" ")},
            "openai": {"refusal": said(None, refusal="I cannot"), "cut": said('{"a', finish="length"),
                       "nothing": said(None), "blank": said(" "), "filter": said("", finish="content_filter")},
        }[self.kind][what]  # fmt: skip


def questions(n: int = 5) -> list[Request]:
    return [Request("system", f'{{"windows": [{i}]}}', {"type": "object", "properties": {}}, 64) for i in range(n)]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    for name in ("ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL", "ANTHROPIC_CONFIG_DIR", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(_pace, "LONGEST_WAIT_SECONDS", 0.02)


@pytest.fixture(params=["anthropic", "openai"])
def world(request, tmp_path) -> Iterator[World]:
    server = {"anthropic": FakeAnthropic, "openai": FakeOpenAI}[request.param](answer=lambda params: "{}")
    with server as api:
        yield World(request.param, api, tmp_path / "journal")


@pytest.fixture(scope="module")
def fork():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.fault.live_child"])
    return context


# the network


@pytest.mark.parametrize(
    "faults, n_lost",
    [
        ([status(429), status(529), status(503), status(408)], 1),  # 408 may have been worked on
        ([status(429, {"retry-after": "4290000"})], 0),
        ([status(500), status(502)], 2),
        ([fake.DROP_AFTER_ACCEPTING], 1),
        ([fake.DROP_BEFORE_ACCEPTING, fake.DROP_AFTER_ACCEPTING], 2),
        ([fake.GARBAGE] * 2, 2),
    ],
)
def test_a_broken_line_ends_in_answers_and_our_ledger_says_no_less_than_the_servers(world, faults, n_lost):
    world.fault(*faults)
    replies = world.ask()
    assert Counter(reply.status for reply in replies) == {"ok": 5}
    row = world.ledger
    assert row["n_requests"] == row["n_answered"] == 5
    assert row["usd"] == pytest.approx(sum(reply.usage.usd for reply in replies))
    assert row["usd"] + row["possibly_usd"] >= world.usd
    most = world.client().most_usd(questions()[0])
    assert row["possibly_usd"] == pytest.approx(n_lost * most)
    assert Journal(world.root).spent_usd == pytest.approx(row["usd"] + row["possibly_usd"])
    world.api.seen.clear()
    assert all(reply.reused for reply in world.ask()) and not world.api.seen


def test_without_faults_both_ledgers_say_the_same(world):
    replies = world.ask(n=20)
    assert world.ledger["usd"] == pytest.approx(world.usd) == pytest.approx(sum(r.usage.usd for r in replies))
    assert world.ledger["possibly_usd"] == 0.0
    assert [world.ledger[name] for name in ("input_tokens", "output_tokens")] == world.api.paid_tokens


def test_an_answer_that_never_comes_is_given_up_in_time_and_may_have_been_paid_for(world):
    world.fault(*[fake.HANG] * 3)
    replies = world.ask(n=1, client=world.client(timeout_seconds=0.2))
    assert [(r.status, r.detail) for r in replies] == [("errored", "no answer within client.timeout_seconds (3 tries)")]
    assert world.ledger["n_answered"] == 0 and world.ledger["possibly_usd"] >= world.usd > 0
    assert [r.status for r in world.ask(n=1)] == ["ok"]
    assert world.ledger["usd"] + world.ledger["possibly_usd"] >= world.usd


def test_tries_that_are_used_up_are_a_status_and_the_next_command_asks_again(world):
    world.fault(*[status(529, {"server": "x"}, message="overloaded")] * 4)
    (reply,) = world.ask(n=1, client=world.client(tries=4))
    assert reply.status == "errored" and "overloaded" in reply.detail and "4 tries" in reply.detail
    assert world.ledger["possibly_usd"] == 0.0
    assert [r.status for r in world.ask(n=1)] == ["ok"]


def test_a_server_that_is_busy_is_waited_for_longer_than_tries_last(world):
    world.fault(*[status(429, {"server": "x"}), status(503), status(529)] * 5)
    notes = Notes()
    assert [r.status for r in world.ask(n=3, notes=notes, client=world.client(tries=2))] == ["ok"] * 3
    told = [line for line in notes.lines if re.search(r"is busy \((429|503|529)", line)]  # of three at once, by whose answer came first
    assert len(told) == 1 and world.ledger["possibly_usd"] == 0.0


def test_a_server_that_is_busy_without_end_is_waited_for_no_longer_than_our_patience(world, monkeypatch):
    monkeypatch.setattr(_pace, "PATIENCE_SECONDS", 0.5)
    world.fault(*[status(429, {"retry-after": "600"})] * 5000)
    began = time.monotonic()
    with pytest.raises(ClientError, match="requests in a row came to nothing .*give the same command later"):
        world.ask(n=100)
    assert 0.5 < time.monotonic() - began < 10 and world.ledger["possibly_usd"] == 0.0


def test_an_end_is_not_held_up_by_what_a_busy_server_asked_for(world, monkeypatch):
    monkeypatch.setattr(_pace, "LONGEST_WAIT_SECONDS", 600.0)
    world.api.seconds = 0.2
    world.fault(status(429, {"retry-after": "600"}), status(401))
    began = time.monotonic()
    with pytest.raises(ClientError, match="set a valid key"):
        world.ask(n=2)
    assert time.monotonic() - began < 20


def test_a_request_that_is_wrong_spoils_no_other(world):
    world.api.answer = lambda params: world.refused() if "[2]" in str(params["messages"]) else "{}"
    assert Counter(reply.status for reply in world.ask()) == {"ok": 4, "errored": 1}


def test_a_question_that_a_router_objects_to_spoils_no_other(tmp_path):
    flagged = {"http": 403, "error": {"code": 403, "message": "flagged", "metadata": {"flagged_input": "x", "reasons": []}}}
    with FakeOpenAI(answer=lambda params: flagged if "[2]" in str(params["messages"]) else "{}") as api:
        assert Counter(reply.status for reply in World("openai", api, tmp_path).ask()) == {"ok": 4, "errored": 1}


def test_numbers_that_cannot_be_are_no_answer(world):
    usage = {name: 1e999 for name in ("input_tokens", "output_tokens", "prompt_tokens", "completion_tokens")}
    world.api.answer = lambda params: succeeded("{}", usage=usage) if world.kind == "anthropic" else said("{}", usage=usage)
    assert {r.status for r in world.ask(n=1)} == {"errored"} and world.ledger["usd"] == 0.0
    assert world.ledger["possibly_usd"] > 0.0


def test_a_server_that_fails_every_request_is_not_asked_for_ever(world):
    world.api.answer = lambda params: world.refused()
    with pytest.raises(ClientError, match=r"32 requests in a row came to nothing .*told to.*give the same command later"):
        world.ask(n=500)
    assert len(world.api.seen) < 60


def test_no_server_at_all_is_an_error_that_loses_nothing(world):
    world.api._server.shutdown()
    world.api._server.server_close()
    with pytest.raises(ClientError, match="cannot be reached"):
        world.ask(n=100, client=world.client(tries=2))
    assert ledger.rows(Journal(world.root))[0]["possibly_usd"] == 0.0, "what never connected cost nothing"


@pytest.mark.parametrize("code, what", [(401, "set a valid key"), (402, "pay the bill"), (403, "ask for access"), (404, "client.model")])
def test_what_no_request_would_survive_ends_the_run_with_one_error(world, code, what):
    world.fault(*[status(code, message=f"no, {KEY}")] * 50)
    with pytest.raises(ClientError, match=what) as caught:
        world.ask(n=40)
    assert KEY not in str(caught.value) and len(world.api.seen) <= 9
    world.api._faults.clear()
    assert {reply.status for reply in world.ask(n=40)} == {"ok"}
    assert world.ledger["possibly_usd"] == 0.0


def test_a_quota_that_is_used_up_is_not_a_server_that_is_busy(tmp_path):
    with FakeOpenAI(answer=lambda params: error(429, "you exceeded your quota", "insufficient_quota")) as api:
        world = World("openai", api, tmp_path)
        with pytest.raises(ClientError, match="exceeded your quota.*pay the bill"):
            world.ask()


def test_a_server_of_web_pages_is_one_clear_error_and_nothing_is_lost(world):
    assert len(world.ask(n=2)) == 2
    world.fault(*[fake.HTML] * 20)
    with pytest.raises(ClientError, match=r"but it answers with an HTML page \('Sign in'\), not like the API; set"):
        world.ask(n=10)
    world.api._faults.clear()
    assert sorted(reply.reused for reply in world.ask(n=10)) == [False] * 8 + [True] * 2


def test_the_key_does_not_follow_a_redirect(world):
    world.fault(*[fake.REDIRECT] * 5)
    with pytest.raises(ClientError, match="the key goes to one host"):
        world.ask()


def test_all_wait_when_the_server_is_busy(world, monkeypatch):
    monkeypatch.setattr(_pace, "LONGEST_WAIT_SECONDS", 30.0)
    world.fault(status(429, {"retry-after-ms": "400"}))
    world.api.seconds = 0.1
    when = []
    world.api.before = lambda where: when.append(time.monotonic())
    world.ask(n=12, client=world.client(in_flight=4))
    assert len(when) == 13 and sum(t < when[0] + 0.4 for t in when) <= 4, "those that were on their way"


# how many at once


def test_64_requests_are_in_flight_at_once(world):
    world.api.seconds = 0.2
    together, arrived = threading.Barrier(64), itertools.count()

    def answer(params: Any) -> str:
        if next(arrived) < 64:
            together.wait(60)  # none of the first 64 is answered before all of them are there
        return "{}"

    world.api.answer = answer
    assert len(world.ask(n=200, client=world.client(in_flight=64))) == 200
    assert world.api.most_at_once == 64 and set(world.api.paid.values()) == {1}


def test_no_more_requests_are_in_flight_than_asked_for(world):
    world.api.seconds = 0.02
    world.ask(n=30, client=world.client(in_flight=3))
    assert world.api.most_at_once == 3


def test_requests_leave_no_faster_than_asked_for(world):
    when = []
    world.api.before = lambda where: when.append(time.monotonic())
    world.ask(n=16, client=world.client(requests_per_minute=600))  # eleven at once, then one each 100 ms
    assert len(when) == 16 and when[-1] - when[0] >= 0.3


def test_twice_the_same_question_is_asked_once(world):
    runtime = Runtime(base_url=world.api.url)
    replies = list(world.client().answer(questions(3) * 2, Journal(world.root), runtime, Progress()))
    assert len(replies) == 3 and len(world.api.seen) == 3


def test_it_works_in_a_thread_and_under_a_running_loop(world):
    import asyncio

    async def within() -> list[Reply]:
        return world.ask(n=3)

    assert len(asyncio.run(within())) == 3
    found: list[Reply] = []
    thread = threading.Thread(target=lambda: found.extend(world.ask(n=6)))
    thread.start()
    thread.join()
    assert sorted(reply.reused for reply in found) == [False] * 3 + [True] * 3


def test_requests_that_cannot_be_made_end_the_run_with_their_own_error(world):
    class Broken(list):
        passes = 0

        def __iter__(self):
            self.passes += 1
            yield from questions(20)
            if self.passes > 2:
                raise KeyError("a hole in the mine")

    with pytest.raises(KeyError, match="a hole in the mine"):
        list(world.client().answer(Broken(), Journal(world.root), Runtime(base_url=world.api.url), Progress()))
    assert all(reply.reused for reply in world.ask(n=len(world.api.paid)))


# answers


@pytest.mark.parametrize("what, found", [("refusal", "refused"), ("cut", "truncated"), ("nothing", "errored"), ("blank", "errored")])
def test_what_is_no_answer_is_data_and_never_asked_again(world, what, found):
    world.api.answer = lambda params: world.said(what)
    assert {reply.status for reply in world.ask()} == {found}
    again = world.ask()
    assert {reply.status for reply in again} == {found} and all(reply.reused for reply in again)
    assert set(world.api.paid.values()) == {1} and world.ledger["usd"] == pytest.approx(world.usd)


def test_the_content_filter_is_a_refusal(tmp_path):
    with FakeOpenAI(answer=lambda params: said("", finish="content_filter")) as api:
        assert {r.status for r in World("openai", api, tmp_path).ask()} == {"refused"}


def test_the_text_is_found_behind_the_models_thinking(tmp_path):
    with FakeAnthropic(answer=lambda params: succeeded({"label": "x"}, thinking=True)) as api:
        assert [reply.json() for reply in World("anthropic", api, tmp_path).ask(n=1)] == [{"label": "x"}]


def test_answers_are_shared_by_all_runs_and_need_neither_key_nor_server(world, monkeypatch):
    world.ask(n=3)
    assert sorted(reply.reused for reply in world.ask(n=5)) == [False, False, True, True, True]
    world.api._server.shutdown()
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    monkeypatch.delenv("OPENAI_API_KEY")
    assert all(reply.reused for reply in world.ask(n=5))


# money


def test_the_limit_stops_before_it_is_passed_and_keeps_what_was_paid(world):
    world.api.seconds = 0.02
    client = world.client(in_flight=16)
    limit = 8 * client.most_usd(questions()[0])
    kept = []
    with pytest.raises(ClientError, match=r"runtime.max_usd = .*, but \d+ requests to .* may cost \$.* is spent; set runtime.max_usd="):
        for reply in world.answers(n=200, client=client, max_usd=limit):
            kept.append(reply)
    assert len(kept) == len(world.api.paid) > 8, "what is not spent of the most is there for others"
    assert world.usd <= limit and world.ledger["usd"] == pytest.approx(world.usd) and world.ledger["possibly_usd"] == 0.0
    assert limit - world.usd < client.most_usd(questions()[0]), "and it is used"
    assert sum(r.reused for r in world.ask(n=200)) == len(kept) and set(world.api.paid.values()) == {1}


def test_tries_whose_answer_is_lost_count_towards_the_limit(world):
    world.fault(*[fake.DROP_AFTER_ACCEPTING] * 100)
    limit = 2.5 * world.client().most_usd(questions()[0])
    with pytest.raises(ClientError, match="is spent"):
        world.ask(n=20, max_usd=limit)
    assert sum(world.api.paid.values()) == 2 and world.usd <= world.ledger["possibly_usd"] <= limit


def test_a_model_of_unknown_price_is_asked_without_a_limit(world):
    client = world.client(model="of-tomorrow", price_input=None, price_output=None)
    notes = Notes()
    replies = world.ask(client=client, notes=notes, max_usd=None)
    assert {(r.status, r.usage.usd) for r in replies} == {("ok", None)}
    assert any("at a price that is not known" in line and "no limit" in line for line in notes.lines)
    assert world.ledger["n_unpriced"] == 5


def test_the_most_that_a_request_can_cost_is_never_below_what_it_costs(world):
    text = "".join(chr(Random(i).randrange(0x4E00, 0x9FFF)) for i in range(2000))
    request = Request(text, text, None, 64)
    worst = len(text.encode()) * 2, 64  # a token per byte
    client = world.client()
    assert client.most_usd(request) >= client.price.live_usd(*worst)
    if world.kind == "anthropic":
        assert client.most_usd(request) >= client.price.live_usd(0, 64, write_5m=worst[0])


# killed, stopped, two at once


def kills(fork, world: World, n: int, n_kills: int, seed: int) -> int:
    """Ask, killed again and again at random times; how many were killed before they were done."""
    draw, killed, handed = Random(seed), 0, set()
    client = live_child.CLIENTS[world.kind]
    names = {client.digest(request): fake.digest(client.params(request)) for request in live_child.requests(n)}
    world.api.seconds = 0.02
    for _ in range(n_kills):
        arrived = Counter(world.api.paid)
        known = {record["digest"] for _, records in Journal(world.root).entries() for record in records if record["final"]}
        assert handed <= known, "what is handed out is in the journal"
        out = fork.SimpleQueue()
        child = fork.Process(target=live_child.ask, args=(world.kind, world.api.url, str(world.root), n, out))
        enough = len(world.api.seen) + draw.randrange(12)
        child.start()
        while child.is_alive() and len(world.api.seen) <= enough:
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.1))
        child.kill()
        child.join(30)
        killed += child.exitcode == -9
        while not out.empty():
            handed.add(out.get())
        handed.discard(n)  # told by one that came to its end
        assert all(world.api.paid[names[d]] == arrived[names[d]] for d in known), "what was recorded is not asked again"
        (row,) = ledger.rows(Journal(world.root)) or [{"usd": 0.0, "possibly_usd": 0.0}]
        assert row["usd"] + row["possibly_usd"] >= dollars(world) - 1e-12
    return killed


def dollars(world: World) -> float:
    price = live_child.CLIENTS[world.kind].price
    return price.live_usd(*world.api.paid_tokens)


@pytest.mark.parametrize("n, n_kills", [(80, 5), pytest.param(1500, 100, marks=pytest.mark.slow)])
def test_killed_at_any_time_nothing_that_was_recorded_is_paid_for_twice(world, fork, n, n_kills):
    killed = kills(fork, world, n, n_kills, seed=n_kills)
    assert killed >= n_kills / 2
    client = live_child.CLIENTS[world.kind]
    replies = list(client.answer(live_child.requests(n), Journal(world.root), Runtime(base_url=world.api.url), Progress()))
    assert Counter(reply.status for reply in replies) == {"ok": n}
    in_flight = 2 * client.in_flight
    assert len(world.api.paid) == n and sum(world.api.paid.values()) - n <= killed * in_flight


def test_two_processes_with_the_same_questions_share_them(world, fork):
    world.api.seconds = 0.05
    outs = [fork.SimpleQueue() for _ in range(2)]
    children = [fork.Process(target=live_child.ask, args=(world.kind, world.api.url, str(world.root), 40, out)) for out in outs]
    for child in children:
        child.start()
    new = [list(iter(out.get, 40)) for out in outs]
    for child in children:
        child.join(60)
    assert len(set(new[0]) | set(new[1])) == len(new[0]) + len(new[1]) == 40
    assert set(world.api.paid.values()) == {1}


def test_who_stops_listening_keeps_what_was_in_flight(world):
    world.api.seconds = 0.1
    replies = world.answers(n=50)
    next(replies)
    replies.close()
    paid = len(world.api.paid)
    assert 8 <= paid < 30
    assert sum(reply.reused for reply in world.ask(n=50)) == paid and set(world.api.paid.values()) == {1}
    assert world.ledger["possibly_usd"] == 0.0


def test_who_stops_listening_does_not_wait_for_ever(world, monkeypatch):
    monkeypatch.setattr(_flight, "GRACE_SECONDS", 0.1)
    world.fault(None, *[fake.HANG] * 20)  # for a minute each
    replies = world.answers(n=20)
    next(replies)
    begun = time.monotonic()
    replies.close()
    assert time.monotonic() - begun < 30
    row = world.ledger
    assert row["n_answered"] == 1 and row["usd"] + row["possibly_usd"] >= world.usd > row["usd"]


def test_a_full_disk_ends_the_run_and_nothing_more_is_sent(world, monkeypatch):
    write, left = Journal._create, [3]

    def full(self, path, lines):
        left[0] -= "live/" in path
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        return write(self, path, lines)

    monkeypatch.setattr(Journal, "_create", full)
    world.api.seconds = 0.02
    with pytest.raises(OSError, match="No space left"):
        world.ask(n=300)
    assert len(world.api.seen) < 100


# secrets


def test_the_key_is_nowhere_but_in_the_header(world, caplog, capfd):
    notes = Notes()
    with caplog.at_level(logging.DEBUG):
        world.fault(status(429, message=f"slow down, {KEY}"), fake.DROP_AFTER_ACCEPTING, status(500, message=KEY), fake.GARBAGE)
        replies = world.ask(notes=notes)
    assert world.api.keys == {KEY}
    written = b"".join(path.read_bytes() for path in world.root.rglob("*") if path.is_file())
    told = "\n".join([*notes.lines, caplog.text, *capfd.readouterr(), repr(replies)])
    assert len(written) > 500 and KEY.encode() not in written and KEY not in told
    assert b"windows" not in written, "nor are prompts"


# log-probabilities


def logprobs_of(api: FakeOpenAI, root: Path, k: int = 3, **fields: Any) -> list[Reply]:
    client = OpenAI(model="m", price_input=1.0, price_output=2.0, **fields)
    return list(client.answer([Request("s", "u", None, 9, logprobs=k)], Journal(root), Runtime(base_url=api.url), Progress()))


def test_log_probabilities_come_with_the_answer_and_out_of_the_journal(tmp_path):
    with FakeOpenAI(answer=lambda params: "yes no") as api:
        for _ in range(2):
            (reply,) = logprobs_of(api, tmp_path)
            assert [t.token for t in reply.logprobs] == ["yes", " ", "no"]
            assert reply.logprobs[0].logprob == -0.1 and len(reply.logprobs[0].top) == 3
        assert len(api.seen) == 1 and api.asked[0]["logprobs"] is True and api.asked[0]["top_logprobs"] == 3


@pytest.mark.parametrize(
    "given",
    [{"content": None}, {"content": []}, {"content": [{"token": "a"}]}, {"content": [{"token": "a", "logprob": 0.7}]},
     {"content": [{"token": "a", "logprob": "x"}]}, {"content": [{"token": "a", "logprob": float("nan")}]}, [], "no"],
)  # fmt: skip
def test_log_probabilities_that_cannot_be_are_none_and_the_answer_stays(tmp_path, given):
    with FakeOpenAI(answer=lambda params: said("a", logprobs=given)) as api:
        (reply,) = logprobs_of(api, tmp_path)
        assert (reply.status, reply.text, reply.logprobs) == ("ok", "a", None) and "no log-prob" in reply.detail


def test_log_probabilities_are_not_asked_for_unless_wanted(tmp_path):
    with FakeOpenAI() as api:
        World("openai", api, tmp_path).ask(n=1)
        assert "logprobs" not in api.asked[0] and json.loads(api.asked[0]["messages"][1]["content"]) == {"windows": [0]}


# a bucket


def test_on_a_bucket_answers_are_kept_and_a_dead_process_blocks_nobody(s3, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    bucket = objects.bucket(s3)

    def journal(name: str) -> Journal:
        return Journal(objects.store(s3, bucket, tmp_path / name).backend, "journal")

    client = OpenAI(model="m", price_input=1.0, price_output=2.0, in_flight=8)
    digests = [client.digest(request) for request in questions(20)]
    dead = journal("dead")
    with dead.sending():
        entering = dead.asking({"kind": "openai", "model": "m"}, digests)
        live = entering.__enter__()
    live.write([asking(digest, 0.5) for digest in digests[:3]])
    (lock,) = [path for path in dead._backend.paths("journal/live") if path.endswith(".lock")]
    held = json.loads(dead._backend.read(lock))
    dead._backend.write(lock, json.dumps({**held, "pid": 2**22 + 1}).encode())  # as if its process had been killed
    with FakeOpenAI() as api:
        for reused in (False, True):
            replies = list(client.answer(questions(20), journal(str(reused)), Runtime(base_url=api.url), Progress()))
            assert Counter((r.status, r.reused) for r in replies) == {("ok", reused): 20}
        assert set(api.paid.values()) == {1} and len(api.paid) == 20
    (row,) = ledger.rows(journal("ledger"))
    assert row["n_answered"] == 20 and row["possibly_usd"] == 1.5
    with pytest.raises(LeaseLost):
        live.write([asking(digests[4], 0.5)])
    entering.gen.close()
