from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time

import pytest

from artifacts.backends import base
from artifacts.backends.memory import Memory
from artifacts.errors import LeaseLost
from artifacts.journal import Journal
from tests import objects


def name(id: str, digest: str) -> str:
    return f"{digest}-{id[-4:]}"


def record(digest: str, status: str = "ok", final: bool = True) -> dict:
    return {"digest": digest, "status": status, "final": final, "text": "t"}


@pytest.fixture(params=["local", "memory", "objects"])
def opened(request, tmp_path):
    """Opens the same journal, as any number of processes may."""
    if request.param == "local":
        return lambda: Journal(tmp_path)
    if request.param == "memory":
        memory = Memory()
        return lambda: Journal(memory, "journal")
    there = request.getfixturevalue("s3")
    bucket = objects.bucket(there)
    return lambda: Journal(objects.store(there, bucket, tmp_path / "cache").backend, "journal")


def test_what_was_intended_sent_and_answered_is_found_by_another_reader(opened):
    journal = opened()
    lost, flying, done = (journal.intend({"kind": "x"}, [d], name) for d in ("a", "b", "c"))
    journal.sent(flying, "batch-b")
    journal.sent(done, "batch-c")
    journal.replied(done, [record("c")])
    found = opened().lookup(["a", "b", "c", "d"])
    assert [e.id for e in found.unknown] == [lost.id]
    assert [(e.id, e.batch) for e in found.in_flight] == [(flying.id, "batch-b")]
    assert found.answered == {"c": done.id}
    assert opened().batches() == {"batch-b": flying.id, "batch-c": done.id}


def test_an_intent_keeps_the_ids_under_which_requests_travel(opened):
    entry = opened().intend({"kind": "x", "after": None}, ["aa", "bb"], name)
    again = opened().entry(entry.id)
    assert again.requests == {name(entry.id, "aa"): "aa", name(entry.id, "bb"): "bb"} and again.when == entry.when


def test_a_void_entry_answers_nothing_and_waits_for_nothing(opened):
    journal = opened()
    entry = journal.intend({}, ["a"], name)
    journal.void(entry, "refused")
    found = journal.lookup(["a"])
    assert not (found.answered or found.in_flight or found.unknown)


def test_only_final_replies_are_answers(opened):
    journal = opened()
    first = journal.intend({}, ["a", "b"], name)
    journal.sent(first, "1")
    journal.replied(first, [record("a"), record("b", "expired", final=False)])
    assert journal.lookup(["a", "b"]).answered == {"a": first.id}
    second = journal.intend({}, ["b"], name)
    journal.sent(second, "2")
    journal.replied(second, [record("b")])
    assert journal.lookup(["a", "b"]).answered == {"a": first.id, "b": second.id}


def test_replies_that_break_off_leave_no_trace(opened, tmp_path):
    journal = opened()
    entry = journal.intend({}, ["a", "b"], name)
    journal.sent(entry, "1")

    def breaking():
        yield record("a")
        raise ConnectionError

    with pytest.raises(ConnectionError):
        journal.replied(entry, breaking())
    assert not journal.has_replies(entry) and journal.lookup(["a"]).in_flight
    assert not list(tmp_path.glob("replies/.*"))


def test_the_first_to_record_replies_wins(opened):
    journal = opened()
    entry = journal.intend({}, ["a"], name)
    assert journal.replied(entry, [record("a")])
    assert not journal.replied(entry, [record("a", "expired", final=False)])
    assert [r["status"] for r in journal.replies(entry.id)] == ["ok"]


def test_replies_to_other_questions_are_not_read(tmp_path):
    journal = Journal(tmp_path)
    entry = journal.intend({}, ["a"], name)
    journal.sent(entry, "1")
    journal.replied(entry, [record("a")])
    (tmp_path / "replies" / f"{entry.id}.jsonl").write_text("not json")
    assert Journal(tmp_path).lookup(["b"]).answered == {}
    with pytest.raises(json.JSONDecodeError):
        Journal(tmp_path).lookup(["a"])


def test_what_a_process_spent_is_known_to_all_its_journals_of_one_store(tmp_path):
    one, two = (Journal(tmp_path / "one").intend({}, [d], name) for d in "ab")
    Journal(tmp_path / "one").pay(one, 0.9)  # at most
    Journal(tmp_path / "one").pay(two, 0.5)
    Journal(tmp_path / "one").pay(one, 0.25)  # in fact
    assert Journal(tmp_path / "one").spent_usd == 0.75 and Journal(tmp_path / "other").spent_usd == 0.0


def test_old_drafts_are_swept_and_young_ones_left(tmp_path, monkeypatch):
    journal = Journal(tmp_path)
    journal.intend({}, ["a"], name)
    draft = tmp_path / "intents" / ".x.json.1.tmp"
    draft.write_text("half")
    with journal.sending():
        assert draft.exists()
    monkeypatch.setattr(base, "STALE_SECONDS", -1.0)
    with journal.sending():
        assert not draft.exists()
    assert len(list((tmp_path / "intents").iterdir())) == 1


def _hold(root, ready):
    with Journal(root).sending():
        ready.set()
        time.sleep(60)


def test_one_process_sends_at_a_time_and_a_killed_one_blocks_nobody(tmp_path):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, ready))
    holder.start()
    assert ready.wait(30)
    waited = []

    def killed() -> None:
        waited.append(True)
        os.kill(holder.pid, signal.SIGKILL)

    begun = time.monotonic()
    with Journal(tmp_path).sending(waiting=killed):
        pass
    holder.join()
    assert waited and time.monotonic() - begun < 10


def test_who_lost_the_right_to_send_meanwhile_is_told_before_anything_leaves(s3, tmp_path):
    backend = objects.store(s3, objects.bucket(s3), tmp_path / "cache").backend
    slept, taker = Journal(backend, "journal"), Journal(backend, "journal")
    with slept.sending():
        kept = slept.intend({}, ["a"], name)
        held = json.loads(backend.read("journal/sending.lock"))
        backend.write("journal/sending.lock", json.dumps({**held, "id": "of another"}).encode())
        with pytest.raises(LeaseLost, match="journal/sending.lock: this process stood still"):
            slept.intend({}, ["b"], name)
    found = taker.lookup(["a", "b"])
    assert [e.id for e in found.unknown] == [kept.id], "the one that was never sent is void"
