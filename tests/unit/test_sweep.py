"""Jobs of a sweep, and what they want together."""

from __future__ import annotations

import json

import pytest

from flows.ordering import lanes
from flows.plan import passes, plan
from flows.recipes import recipes
from flows.sweep import check_stamp, jobs, packed, repeated, split, stamp, typed, unpacked, wanted
from tasks.realising import units
from tasks.spec import SpecError

GRID = ["capture.hookpoints=[layers.0],[layers.1]", "sae.expansion_factor=4,8,16"]


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_sweep_is_every_combination_with_what_tells_it_apart():
    found = jobs(split([*GRID, "train.seed=3"]))
    assert [job.pipeline.hookpoints for job in found] == [("layers.0",)] * 3 + [("layers.1",)] * 3
    assert [job.settings for job in found] == [{"sae.expansion_factor": n} for n in (4, 8, 16)] * 2
    assert found[1].label == "sae.expansion_factor=8" and jobs([["sae.k=4"]])[0].label == ""
    assert isinstance(found[0].settings["sae.expansion_factor"], int)  # the number, not what was typed
    assert [job.settings for job in jobs(split(["norm=rms,none"]))] == [{"norm": "rms"}, {"norm": "none"}]


def test_what_was_typed_can_be_told_from_the_jobs():
    assert typed(split([*GRID, "train.seed=3"])) == ["-m", *GRID, "train.seed=3"]
    assert typed([["sae.k=4"]]) == ["sae.k=4"] and typed(split(typed(split(GRID))[1:])) == ["-m", *GRID]


def test_what_jobs_share_is_one_node_and_one_model_pass():
    found = jobs(split(GRID))
    union, alone = wanted(found), recipes(found[0].pipeline)
    count = {}
    for recipe in union.all():
        count[recipe.stage.name] = count.get(recipe.stage.name, 0) + 1
    assert count["corpus"] == count["lm"] == count["compare"] == 1
    assert count["capture"] == 2 * 6 and count["normalise"] == 2 and count["train"] == count["report"] == 6
    captures = [r for r in union.all() if r.stage.name == "capture"]
    (lane,) = lanes(captures)
    assert [len(unit) for unit in units(lane)] == [2] * 6 and passes(captures) == 1
    assert set(alone.all()) < set(union.all())  # a job's keys are those that it has alone
    assert len(union.named) == 6 and "layers.1 sae.expansion_factor=16" in union.named


def test_a_model_pass_is_counted_for_each_text_model_and_precision():
    assert plan(jobs(split([*GRID, "capture.dtype=float32,bfloat16"]))).passes == 2
    assert plan(jobs(split([*GRID, "capture.n_shards=2,4"]))).passes == 1  # over the same text in other pieces


def test_a_plan_of_a_sweep_counts_what_is_shared_once():
    one, six = plan(jobs([["capture.hookpoints=[layers.0]"]])), plan(jobs(split(GRID)))
    at = {line.stage: line for line in six.lines}
    assert six.n_jobs == 6 and six.n_recipes == 6 * len(one.wanted.all()) and len(six.todo) == len(six.wanted.all())
    assert at["capture"].n_tokens == 2 * next(line.n_tokens for line in one.lines if line.stage == "capture")
    assert at["train"].n == 6 and six.json["model_passes"] == 1 and six.json["jobs"] == 6


def test_several_hookpoints_in_a_job_are_several_rows_of_the_comparison():
    union = wanted(jobs(split(["capture.hookpoints=[layers.0,layers.1]", "sae.k=4,8"])))
    (compare,) = [r for r in union.finals if r.stage.name == "compare"]
    assert [(row.hookpoint, row.settings) for row in compare.spec.jobs] == [
        ("layers.0", {"sae.k": 4}), ("layers.1", {"sae.k": 4}), ("layers.0", {"sae.k": 8}), ("layers.1", {"sae.k": 8}),
    ]  # fmt: skip
    assert len(compare.inputs["train"]) == len(compare.inputs["score_detection"]) == 4
    assert [r.stage.name for r in wanted(jobs([[]])).finals] == ["report"]  # nothing to compare


def test_jobs_of_one_key_are_told_and_made_once():
    same = jobs(split(["sae.k=8,4,8"]))
    assert repeated(same) == ["jobs 1 and 3 of 3 are the same run; it is made once"]
    assert len(wanted(same).named) == 2 and repeated(jobs(split(GRID))) == []


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["sae.k=range(4,4)"], "-m, but the values given make no job at all"),
        (["backend.root=a,b"], "backend.root = 'a' and 'b', but all jobs of a sweep share one backend; use one value"),
        (["runtime.threads=1,2"], "runtime.threads = 1 and 2, but all jobs of a sweep share one runtime"),
        (["sae.kk=1,2"], "sae.kk"),
        (["sae.k=4,-1"], "sae.k = -1, but"),
    ],
)
def test_a_sweep_that_cannot_be_is_one_sentence(overrides, said):
    with pytest.raises(SpecError, match="(?s)" + said.replace("[", r"\[")):
        jobs(split(overrides))


def test_jobs_travel_as_json_and_mean_the_same_in_another_folder(tmp_path, monkeypatch):
    found = jobs(split([*GRID, "backend.root=here"]))
    body = json.loads(json.dumps(packed(found)))
    assert len(json.dumps(body)) < 2 * len(json.dumps(packed(found[:1])))  # what is equal travels once
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    back = unpacked(body)
    assert [r.key for r in wanted(back).all()] == [r.key for r in wanted(found).all()]
    assert back[0].pipeline.backend.root == str(tmp_path / "here")
    assert [job.settings for job in back] == [dict(job.settings) for job in found]


def test_a_worker_whose_keys_differ_is_refused_with_both_versions():
    found = jobs(split(GRID))
    said = stamp(found)
    check_stamp(found, said, "worker")
    check_stamp(found, {"saint": said["saint"]}, "worker")  # of a schedule, the version alone counts
    with pytest.raises(SpecError, match=r"saint 0\.1\.0 on worker, but the run was submitted by saint 9\.9; |install the same"):
        check_stamp(found, {**said, "saint": "9.9"}, "worker")
    with pytest.raises(SpecError, match="the keys of stage train differ"):
        check_stamp(found, {**said, "train": "0" * 12}, "worker")
