"""The plan: what a run would take, before any of it is done."""

from __future__ import annotations

import pytest

from flows.config import load
from flows.costs import usd
from flows.plan import Line, Plan, plan
from flows.recipes import recipes
from flows.sweep import jobs
from tasks.kinds import kinds

ASKED = ["explainer=default", "client=anthropic_batch"]


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test")
    monkeypatch.chdir(tmp_path)
    yield
    assert list(tmp_path.iterdir()) == []  # a plan writes nothing


def planned(*overrides: str) -> Plan:
    return plan(jobs([overrides]))


def line(found: Plan, stage: str) -> Line:
    return next(line for line in found.lines if line.stage == stage)


def test_nothing_exists_so_everything_is_to_be_made():
    found = planned("capture.n_shards=4")
    assert all(line.missing == line.n and line.cached == line.skipped == 0 for line in found.lines)
    assert found.json["missing"] == len(found.json["artifacts"]) == 21
    assert all(found.json["total"][name] > 0 for name in ("bytes", "seconds")) and found.json["total"]["usd"] == 0


def test_saes_that_differ_in_nothing_else_share_reads_of_the_activations(capsys):
    from flows.running import print_plan

    sweep = [[f"sae.k={k}", "train.patience=3"] for k in (4, 5, 6, 7, 8)]
    found = plan(jobs(sweep))
    assert line(found, "train").missing == 5 and found.reads == found.json["training_reads"] == 2
    print_plan(found)
    assert "1 model pass, 5 SAEs in 2 reads of the activations" in capsys.readouterr().out
    assert plan(jobs([[*one, "runtime.saes_together=5"] for one in sweep])).reads == 1
    assert plan(jobs([["train.seed=0"], ["train.seed=1"], ["capture.hookpoints=[layers.0]"]])).reads == 3


def test_tokens_and_bytes_grow_with_hookpoints_but_the_time_of_the_pass_does_not():
    one, two = planned("capture.hookpoints=[layers.1]"), planned("capture.hookpoints=[layers.0,layers.1]")
    assert line(two, "capture").n_tokens == 2 * line(one, "capture").n_tokens
    assert line(two, "capture").bytes == 2 * line(one, "capture").bytes
    assert line(two, "capture").seconds == line(one, "capture").seconds
    assert line(two, "train").n_tokens == 2 * line(one, "train").n_tokens


def test_a_limit_on_tokens_is_kept_by_the_plan():
    found = planned("capture.max_tokens=1000", "capture.n_shards=4")
    assert line(found, "capture").n_tokens == line(found, "encode").n_tokens == 6 * 1000


def test_dollars_are_for_what_an_llm_is_asked_and_for_nothing_else():
    assert planned(*ASKED).json["total"]["usd"] > 0
    lexical = planned("client=anthropic_batch")
    assert lexical.json["total"]["usd"] == 0  # its predicates need no judge
    judged = planned("client=anthropic_batch", "scorers=[detection,fuzzing]")
    assert line(judged, "explain").usd == 0 and line(judged, "score").usd > 0


def test_dollars_follow_latents_hookpoints_and_the_control():
    p = load([])
    half = p.sae.size(p.lm.facts().d_model) // 2
    whole, some = planned(*ASKED), planned(*ASKED, f"explain.latents=0:{half}")
    assert line(some, "explain").usd == pytest.approx(line(whole, "explain").usd / 2, abs=0.01)
    two = planned(*ASKED, "capture.hookpoints=[layers.0,layers.1]")
    assert line(two, "explain").usd == pytest.approx(2 * line(whole, "explain").usd, abs=0.02)
    assert line(planned(*ASKED, "score.control=false"), "score").usd == pytest.approx(line(whole, "score").usd / 2, abs=0.01)


def test_what_is_not_known_of_a_model_that_is_not_here_is_null_and_never_free(monkeypatch):
    from tasks.lms.hf import HF

    monkeypatch.setattr(HF, "facts", lambda self: None)
    total = planned("lm=gpt2", *ASKED).json["total"]
    assert total == {"bytes": None, "seconds": None, "usd": None}
    assert planned("lm=gpt2").json["total"]["usd"] == 0
    assert line(planned("lm=gpt2"), "train").n_tokens == load([]).train.n_tokens


def test_dollars_are_those_of_the_questions_that_each_scorer_asks():
    def of(scorers: str, *more: str) -> float:
        return line(planned(*ASKED, f"scorers={scorers}", "score.control=false", *more), "score").usd

    detection = of("[detection]")
    assert of("[detection,recall]") == pytest.approx(detection, abs=0.01), "recall puts detection's own questions"
    assert of("[{kind: simulation, mode: per_token}]") > 10 * of("[simulation]") > 0
    assert of("[{kind: detection, n_positive: 40, n_negative: 40}]") > 1.5 * detection
    assert of("[detection]", "score.latents=0:1") < detection / 10


def test_questions_that_a_score_in_the_store_put_before_cost_nothing():
    p = load([*ASKED, "scorers=[detection,recall,fuzzing]"])
    named = recipes(p).named["layers.1"]
    detection, recall, fuzzing = (named[f"score/{kind}"] for kind in ("detection", "recall", "fuzzing"))
    assert usd(p, [recall], 8) > usd(p, [recall], 8, answered=[detection]) == 0
    assert usd(p, [fuzzing], 8, answered=[detection]) == usd(p, [fuzzing], 8) > 0


def test_scorers_of_explanations_have_nothing_to_ask_where_none_are_given():
    nothing = planned("explainer=none", "client=anthropic_batch", "scorers=[detection,fuzzing]")
    assert line(nothing, "score").usd == 0 < line(planned("explainer=none", *ASKED[1:], "scorers=[intruder]"), "score").usd


@pytest.mark.parametrize("kind", [k for k in kinds("tasks.explainers") if k not in ("load", "random")])
def test_every_explainer_that_asks_has_a_price(kind):
    needs = line(planned(*ASKED, f"explainer={kind}"), "explain").usd
    assert (needs > 0) == (kind not in ("lexical", "none"))
