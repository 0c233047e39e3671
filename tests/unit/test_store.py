"""The store: whole artifacts or none, whoever else is writing."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from artifacts.backends.local import Local
from artifacts.backends.memory import Memory
from artifacts.errors import ArtifactBusy, ArtifactCorrupt, ArtifactNotFound, LeaseLost, StoreUnwritable
from artifacts.gc import orphans, remove_orphans
from artifacts.keys import Artifact, key_of, recipe_json
from artifacts.lease import FOLDER
from artifacts.store import Store
from tests import objects

RECIPE = recipe_json("toy", 1, {"n": 3}, {})
TOY = Artifact("toy", key_of(**{"stage": "toy", "version": 1, "spec": {"n": 3}, "inputs": {}}))


@pytest.fixture(params=["local", "memory", "objects"])
def store(request, tmp_path):
    if request.param == "objects":
        there = request.getfixturevalue("s3")
        return objects.store(there, objects.bucket(there), tmp_path / "cache")
    return Store(Local(tmp_path / "store") if request.param == "local" else Memory())


def write(store: Store, text: str = "hello") -> None:
    with store.writing(TOY, RECIPE) as attempt:
        (attempt.path / "deep").mkdir()
        (attempt.path / "deep" / "words.txt").write_text(text)


def test_an_artifact_exists_only_after_its_commit(store):
    attempt = store.begin(TOY, RECIPE)
    (attempt.path / "words.txt").write_text("half")
    assert store.find(TOY) is None
    with pytest.raises(ArtifactNotFound):
        store.open(TOY)
    manifest = attempt.commit({"n": 3})
    assert store.find(TOY) == manifest
    opened = store.open(TOY)
    assert (opened.path / "words.txt").read_text() == "half"
    assert opened.summary == {"n": 3}
    assert list(store.artifacts()) == [TOY]


def test_a_second_writer_finds_the_lease_taken_and_later_the_artifact(store):
    attempt = store.begin(TOY, RECIPE)
    with pytest.raises(ArtifactBusy, match="is being made by process"):
        store.begin(TOY, RECIPE)
    attempt.commit({})
    assert store.begin(TOY, RECIPE) is None


def test_an_exception_frees_the_lease_and_keeps_the_checkpoint_for_the_next_attempt(store):
    with pytest.raises(RuntimeError, match="boom"), store.writing(TOY, RECIPE) as attempt:
        (attempt.path / "words.txt").write_text("half")
        (attempt.scratch / "step.bin").write_bytes(b"7")
        attempt.save("step.bin")
        raise RuntimeError("boom")
    again = store.begin(TOY, RECIPE)
    assert not any(again.path.iterdir())
    found = again.recover("step.bin")
    assert found.parent == again.scratch and found.read_bytes() == b"7"
    assert again.recover("other.bin") is None
    again.abandon()


def test_a_commit_leaves_nothing_behind_but_the_artifact(tmp_path):
    store = Store.at(tmp_path)
    with pytest.raises(RuntimeError), store.writing(TOY, RECIPE) as attempt:
        (attempt.scratch / "step.bin").write_bytes(b"7")
        raise RuntimeError
    write(store)
    names = sorted(p.name for p in tmp_path.rglob("*") if p.is_file())
    assert names == [".guard", "manifest.json", "words.txt"]


@pytest.mark.parametrize("position", [0, 2, 4])
def test_a_flipped_byte_is_found_on_open_and_by_verify(tmp_path, position):
    store = Store.at(tmp_path)
    write(store)
    (path,) = tmp_path.rglob("words.txt")
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    fresh = Store.at(tmp_path)
    with pytest.raises(ArtifactCorrupt, match=r"toy/\w{12}: deep/words.txt has digest .* but the manifest says .*; delete"):
        fresh.open(TOY)
    (fault,) = fresh.verify(TOY)
    assert fault.path == "deep/words.txt"


def test_every_flipped_byte_of_a_manifest_is_found(tmp_path):
    store = Store.at(tmp_path)
    write(store)
    (path,) = tmp_path.rglob("manifest.json")
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        if chr(whole[position]) in " \n":
            continue  # space between JSON tokens carries nothing
        data = bytearray(whole)
        data[position] ^= 1
        path.write_bytes(data)
        assert Store.at(tmp_path).verify(TOY), f"byte {position} ({whole[position : position + 1]!r}) was not noticed"
    path.write_bytes(whole)
    assert Store.at(tmp_path).verify(TOY) == []


def test_missing_short_and_extra_files_are_faults(tmp_path):
    store = Store.at(tmp_path)
    write(store)
    (path,) = tmp_path.rglob("words.txt")
    (path.parent / "extra.txt").write_text("?")
    assert [f.path for f in store.verify(TOY)] == ["deep/extra.txt"]
    (path.parent / "extra.txt").unlink()
    os.truncate(path, 2)
    assert "has 2 bytes, but the manifest says 5" in str(store.verify(TOY)[0])
    path.unlink()
    assert "is missing" in str(store.verify(TOY)[0])


def test_deleting_makes_room_for_making_it_again(store):
    write(store)
    store.delete(TOY)
    assert store.find(TOY) is None and list(store.artifacts()) == []
    write(store, "other")
    assert (store.open(TOY).path / "deep" / "words.txt").read_text() == "other"


def take_over(store) -> None:
    """Make the toy in the place of its holder, who is taken for dead."""
    (path,) = store.backend.paths(FOLDER)
    record = json.loads(store.backend.read(path))
    store.backend.write(path, json.dumps({**record, "pid_started": "1"}).encode())  # the pid lives, but is another process now
    store.begin(TOY, RECIPE).commit({"who": "taker"})


def test_a_holder_on_this_host_that_is_gone_loses_its_lease_at_once(store):
    attempt = store.begin(TOY, RECIPE)
    (path,) = store.backend.paths(FOLDER)
    record = json.loads(store.backend.read(path))
    attempt._lease._stop.set()
    changed = json.dumps({**record, "pid_started": "1"})  # the pid lives, but is another process now
    store.backend.write(path, changed.encode())
    taken = store.begin(TOY, RECIPE, ttl=3600)
    assert taken._lease.fence == record["fence"] + 1
    with pytest.raises(LeaseLost):
        attempt.commit({})
    assert store.find(TOY) is None
    taken.commit({"who": "taker"})
    assert store.find(TOY).summary == {"who": "taker"}
    assert list(store.backend.paths(FOLDER)) == []


def test_whom_it_was_taken_from_gives_up_in_peace_when_its_files_are_gone(store):
    first = store.begin(TOY, RECIPE)
    take_over(store)
    shutil.rmtree(first.scratch, ignore_errors=True)  # where both share a disk the taker has swept it away
    first.abandon()
    with pytest.raises(LeaseLost):
        first.check()
    store.delete(TOY)
    second = store.begin(TOY, RECIPE)
    second.abandon()
    second.check()  # it was given back, and not lost


def test_a_holder_elsewhere_is_dead_when_its_beat_stands_still_for_the_ttl(store, monkeypatch):
    attempt = store.begin(TOY, RECIPE, ttl=10)  # the holder's, who beats by it; a watcher's does not count
    attempt._lease._stop.set()
    (path,) = store.backend.paths(FOLDER)
    record = {**json.loads(store.backend.read(path)), "host": "elsewhere"}
    store.backend.write(path, json.dumps(record).encode())
    clock = [100.0]
    monkeypatch.setattr("artifacts.lease.time.monotonic", lambda: clock[0])
    with pytest.raises(ArtifactBusy):
        store.begin(TOY, RECIPE, ttl=1)
    clock[0] += 9
    with pytest.raises(ArtifactBusy):
        store.begin(TOY, RECIPE, ttl=1)
    store.backend.write(path, json.dumps({**record, "beat": 5}).encode())  # it moved after all
    clock[0] += 9
    with pytest.raises(ArtifactBusy):
        store.begin(TOY, RECIPE, ttl=1)
    clock[0] += 10
    store.begin(TOY, RECIPE, ttl=1).abandon()


def test_who_could_not_hear_a_holder_for_a_while_does_not_take_it_for_dead(tmp_path, monkeypatch):
    store = Store.at(tmp_path)
    attempt = store.begin(TOY, RECIPE, ttl=10)
    attempt._lease._stop.set()
    (path,) = store.backend.paths(FOLDER)
    store.backend.write(path, json.dumps({**json.loads(store.backend.read(path)), "host": "elsewhere"}).encode())
    clock = [100.0]
    monkeypatch.setattr("artifacts.lease.time.monotonic", lambda: clock[0])
    with pytest.raises(ArtifactBusy):
        store.begin(TOY, RECIPE, ttl=10)
    clock[0] += 30
    store.backend.answering_since = clock[0]  # it was away for longer than the ttl, for the holder too
    for seconds in (0, 9):
        clock[0] += seconds
        with pytest.raises(ArtifactBusy):
            store.begin(TOY, RECIPE, ttl=10)
    clock[0] += 1
    store.begin(TOY, RECIPE, ttl=10).abandon()


def test_orphans_are_listed_with_their_size_and_removed(store):
    with pytest.raises(RuntimeError), store.writing(TOY, RECIPE) as attempt:
        store.backend.create(f"{store.home(TOY)}/attempts/{attempt.id}/scratch/other.bin", b"1234567")
        (attempt.scratch / "step.bin").touch()
        raise RuntimeError
    assert [(o.artifact, o.bytes) for o in orphans(store)] == [(TOY, 7)]
    assert remove_orphans(store) == 7
    assert list(orphans(store)) == [] and not [path for path in store.backend.paths() if "attempts" in path]


def test_work_under_a_live_lease_is_no_orphan(tmp_path):
    store = Store.at(tmp_path)
    attempt = store.begin(TOY, RECIPE)
    (attempt.path / "words.txt").write_text("half")
    assert list(orphans(store)) == []
    attempt.abandon()


def test_a_root_that_is_a_file_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnwritable, match="backend.root = .* but it cannot be written"):
        Store.at(tmp_path / "file").backend.check_writable()


def test_paths_cannot_leave_the_root(tmp_path):
    with pytest.raises(ValueError, match="leaves the store"):
        Local(tmp_path).read("../secret")


@pytest.mark.parametrize("swept", [False, True])
def test_who_is_interrupted_after_the_commit_keeps_what_was_committed(tmp_path, monkeypatch, swept):
    store = Store.at(tmp_path)

    def interrupted(*given):
        monkeypatch.undo()
        if swept:
            store.sweep(*given)
        raise KeyboardInterrupt

    dead = store.begin(TOY, RECIPE)
    (dead.scratch / "step.bin").write_bytes(b"7")
    dead.abandon()
    monkeypatch.setattr(store, "sweep", interrupted)
    with pytest.raises(KeyboardInterrupt), store.writing(TOY, RECIPE) as attempt:
        (attempt.path / "words.txt").write_text("whole")
    assert list(orphans(store)) == []
    assert (store.open(TOY).path / "words.txt").read_text() == "whole"
    assert list(store.backend.paths(FOLDER)) == [] and not attempt.scratch.exists()


def test_a_death_between_commit_and_sweep_leaves_nothing_once_somebody_tidies(tmp_path, monkeypatch):
    store = Store.at(tmp_path)
    attempt = store.begin(TOY, RECIPE)
    (attempt.scratch / "step.bin").write_bytes(b"7")
    monkeypatch.setattr(store, "sweep", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        attempt.commit({})
    monkeypatch.undo()
    attempt._lease._stop.set()
    (path,) = (tmp_path / FOLDER).iterdir()
    path.write_text(json.dumps({**json.loads(path.read_text()), "pid_started": "1"}))
    store.tidy()
    assert store.find(TOY) is not None
    assert not any((tmp_path / FOLDER).iterdir()) and not list(tmp_path.rglob("step.bin"))
