"""What explanations and scores come to: the table per latent, and counts that lose nobody."""

from __future__ import annotations

import json
from functools import partial
from typing import Literal

import pyarrow.parquet as pq
import pytest

from artifacts.store import Store
from tasks.analyse import AnalyseSpec, analyse, outcome
from tasks.analysis.naming import titles
from tasks.explain import ExplainSpec, explain
from tasks.explainers.base import Explanation
from tasks.reporting.scores import accounts
from tasks.score import ScoreSpec, score
from tasks.scorers.base import Answer, Score, Scorer
from tasks.scorers.detection import Detection
from tests.making import make
from tests.planted import world
from tests.unit.test_score import Told

VALUES = [-0.5, 0.0, 0.5, 1.0]


class Picky(Told):
    """Fails on some latents, each in its way."""

    kind: Literal["picky"] = "picky"

    def read(self, replies, examples):
        if examples.latent in (5, 6):
            return Explanation(examples.latent, ("refused", "expired")[examples.latent - 5])
        return super().read(replies, examples)


class Leaning(Scorer):
    """A correlation, one of four by the latent; measures without asking, says nothing of latent 4; the control's is 0."""

    kind: Literal["leaning"] = "leaning"
    sign: int = 1
    METRIC = "correlation"
    CHANCE = 0.0
    RANGE = (-1.0, 1.0)

    def needs_client(self, explanation_has_predicate):
        return False

    def score(self, replies, explanation, examples, seed, bench=None):
        if explanation.status != "ok":
            return Score(examples.latent, "no_explanation")
        if examples.latent == 4:
            return Score(examples.latent, "unparsable")
        own = explanation.label == f"the word {['cat', 'river', 'seven', 'green'][examples.latent]}" if examples.latent < 4 else False
        value = self.sign * VALUES[examples.latent % 4] if own else 0.0
        answers = tuple(Answer(w.window_id, w.activating, None, w.quantile, value, w.group) for w in examples.test(True)[:3])
        return Score(examples.latent, "ok", value, value - 0.1, value + 0.1, 3, 3, 1.0, answers)


def recipe(*scorers: Scorer, latents="all", explainer=None, **fields):
    mined = world(n_latents=9, n_dead=1)
    explained = explain(ExplainSpec(explainer=explainer or Picky(), latents=latents), mine=mined)
    scores = [score(ScoreSpec(scorer=scorer), mine=mined, explain=explained) for scorer in scorers]
    return analyse(AnalyseSpec(**fields), mine=mined, explain=explained, scores=scores)


def made(tmp_path, *args, **fields):
    opened = make(recipe(*args, **fields), Store.at(tmp_path))
    return json.loads((opened.path / "analysis.json").read_text()), pq.read_table(opened.path / "latents.parquet").to_pylist()


def test_every_latent_is_accounted_for_whatever_became_of_it(tmp_path):
    found, rows = made(tmp_path, Detection(), Leaning(), latents="0:7")
    assert found["n_latents"] == 9 and found["n_alive"] == 8
    assert found["explanations"] == {"ok": 5, "dead": 1, "expired": 1, "not_asked": 1, "refused": 1}
    detection, leaning = found["scorers"]
    assert detection["statuses"] == {"ok": 5, "no_explanation": 2, "dead": 1, "not_asked": 1}
    assert leaning["statuses"] == {"ok": 4, "no_explanation": 2, "dead": 1, "not_asked": 1, "unparsable": 1}
    for counts in (found["explanations"], detection["statuses"], leaning["statuses"]):
        assert sum(counts.values()) == 9 and next(iter(counts)) == "ok"
    assert [row["why"] for row in rows] == ["", "", "", "", "leaning: unparsable", "refused", "expired", "not_asked", "dead"]
    assert rows[4]["label"] == "the word iron" and rows[5]["label"] == ""


def test_the_table_has_a_row_for_each_latent_with_every_score(tmp_path):
    _, rows = made(tmp_path, Detection(), Leaning())
    assert [row["latent"] for row in rows] == list(range(9))
    assert rows[0]["score_detection"] == 1.0 and rows[0]["score_detection_n"] == 24 and rows[0]["score_detection_base_rate"] == 0.5
    assert rows[0]["score_detection_low"] < 1 and rows[0]["score_detection_control"] is not None
    assert [row["score_leaning"] for row in rows] == [*VALUES, None, None, None, 0.0, None]
    assert rows[0]["n_fires"] == 144 and rows[0]["density"] == 0.01 and rows[8]["n_fires"] == 0
    assert {rows[5]["score_detection_status"], rows[5]["status"]} == {"no_explanation", "refused"}
    assert rows[0]["explain_usd"] == 0.0 and rows[0]["score_detection_usd"] == 0.0


def test_a_metric_that_goes_below_zero_is_summed_as_it_is(tmp_path):
    (found,) = made(tmp_path, Leaning(), latents="0:4")[0]["scorers"]
    assert (found["metric"], found["chance"], found["range"]) == ("correlation", 0.0, [-1.0, 1.0])
    assert found["macro"]["value"] == found["micro"]["value"] == found["median"] == 0.25 and found["macro"]["n"] == 4
    assert found["macro"]["low"] < 0 < found["macro"]["high"] <= 1
    assert found["quartiles"] == [-0.125, 0.625] and found["good"]["value"] == 0.25
    assert found["above_chance"]["value"] == 0.5, "of the two whose interval lies above 0"
    difference = found["difference"]
    assert (difference["value"], difference["better"], difference["equal"], difference["worse"]) == (0.25, 2, 1, 1)
    assert found["control"]["macro"]["value"] == 0.0 and found["n_scored"] == 4
    curve = found["own"]["by_quantile"]
    assert all(row["share"] is None for row in curve) and sum(row["n_missing"] for row in curve) == 4 * 3


def test_scores_by_windows_agree_with_scores_by_latents_where_all_latents_are_alike(tmp_path):
    (found,) = made(tmp_path, Detection())[0]["scorers"]
    assert found["macro"]["value"] == found["micro"]["value"] == found["weighted"]["value"] == 1.0
    assert found["weighted"]["n_effective"] == pytest.approx(6)
    assert [(row["quantile"], row["n"], row["share"]) for row in found["own"]["by_quantile"]] == [(q, 18, 1.0) for q in range(4)]
    (random,) = found["own"]["by_group"]
    assert (random["group"], random["n"], random["share"]) == ("random", 72, 1.0)
    assert found["blind"]["by_quantile"][0]["share"] == 0.0, "another latent's word is never there"
    assert found["difference"]["value"] == pytest.approx(1 - found["control"]["macro"]["value"])


def test_scorers_are_correlated_over_the_latents_that_both_scored(tmp_path):
    found = made(tmp_path, Leaning(), Leaning(sign=-1), Detection(), latents="0:5")[0]["agreement"]
    first, second, third = found
    assert (first["first"], first["second"], first["n"]) == ("leaning sign=1", "leaning sign=-1", 4)
    assert first["pearson"]["value"] == pytest.approx(-1) and first["spearman"]["value"] == pytest.approx(-1)
    assert second["n"] == third["n"] == 4 and second["pearson"]["value"] is None, "detection is 1 everywhere"
    few = made(tmp_path, Leaning(), Detection(), latents="0:5", common=5)[0]["agreement"]
    assert few[0]["n"] == 4 and few[0]["spearman"] == {"value": None, "low": None, "high": None}


def test_without_any_score_there_is_still_an_account(tmp_path):
    found, rows = made(tmp_path)
    assert found["scorers"] == [] and found["agreement"] == [] and sum(found["explanations"].values()) == 9
    assert len(rows) == 9 and not any(name.startswith("score_") for name in rows[0])


class Partly(Scorer):
    """Judged, but for some windows."""

    kind: Literal["partly"] = "partly"

    def needs_client(self, explanation_has_predicate):
        return False

    def score(self, replies, explanation, examples, seed, bench=None):
        statuses = ["ok", "ok", "refused", "truncated", "refused"]
        answers = tuple(Answer(f"test/{i}", True, True if s == "ok" else None, 0, status=s) for i, s in enumerate(statuses))
        return Score(examples.latent, "ok", 1.0, 0.5, 1.0, 2, 2, 1.0, answers)


def test_judgements_that_are_missing_are_counted_by_why(tmp_path):
    found = made(tmp_path, Partly(), Detection(), latents="0:4")[0]
    partly, detection = found["scorers"]
    assert partly["own"]["answers"] == {"ok": 8, "refused": 8, "truncated": 4} == partly["blind"]["answers"]
    assert detection["own"]["answers"] == {"ok": 4 * 24}
    assert accounts(found)["missing"] == ["partly: 12 of 20 answers are missing (8 refused, 4 truncated)"]


def test_the_summary_is_small_and_names_the_headline_figures(tmp_path):
    summary = make(recipe(Detection(), Leaning(), latents="0:4"), Store.at(tmp_path)).summary
    assert summary["scorers"]["leaning"] == {"macro": 0.25, "micro": 0.25, "weighted": 0.25} and summary["n_ok"] == 4


def test_titles_say_in_few_words_what_tells_scores_of_one_kind_apart():
    scorers = partial(titles, noun="scorer")
    one = {"scorer": {"kind": "fuzzing", "type": "default", "n": 5}, "client": {"kind": "x", "model": "a"}, "control": True}
    other = {**one, "scorer": {"kind": "fuzzing", "type": "active", "n": 6}}
    third = {"scorer": {"kind": "detection"}, "client": None, "control": True}
    assert scorers([one, third]) == ["fuzzing", "detection"]
    assert scorers([one, other, third]) == ["fuzzing n=5", "fuzzing n=6", "detection"], "one field is enough"
    assert scorers([one, one, {**one, "control": False}]) == ["fuzzing", "fuzzing (2)", "fuzzing (3)"]
    assert scorers([one, {**one, "client": {"kind": "x", "model": "b"}}]) == ["fuzzing model=a", "fuzzing model=b"]
    assert scorers([{**one, "client": None}, one]) == ["fuzzing model=none", "fuzzing model=a"]
    both = scorers([one, other, {**one, "client": {"kind": "x", "model": "b"}}])
    assert both == ["fuzzing model=a n=5", "fuzzing model=a n=6", "fuzzing model=b n=5"]


def test_dead_is_why_where_there_was_nothing_to_see():
    assert [outcome(status, True) for status in (None, "too_few_examples", "no_explanation", "ok", "refused")] == [
        "dead", "dead", "dead", "ok", "refused",
    ]  # fmt: skip
    assert outcome(None, False) == "not_asked" and outcome("too_few_examples", False) == "too_few_examples"
