from __future__ import annotations

import json
from collections import Counter
from typing import ClassVar, Literal

import pyarrow.parquet as pq
import pytest

from artifacts.store import Store
from tasks.analysis.estimates import mean
from tasks.clients.anthropic_batch import AnthropicBatch
from tasks.explain import ExplainSpec, explain
from tasks.explainers.base import Explainer, Explanation
from tasks.explainers.default import Default
from tasks.score import ScoreSpec, partners, score
from tasks.scorers.base import Score, Scorer
from tasks.scorers.detection import Detection
from tasks.scorers.fuzzing import Fuzzing
from tasks.scorers.recall import Recall
from tasks.spec import Runtime, SpecError
from tests.fake_anthropic import FakeAnthropic, errored, succeeded
from tests.making import make
from tests.planted import WORDS, knowing, world


@pytest.fixture
def store(tmp_path, monkeypatch) -> Store:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-canary-key")
    monkeypatch.delenv("ANTHROPIC_BASE_URL", raising=False)
    return Store.at(tmp_path / "store")


def runtime(api: FakeAnthropic) -> Runtime:
    return Runtime(mode="inline", device="cpu", base_url=api.url, poll_seconds=0.02)


class Told(Explainer):
    """Says what it was told to, with a rule."""

    kind: Literal["told"] = "told"
    NEEDS_CLIENT = False
    shift: int = 0
    rule: bool = True

    def read(self, replies, examples):
        if not examples.windows:
            return Explanation(examples.latent, "too_few_examples")
        word = WORDS[(examples.latent + self.shift) % len(WORDS)]
        return Explanation(
            examples.latent, "ok", f"the word {word}", None, {"any": [f"word:{word}"]} if self.rule else None
        )


def told(mined=None, **fields):
    mined = mined or world(n_latents=9)
    return mined, explain(ExplainSpec(explainer=Told(**fields)), mine=mined)


def scored(scorer: Scorer, mined, explained, client=None, **fields):
    return score(ScoreSpec(scorer=scorer, client=client, **fields), mine=mined, explain=explained)


def table(opened, name="scores") -> list[dict]:
    return pq.read_table(opened.path / f"{name}.parquet").to_pylist()


def test_a_rule_is_scored_without_any_client_and_the_blind_control_comes_out_near_one_half(store):
    opened = make(scored(Detection(), *told()), store)
    summary = opened.summary
    assert (summary["mean"], summary["n_ok"], summary["n"]) == (1.0, 8, 9)
    assert summary["statuses"] == {"no_explanation": 1, "ok": 8} and summary["usd"] == 0.0
    # Another latent's word is absent from activating windows, and from all but 1 in 11 silent ones.
    assert 0.4 < summary["control_mean"] < 0.5 and summary["control_n"] == 8
    rows = table(opened)
    assert all(r["control_latent"] not in (None, r["latent"]) for r in rows[:8]) and rows[8]["control_latent"] is None
    assert all(0 <= r["low"] <= r["value"] <= r["high"] <= 1 and r["n"] == 24 for r in rows[:8])


def test_wrong_explanations_score_no_better_than_the_control(store):
    opened = make(scored(Detection(), *told(shift=1)), store)
    assert opened.summary["mean"] < 0.5


def test_rows_name_the_metric_and_what_chance_comes_to(store):
    mined, explained = told()
    for scorer, metric in ((Detection(), "balanced accuracy"), (Recall(), "recall")):
        opened = make(scored(scorer, mined, explained), store)
        rows = table(opened)
        assert {row["metric"] for row in rows} == {metric} == {opened.summary["metric"]}
        own = [json.loads(row["extra"]).get("chance") for row in rows if row["status"] == "ok"]
        wanted = own if metric == "recall" else [0.5] * 8
        assert [row["chance"] for row in rows if row["status"] == "ok"] == wanted
        assert opened.summary["chance"] == pytest.approx(sum(wanted) / len(wanted))


class Coherent(Detection):
    """Scores latents without regard to their explanations, and may come out below 0."""

    kind: Literal["coherent"] = "coherent"  # type: ignore[assignment]
    METRIC: ClassVar[str] = "correlation"
    RANGE: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    USES_EXPLANATION: ClassVar[bool] = False

    def needs_client(self, explanation_has_predicate):
        return False

    def score(self, replies, explanation, examples, seed, bench=None):
        return Score(examples.latent, "ok", value=-0.9 if examples.latent % 2 else 0.1, low=-1.0, high=1.0)


def test_a_scorer_that_uses_no_explanation_has_no_control_and_scores_what_nobody_could_explain(store):
    opened = make(scored(Coherent(), *told()), store)
    rows = table(opened)
    assert opened.summary["n_ok"] == 9 and opened.summary["control_n"] == 0 and opened.summary["control_mean"] is None
    assert rows[8]["status"] == "ok" and all(row["control_latent"] is None for row in rows)
    assert -1 <= opened.summary["mean_low"] < opened.summary["mean"] < 0


def test_the_mean_has_the_interval_that_every_mean_has(store):
    summary, values = (opened := make(scored(Coherent(), *told()), store)).summary, [r["value"] for r in table(opened)]
    assert [summary[n] for n in ("mean", "mean_low", "mean_high")] == list(mean(values).within((-1, 1))[:3])
    assert (summary["median"], summary["control_mean"], summary["control_mean_low"]) == (0.1, None, None)


def test_answers_say_which_window_was_judged_how(store):
    answers = table(make(scored(Detection(), *told()), store), "answers")
    own, control = ([a for a in answers if a["control"] is c] for c in (False, True))
    assert len(own) == len(control) == 8 * 24
    assert {(a["latent"], a["window_id"]) for a in own} == {(a["latent"], a["window_id"]) for a in control}
    assert all(a["truth"] == a["predicted"] for a in own) and all(a["window_id"].startswith("test/") for a in answers)


def test_some_of_the_latents_are_scored_as_among_all(store):
    mined, explained = told()
    every = {row["latent"]: row for row in table(make(scored(Detection(), mined, explained), store))}
    some = make(scored(Detection(), mined, explained, latents="2:4"), store)
    assert some.summary["n"] == 2 and table(some) == [every[2], every[3]]  # controls, too: nothing is asked twice
    _, few = told(mined, shift=1)
    few = explain(few.spec.model_copy(update={"latents": (0, 1)}), mine=mined)
    with pytest.raises(SpecError, match=r"score.latents = '2:4', but explain/\w+ explains none of these"):
        make(scored(Detection(), mined, few, latents="2:4"), store)


@pytest.mark.parametrize("scorer", [Detection(windows_per_request=8), Fuzzing(windows_per_request=8)])
def test_an_llm_explains_and_judges_and_every_answer_is_paid_once(store, scorer):
    client, mined = AnthropicBatch(), world()
    explained = explain(ExplainSpec(explainer=Default(), client=client), mine=mined)
    with FakeAnthropic(answer=knowing) as api:
        opened = make(scored(scorer, mined, explained, client), store, runtime(api))
        assert set(api.paid.values()) == {1} and len(api.paid) == 5 + 2 * 5 * 3
        again = make(scored(scorer, mined, explained, client, control=False), store, runtime(api))
        assert set(api.paid.values()) == {1} and len(api.batches) == 2
    assert opened.summary["mean"] == 1.0 and opened.summary["control_mean"] <= 0.5
    assert opened.summary["usd"] == pytest.approx(sum(r["usd"] for r in table(opened)), abs=1e-8)
    assert again.summary["control_mean"] is None and again.summary["usd"] == again.summary["usd_paid_before"] > 0


def test_explanations_without_a_rule_and_without_a_judge_stay_unscored(store):
    opened = make(scored(Detection(), *told(rule=False)), store)
    assert opened.summary["statuses"] == {"no_explanation": 1, "no_judge": 8} and opened.summary["mean"] is None
    opened = make(scored(Fuzzing(), *told()), store)
    assert opened.summary["statuses"]["no_judge"] == 8


def test_failed_judgements_are_missing_and_a_latent_without_any_says_why(store):
    def answer(params):
        asked = json.loads(params["messages"][0]["content"])
        word = asked["description"].split()[-1]
        if word == WORDS[0]:
            return succeeded("no", stop="refusal")
        if word == WORDS[1] and len(asked["windows"]["1"]) % 2:
            return errored()
        return knowing(params)

    with FakeAnthropic(answer=answer) as api:
        opened = make(scored(Detection(windows_per_request=8), *told(rule=False), AnthropicBatch(), control=False), store, runtime(api))
    rows = table(opened)
    assert (rows[0]["status"], rows[0]["value"], rows[0]["n"]) == ("refused", None, 0)
    assert all(r["value"] == 1.0 for r in rows[2:8])
    assert rows[1]["n"] < 24 and rows[1]["value"] in (None, 1.0)
    answers = table(opened, "answers")
    assert opened.summary["n_missing"] == sum(a["predicted"] is None for a in answers) >= 24
    assert all((a["predicted"] is None) == (a["status"] != "ok") for a in answers)
    assert opened.summary["answers"] == dict(Counter(a["status"] for a in answers))
    assert opened.summary["answers"]["refused"] == 24 and {"ok", "errored"} <= opened.summary["answers"].keys()


def test_a_control_is_another_latents_explanation_and_says_something_else():
    explained = {i: Explanation(i, "ok", f"label {i % 3}") for i in range(30)} | {99: Explanation(99, "refused")}
    found = partners(explained, 0)
    assert set(found) == set(range(30)) and 99 not in found.values()
    assert all(explained[a].label != explained[b].label for a, b in found.items())
    assert found == partners(explained, 0) != partners(explained, 1)
    assert partners({i: Explanation(i, "ok", "the same") for i in range(5)}, 0) == {}
    assert partners({7: Explanation(7, "ok", "alone")}, 0) == {}


class Clumsy(Scorer):
    kind: Literal["clumsy"] = "clumsy"

    def needs_client(self, explanation_has_predicate):
        return False

    def score(self, replies, explanation, examples, seed, bench=None):
        if examples.latent == 3:
            raise ZeroDivisionError("oh")
        return Detection().score(replies, explanation, examples, seed)


def test_a_latent_that_breaks_the_scorer_stops_no_other(store):
    opened = make(scored(Clumsy(), *told()), store)
    assert opened.summary["statuses"] == {"errored": 1, "no_explanation": 1, "ok": 7}
    assert json.loads(table(opened)[3]["extra"]) == {"error": "ZeroDivisionError: oh"}
