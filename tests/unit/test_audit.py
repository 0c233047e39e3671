"""Looking at a store: what is there, why two artifacts differ, what is damaged, what may go."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from artifacts.store import Store
from flows import audit
from flows.plan import plan
from flows.runs import RunRecord, recorded
from flows.sweep import jobs
from tasks.spec import SpecError
from tests.making import make
from tests.toys import NumberSpec, PartSpec, number, part, total


@pytest.fixture
def store(tmp_path) -> Store:
    return Store.at(tmp_path / "store")


def chain(where: Path, value: int):
    """number -> part -> total, of which only the number's spec differs between two values."""
    base = number(NumberSpec(value=value, where=str(where)))
    return total(NumberSpec(value=0, where=str(where)), parts=[part(PartSpec(part=0, site="a", where=str(where)), base=base)])


def record(store: Store, *overrides: str) -> RunRecord:
    one = jobs([[f"backend.root={store.backend.root}", *overrides]])
    return RunRecord.new(one, plan(one), list(overrides))


def manifest_of(store: Store, recipe) -> Path:
    return store.backend.root / store.home(recipe.artifact) / "manifest.json"


def test_ls_tells_every_artifact_with_its_figures_and_one_stage_when_asked(store, tmp_path):
    make(chain(tmp_path / "log", 3), store)
    rows = audit.listed(store)["artifacts"]
    assert sorted(row["stage"] for row in rows) == ["number", "part", "total"]
    assert all(row["bytes"] > 0 and row["when"] for row in rows)
    (row,) = audit.listed(store, "number")["artifacts"]
    assert row["summary"] == {"value": 3}
    with pytest.raises(SpecError, match="numbr, but this store has artifacts of number, part, total"):
        audit.listed(store, "numbr")


def test_a_name_is_a_stage_and_as_many_characters_as_make_it_unique(store, tmp_path):
    recipe = chain(tmp_path / "log", 3)
    make(recipe, store)
    assert audit.find(store, recipe.key[:9]) == audit.find(store, f"total/{recipe.key[:4]}") == recipe.artifact
    with pytest.raises(SpecError, match="3 artifacts are called so"):
        audit.find(store, "")
    with pytest.raises(SpecError, match="no artifact of this store is called so"):
        audit.find(store, f"part/{recipe.key[:12]}")


def test_why_follows_the_inputs_to_the_field_that_differs(store, tmp_path):
    left, right = chain(tmp_path / "log", 3), chain(tmp_path / "log", 4)
    make(left, store)
    make(right, store)
    (only,) = audit.why(store, left.key, right.key)
    assert only == {"at": "total < part < number", "field": "value", "left": 3, "right": 4}
    assert audit.why(store, left.key, left.key) == []
    with pytest.raises(SpecError, match="only artifacts of one stage compare"):
        audit.why(store, left.key, next(left.parents()).key)


def test_why_says_where_the_trail_ends_when_an_input_was_deleted(store, tmp_path):
    left, right = chain(tmp_path / "log", 3), chain(tmp_path / "log", 4)
    make(left, store)
    make(right, store)
    store.delete(next(next(left.parents()).parents()).artifact)
    (only,) = audit.why(store, left.key, right.key)
    assert only["at"] == "total < part < number" and only["field"] == "key (recipe deleted)"


def test_a_damaged_manifest_is_listed_verified_and_can_be_named_for_deletion(store, tmp_path):
    recipe = chain(tmp_path / "log", 3)
    make(recipe, store)
    path = manifest_of(store, recipe)
    path.write_bytes(path.read_bytes().replace(b'"value": 0', b'"value": 1', 1))
    (row,) = [r for r in audit.listed(store)["artifacts"] if r["stage"] == "total"]
    assert "manifest.json has digest" in row["corrupt"]
    (fault,) = audit.verified(store, [])["faults"]
    assert fault["file"] == "manifest.json" and fault["key"] == recipe.key
    (may_go,) = audit.garbage(store, False, [f"total/{recipe.key[:6]}"])["unwanted"]
    assert may_go["artifact"] == f"total/{recipe.key}" and may_go["bytes"] > 0
    assert audit.collect(store, False, [recipe.key]) == may_go["bytes"]
    assert audit.verified(store, []) == {"checked": 2, "faults": []}


def test_damage_elsewhere_in_a_store_does_not_stop_a_plan(store, tmp_path):
    recipe = chain(tmp_path / "log", 3)
    make(recipe, store)
    manifest_of(store, recipe).write_text("{")
    assert plan(jobs([[f"backend.root={store.backend.root}"]])).todo


def test_only_artifacts_that_no_run_rests_on_are_unwanted(store, tmp_path):
    kept, loose = chain(tmp_path / "log", 3), chain(tmp_path / "log", 4)
    make(kept, store)
    make(loose, store)
    run = record(store)
    run.body["artifacts"] = [f"{r.stage.name}/{r.key}" for r in (kept, *kept.parents())]
    run.update("done")
    assert audit.garbage(store, unwanted=False) == {"orphans": [], "unwanted": []}
    assert audit.collect(store, unwanted=False) == 0
    names = {row["artifact"].split("/")[0] for row in audit.garbage(store, unwanted=True)["unwanted"]}
    assert names == {"number", "part", "total"}
    assert audit.collect(store, unwanted=True) > 0
    assert set(store.artifacts()) == {kept.artifact, next(kept.parents()).artifact}


def test_a_run_that_was_killed_is_not_called_running(store):
    run = record(store)
    assert [r["status"] for r in recorded(store)] == ["running"]
    path = store.backend.root / "runs" / f"{run.id}.json"
    body = json.loads(path.read_text())
    body["process"]["pid"] = 2**22 + 1  # beyond the largest that the kernel gives
    path.write_text(json.dumps(body))
    assert [r["status"] for r in recorded(store)] == ["killed"]
    body["process"] = {**body["process"], "pid": os.getpid(), "host": "elsewhere"}
    path.write_text(json.dumps(body))
    assert [r["status"] for r in recorded(store)] == ["running"]  # from here, nobody can tell


def test_a_run_records_what_it_wants_and_what_it_found(store):
    record(store, "train.seed=1")
    (run,) = recorded(store)
    assert run["overrides"] == ["train.seed=1"] and run["found"] == []
    assert run["wanted"]["layers.1"]["report"] in run["artifacts"]
    assert audit.shown(store, "last")["run"]["id"] == audit.shown(store, run["id"])["run"]["id"] == run["id"]


def test_a_store_without_a_report_says_how_to_get_one(store):
    with pytest.raises(SpecError, match="saint run makes one"):
        audit.latest_reports(store)
    record(store)
    with pytest.raises(SpecError, match="no run of this store has come to its report"):
        audit.latest_reports(store)
