from __future__ import annotations

import multiprocessing
import os

import pytest

from artifacts import ledger
from artifacts.backends.memory import Memory
from artifacts.journal import Journal
from artifacts.live import asking, lost, unsent
from tests import objects

WHO = {"kind": "openai", "model": "m"}


def answer(digest: str, usd: float | None = 0.25, final: bool = True) -> dict:
    return {"digest": digest, "status": "ok" if final else "errored", "final": final, "text": "t", "usd": usd,
            "input_tokens": 100, "output_tokens": 10}  # fmt: skip


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


def texts(journal: Journal, id: str) -> list[str]:
    return [record["digest"] for record in journal.replies(id)]


def test_answers_of_a_live_entry_are_found_while_it_is_asked_and_after(opened):
    journal = opened()
    with journal.sending():
        live_entry = journal.asking(WHO, ["a", "b", "c"])
        live = live_entry.__enter__()
    id = live.entry.id
    live.write([asking("a", 1.0), asking("b", 1.0)])
    assert opened().lookup(["a", "b"]).answered == {}
    live.write([answer("a")])
    found = opened().lookup(["a", "b", "c"])
    assert found.answered == {"a": id} and not found.in_flight and not found.unknown
    assert texts(opened(), id) == ["a"]
    with opened().sending():
        assert opened().claimed(["b", "c", "d"]) == {"b", "c"}, "who lives keeps what it claimed"
    (row,) = ledger.rows(opened())
    assert (row["n_requests"], row["n_answered"], row["usd"], row["possibly_usd"]) == (2, 1, 0.25, 1.0)
    live.write([answer("b", final=False)])
    live_entry.__exit__(None, None, None)
    assert opened().lookup(["a", "b", "c"]).answered == {"a": id} and texts(opened(), id) == ["a", "b"]
    with opened().sending():
        assert opened().claimed(["a", "b", "c"]) == set()
    (row,) = ledger.rows(opened())
    assert (row["n_requests"], row["n_answered"], row["usd"], row["possibly_usd"]) == (2, 1, 0.5, 0.0)


def test_a_live_entry_becomes_one_file_of_replies(tmp_path):
    journal = Journal(tmp_path)
    with journal.sending(), journal.asking(WHO, ["a", "b"]) as live:
        for digest in "ab":
            live.write([asking(digest, 1.0)])
            live.write([answer(digest)])
        assert len(list((tmp_path / "live").glob("*.jsonl"))) == 4
    assert not list((tmp_path / "live").glob("*.jsonl"))
    assert texts(Journal(tmp_path), live.entry.id) == ["a", "b"]


def test_what_was_lost_or_never_sent_is_told_from_what_was_paid(opened):
    journal = opened()
    with journal.sending(), journal.asking(WHO, "abcd") as live:
        live.write([asking(digest, 1.0) for digest in "abcd"])
        live.write([lost("a", 1.0), lost("a", 1.0), answer("a"), unsent("b"), lost("c", 1.0), unsent("c")])
    (row,) = ledger.rows(opened())
    assert row["n_requests"] == 3, "b never left"
    assert row["possibly_usd"] == 2.0 + 1.0 + 1.0, "two tries of a, one of c, and d, of which nobody heard"
    assert row["usd"] == 0.25 and row["n_answered"] == 1
    assert opened().lookup("abcd").answered == {"a": live.entry.id}


def test_an_entry_that_sent_nothing_is_void(opened):
    with opened().sending(), opened().asking(WHO, "ab") as live:
        live.write([asking("a", 1.0), unsent("a")])
    assert ledger.rows(opened()) == [] and not opened().lookup("ab").answered


def _die(root) -> None:
    journal = Journal(root)
    with journal.sending():
        entering = journal.asking(WHO, "abc")
        live = entering.__enter__()
    live.write([asking("a", 1.0), asking("b", 1.0), answer("a")])
    os._exit(9)


def test_what_a_dead_process_left_is_brought_to_its_end_by_the_next(tmp_path):
    child = multiprocessing.get_context("fork").Process(target=_die, args=(tmp_path,))
    child.start()
    child.join(30)
    before = ledger.rows(Journal(tmp_path))
    journal = Journal(tmp_path)
    with journal.sending():
        assert journal.claimed("abc") == set()
        assert set(journal.lookup("abc").answered) == {"a"}
        with journal.asking(WHO, "bc"):
            assert len(list((tmp_path / "live").glob("*.lock"))) == 1, "locks of the dead are swept"
    assert len(list((tmp_path / "replies").iterdir())) == 1 and not list((tmp_path / "live").glob("*.jsonl"))
    assert ledger.rows(Journal(tmp_path)) == before and before[0]["possibly_usd"] == 1.0


def test_parts_left_beside_their_replies_count_once(tmp_path):
    journal = Journal(tmp_path)
    with journal.sending(), journal.asking(WHO, "ab") as live:
        live.write([asking("a", 1.0), answer("a")])
        (part,) = (tmp_path / "live").glob("*.jsonl")
        kept = part.read_bytes()
    part.write_bytes(kept)  # as when a process dies between the two
    (row,) = ledger.rows(Journal(tmp_path))
    assert row["n_requests"] == 1 and row["usd"] == 0.25 and texts(Journal(tmp_path), live.entry.id) == ["a"]


def test_an_answer_of_a_process_that_was_thought_dead_is_found(tmp_path):
    journal = Journal(tmp_path)
    entering = journal.asking(WHO, "ab")
    with journal.sending():
        live = entering.__enter__()
    live.write([asking("a", 1.0), asking("b", 1.0)])
    Journal(tmp_path)._end(live.entry)  # another, to which it seemed dead
    live.write([answer("a")])
    entering.__exit__(None, None, None)
    assert Journal(tmp_path).lookup("ab").answered == {"a": live.entry.id}
    assert [r["status"] for r in Journal(tmp_path).replies(live.entry.id)] == ["lost", "lost", "ok"]


def test_batches_are_in_the_ledger_answered_or_not(opened):
    journal = opened()
    who = {"kind": "anthropic_batch", "model": "claude", "most_usd": 3.0}
    done, flying, _unknown, void, gone = (journal.intend(who, [d, d + "x"], lambda id, d: d) for d in "abcde")
    journal.sent(done, "1")
    journal.replied(done, [answer("a"), answer("ax", usd=None)])
    journal.sent(flying, "2")
    journal.void(void, "refused")
    journal.sent(gone, "3")
    journal.void(gone, "its results are no longer kept")
    (row,) = ledger.rows(opened())
    assert {**row, "day": None} == {
        "day": None, "kind": "anthropic_batch", "model": "claude", "n_requests": 8, "n_answered": 2, "n_unpriced": 1,
        "input_tokens": 200, "output_tokens": 20, "usd": 0.25, "possibly_usd": 9.0,
    }  # fmt: skip


def test_what_a_batch_may_have_cost_is_forgotten_only_where_it_was_never_taken(tmp_path):
    journal = Journal(tmp_path)
    refused, gone = (journal.intend(WHO, [d], lambda id, d: d) for d in "ab")
    journal.pay(refused, 1.0)
    journal.pay(gone, 2.0)
    journal.sent(gone, "1")
    (gone,) = journal.lookup("b").in_flight
    journal.void(refused, "refused")
    journal.void(gone, "its results are no longer kept")
    assert journal.spent_usd == 2.0


def test_rows_are_by_day_kind_and_model(tmp_path):
    journal = Journal(tmp_path)
    for kind, model in (("b", "x"), ("a", "y"), ("a", "x"), ("a", "x")):
        entry = journal.intend({"kind": kind, "model": model}, ["d"], lambda id, d: d)
        journal.replied(entry, [answer("d")])
    rows = ledger.rows(Journal(tmp_path))
    assert [(r["kind"], r["model"], r["n_requests"]) for r in rows] == [("a", "x", 2), ("a", "y", 1), ("b", "x", 1)]
    assert all(r["day"] == f"{entry.when:%Y-%m-%d}" for r in rows)


def test_a_limit_is_shared_and_what_would_pass_it_changes_nothing(tmp_path):
    one, two = (Journal(tmp_path).intend(WHO, [d], lambda id, d: d) for d in "ab")
    assert Journal(tmp_path).pay(one, 0.6, limit=1.0)
    assert not Journal(tmp_path).pay(two, 0.5, limit=1.0) and Journal(tmp_path).spent_usd == 0.6
    assert Journal(tmp_path).pay(one, 1.0, limit=1.0) and not Journal(tmp_path).pay(one, 1.1, limit=1.0)
