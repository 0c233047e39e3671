"""The loop that makes what is missing: alone, and as one of several lanes."""

from __future__ import annotations

import json
import multiprocessing
import threading
import time
from types import SimpleNamespace

import pytest

from artifacts.attempt import Attempt
from artifacts.errors import LeaseLost, StoreUnwritable
from artifacts.gc import orphans
from artifacts.store import Store
from flows.ordering import lanes
from flows.realise import Part, StageFailed, realise
from tasks.progress import Progress
from tasks.realising import make_all, units
from tasks.spec import Runtime, Spec
from tasks.stage import stage
from tests.toys import counted, tree

RUNTIME = Runtime(mode="inline")


class Told(Progress):
    def __init__(self) -> None:
        self.events: list[tuple[str, dict]] = []
        self.notes: list[str] = []

    def event(self, what: str, **facts) -> None:
        self.events.append((what, facts))

    def note(self, text: str) -> None:
        self.notes.append(text)


class At(Spec):
    n: int = 0


@stage("leaf", version=1)
def leaf(job):
    if job.spec.n < 0:
        raise ValueError(f"leaf {job.spec.n} is bad")
    (job.out / "n").write_text(str(job.spec.n))
    return {"n": job.spec.n}


@stage("twig", version=1)
def twig(job):
    (job.out / "n").write_text("twig")
    return {}


def test_what_does_not_rest_on_a_failure_is_made_all_the_same(tmp_path):
    store, told = Store.at(tmp_path), Told()
    bad, worse, good = (twig(At(n=n), leaf=leaf(At(n=n))) for n in (-1, -2, 3))
    with pytest.raises(StageFailed, match="leaf: leaf -1 is bad") as found:
        realise([bad, worse, good], store, RUNTIME, told)
    assert isinstance(found.value.__cause__, ValueError) and [str(o) for o in found.value.others] == ["leaf: leaf -2 is bad"]
    assert store.find(good.artifact) and not store.find(bad.artifact)
    assert [f["stage"] for what, f in told.events if what == "failed"] == ["leaf", "leaf"]
    assert list(store.backend.paths("leases")) == []


def test_a_disk_that_is_full_stops_everything(tmp_path):
    store, calls = Store.at(tmp_path), []

    def submit(lane):
        calls.append(lane)
        raise StoreUnwritable("backend.root = ..., but the disk is full")

    with pytest.raises(StageFailed, match="the disk is full"):
        realise([leaf(At(n=1)), leaf(At(n=2))], store, RUNTIME, Progress(), submit)
    assert len(calls) == 1


def test_who_lost_a_lease_adopts_what_the_other_made(tmp_path):
    store, wanted, told = Store.at(tmp_path), leaf(At(n=1)), Told()

    def submit(lane):
        if not told.notes:
            make_all(lane, store, RUNTIME, Progress())
            raise LeaseLost("leaf: another has taken over")
        raise AssertionError("it exists")

    assert realise([wanted], store, RUNTIME, told, submit) == []
    assert told.notes == ["leaf: another has taken over"]


def theirs(job, *, by_lease: bool) -> None:
    """Another makes the artifact of a job: having taken us for dead, or woken between its last look and its commit."""
    (job.out / "begun").write_text("")
    store = Store.at(job.attempt.path.parents[5])
    if by_lease:
        (path,) = store.backend.paths("leases")
        record = json.loads(store.backend.read(path))
        store.backend.write(path, json.dumps({**record, "pid_started": "1"}).encode())
        other = store.begin(job.recipe.artifact, job.recipe.json)
    else:
        spent = SimpleNamespace(check=lambda: None, release=lambda: None, fence=1)
        other = Attempt(store, job.recipe.artifact, job.recipe.json, spent)
    (other.path / "n").write_text("theirs")
    other.commit({"n": 1})  # which sweeps our files away


@stage("overtaken", version=1)
def overtaken(job):
    theirs(job, by_lease=job.spec.n < 2)
    (job.out / "n").write_text("ours")
    return {}


@stage("unaware", version=1)
def unaware(job):
    theirs(job, by_lease=True)
    folder = job.out / "activations.zarr"
    folder.mkdir(parents=True)  # which were swept away, too
    (folder / "n").write_text("ours")
    job.attempt.check()


@pytest.mark.parametrize("made, told_so", [
    (overtaken(At(n=1)), "another has taken over its work"),
    (overtaken(At(n=2)), "another did meanwhile"),
    (unaware(At(n=1)), "another has taken over its work"),
])  # fmt: skip
def test_files_that_vanish_under_one_who_was_taken_for_dead_are_no_failure(tmp_path, made, told_so):
    store, told = Store.at(tmp_path), Told()
    assert realise([made], store, RUNTIME, told) == []
    assert (store.open(made.artifact).path / "n").read_text() == "theirs"
    assert len(told.notes) == 1 and told_so in told.notes[0]
    assert list(orphans(store)) == [] and list(store.backend.paths("leases")) == []


@stage("spoiled", version=1, together="n")
def spoiled(units):
    for unit in units:
        for job in unit:
            theirs(job, by_lease=True)
            job.failure = ValueError("half of the file is missing")


def test_a_failure_of_what_another_has_made_meanwhile_is_none(tmp_path):
    store, told, wanted = Store.at(tmp_path), Told(), spoiled(At(n=1))
    assert realise([wanted], store, RUNTIME, told) == []
    assert (store.open(wanted.artifact).path / "n").read_text() == "theirs" and len(told.notes) == 1


@stage("clumsy", version=1)
def clumsy(job):
    (job.out / "missing" / "n").write_text("")
    return {}


def test_files_that_are_missing_for_another_reason_are_one(tmp_path):
    with pytest.raises(StageFailed, match="No such file"):
        realise([clumsy(At(n=1))], Store.at(tmp_path), RUNTIME, Told())


def test_what_another_makes_is_left_to_it_and_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("flows.realise.TELL_SECONDS", 0.2)
    store, told = Store.at(tmp_path), Told()
    held, free = leaf(At(n=1)), leaf(At(n=2))
    attempt = store.begin(held.artifact, held.json)

    def finish():
        (attempt.path / "n").write_text("1")
        attempt.commit({"n": 1})

    threading.Timer(1.5, finish).start()
    begun = time.monotonic()
    records = realise([held, free], store, RUNTIME, told)
    assert [a for r in records for a in r.made] == [free.artifact] and time.monotonic() - begun > 1
    assert store.find(held.artifact).attempt == attempt.id
    assert len(told.notes) == 1 and "is being made by process" in told.notes[0]


def test_a_lane_goes_when_it_has_had_nothing_to_do_for_long_enough(tmp_path):
    store = Store.at(tmp_path)
    wanted = twig(At(n=1), leaf=leaf(At(n=1)))
    part = Part(mine=lambda r: r.stage.name == "twig", stay=lambda idle: idle < 0.6)
    assert realise([wanted], store, RUNTIME, Progress(), part=part) == []
    assert list(store.artifacts()) == []  # the leaf was not its to make


def test_what_others_wait_for_is_made_first(tmp_path):
    store, order = Store.at(tmp_path), []
    idle, awaited = leaf(At(n=1)), leaf(At(n=2))
    theirs = twig(At(n=2), leaf=awaited)

    def submit(lane):
        order.append(lane[0].spec.n)
        return make_all(lane, store, RUNTIME, Progress())

    part = Part(mine=lambda r: r.stage.name == "leaf")
    realise([idle, theirs], store, RUNTIME, Progress(), submit, part)
    assert order == [2, 1]


def test_lanes_begin_at_different_ends_and_skip_what_is_taken(tmp_path):
    store, log = Store.at(tmp_path / "s"), tmp_path / "log"
    wanted = tree(log, parts=6)
    realise([r for r in wanted.parents() for r in r.parents()], store, RUNTIME, Progress())
    (lane,) = lanes(list(wanted.parents()))
    first = sorted(units(lane)[0], key=lambda r: r.key)[0]
    busy = store.begin(first.artifact, first.json)
    told = Told()
    outcome = make_all(lane, store, RUNTIME, told, wait=False, share=(1, 2))
    order = sorted((path for path in log.iterdir() if path.name.startswith("pass")), key=lambda p: int(p.suffix[1:]))
    assert [p.name.split(".")[0] for p in order] == [f"pass-{n}" for n in (3, 4, 5, 1, 2)]  # from the middle round, without 0
    assert len(outcome.busy) == 1 and len(outcome.made) == len(lane) - len(units(lane)[0])
    busy.abandon()


class Sort(Spec):
    n: int = 0
    lr: float = 1.0


PASSES: list[tuple[int, ...]] = []


@stage("sort", version=1, together="n", at_most="saes_together")
def sort(units):
    for unit in units:
        PASSES.append(tuple(job.spec.n for job in unit))
        time.sleep(0.2)
        for job in unit:
            if job.spec.n < 0:
                job.failure = ValueError(f"sort {job.spec.n} is bad")
            (job.out / "n").write_text(str(job.spec.n))
            job.summary["n"] = job.spec.n


def test_one_of_a_pass_that_fails_stops_what_rests_on_it_alone(tmp_path):
    store, told = Store.at(tmp_path), Told()
    wanted = [twig(At(n=n), leaf=sort(Sort(n=n))) for n in (1, -2, 3)] + [twig(At(n=9), leaf=sort(Sort(n=4, lr=2.0)))]
    PASSES.clear()
    with pytest.raises(StageFailed, match="sort: sort -2 is bad") as found:
        realise(wanted, store, RUNTIME, told)
    assert [sorted(one) for one in PASSES] == [[-2, 1, 3], [4]] and found.value.others == []
    assert [store.find(one.artifact) is not None for one in wanted] == [True, False, True, True]
    assert list(store.backend.paths("leases")) == []
    assert [f["artifacts"] for what, f in told.events if what == "failed"] == [[next(wanted[1].parents()).address]]


@pytest.mark.parametrize("late", [False, True])
def test_a_sweep_spreads_over_the_processes_that_there_are(tmp_path, late):
    wanted = [sort(Sort(n=n)) for n in range(8)]
    PASSES.clear()

    def lane(k: int) -> None:  # the first one began when there was work for one alone
        part = Part(lane=k, lanes=1 if k == 0 else 4, abreast=4)
        realise(wanted, Store.at(tmp_path), RUNTIME, Progress(), part=part)

    crew = [threading.Thread(target=lane, args=(k,)) for k in range(4)]
    for thread in crew:
        thread.start()
        time.sleep(0.05 * late)
    for thread in crew:
        thread.join(30)
    assert sorted(n for one in PASSES for n in one) == list(range(8))
    assert max(map(len, PASSES)) == 2 and len(PASSES) >= 4


def test_processes_that_cut_a_sweep_otherwise_share_it_all_the_same(tmp_path):
    wanted = [sort(Sort(n=n)) for n in range(8)]
    PASSES.clear()
    begun = time.monotonic()

    def lane(k: int) -> None:
        realise(wanted, Store.at(tmp_path), RUNTIME, Progress(), part=Part(lane=k, lanes=2, abreast=(1, 3)[k]))

    crew = [threading.Thread(target=lane, args=(k,)) for k in range(2)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join(30)
    assert sorted(n for one in PASSES for n in one) == list(range(8)), PASSES
    assert time.monotonic() - begun < 5


def _work(root, log, lane, lanes):
    realise([tree(log, parts=12, sites=("a", "b"))], Store.at(root), RUNTIME, Progress(), part=Part(lane=lane, lanes=lanes))


def test_many_processes_make_everything_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    crew = [context.Process(target=_work, args=(tmp_path / "s", tmp_path / "log", k, 4)) for k in range(4)]
    for process in crew:
        process.start()
    for process in crew:
        process.join(100)
    assert [p.exitcode for p in crew] == [0] * 4
    assert sorted(counted(tmp_path / "log")) == sorted(["number-10", "total", *(f"pass-{n}" for n in range(12))])
    store = Store.at(tmp_path / "s")
    assert store.find(tree(tmp_path / "log", parts=12, sites=("a", "b")).artifact)
    assert list(store.backend.paths("leases")) == []
