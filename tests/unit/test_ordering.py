"""What is missing, and what goes together."""

from __future__ import annotations

from artifacts.store import Store
from flows.ordering import lanes, missing
from tasks.realising import units
from tests.making import make
from tests.toys import tree


def test_a_new_site_costs_passes_but_moves_no_old_key(tmp_path):
    store, log = Store.at(tmp_path / "s"), tmp_path / "log"
    make(tree(log, sites=("a",)), store)
    todo = missing([tree(log, sites=("a", "b"))], store)
    assert sorted(r.stage.name for r in todo) == ["part", "part", "part", "total"]
    assert {r.spec.site for r in todo if r.stage.name == "part"} == {"b"}


def test_what_is_wanted_hides_what_it_was_made_from(tmp_path):
    store, log = Store.at(tmp_path / "s"), tmp_path / "log"
    wanted = tree(log)
    make(wanted, store)
    for parent in wanted.parents():
        store.delete(parent.artifact)
    assert missing([wanted], store) == []


def test_lanes_hold_one_model_pass_and_units_one_shard(tmp_path):
    leaves = list(tree(tmp_path, parts=3, sites=("a", "b")).parents())
    (lane,) = lanes(leaves)
    assert [len(unit) for unit in units(lane)] == [2, 2, 2]
