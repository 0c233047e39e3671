"""Every scorer's value is known beforehand on latents whose meaning is planted, and it is reached."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest
import yaml

import tasks.scorers
from artifacts.store import Store
from tasks.clients.anthropic_batch import AnthropicBatch
from tasks.explain import ExplainSpec, explain
from tasks.explainers.base import Explanation, LatentExamples
from tasks.explainers.lexical import Lexical
from tasks.kinds import decode, kinds
from tasks.score import ScoreSpec, score
from tasks.scorers.base import Bench, Score, Scorer
from tasks.spec import Runtime
from tests import testbed
from tests.fake_anthropic import FakeAnthropic
from tests.making import make
from tests.testbed import LATENTS, Judge, Right, mined, right

CONF = Path(__file__).parents[2] / "conf/scorer"
MANY = {"n_positive": 20, "n_negative": 20}


class Hook(NamedTuple):
    """How a kind of scorer is put to the test-bed."""

    settings: dict[str, Any]
    """Beside those of its YAML."""

    expected: Callable[[Scorer, float, LatentExamples], float]
    """Its value for a right explanation before a judge of some accuracy."""

    bench: Callable[[], Bench] | None = None
    """What it measures on; for kinds that ask no judge ``expected`` ignores the judge's accuracy."""


def as_right_as_the_judge(scorer: Scorer, accuracy: float, shown: LatentExamples) -> float:
    """Balanced accuracy, accuracy and recall are the shares of right answers."""
    return accuracy


def flipped(scorer: Any, accuracy: float, shown: LatentExamples) -> float:
    """Pearson's correlation of zeros and tens with themselves, each flipped with the judge's rate of errors."""
    values = [v > 0 for w in scorer.chosen(shown, 0) for v in w.values]
    share = sum(values) / len(values)
    said = share * accuracy + (1 - share) * (1 - accuracy)
    return (2 * accuracy - 1) * math.sqrt(share * (1 - share) / (said * (1 - said)))


HOOKS: dict[str, list[Hook]] = {
    "detection": [Hook({"judge": "llm", **MANY}, as_right_as_the_judge)],
    "fuzzing": [
        Hook({"type": "default", **MANY}, as_right_as_the_judge),
        Hook({"type": "active", **MANY}, as_right_as_the_judge),
    ],
    "intruder": [Hook({"n_puzzles": 20}, as_right_as_the_judge)],
    "recall": [Hook({"judge": "llm", **MANY}, as_right_as_the_judge)],
    "simulation": [
        Hook({"mode": "all_at_once", **MANY}, flipped),
        Hook({"mode": "per_token", "n_positive": 10, "n_negative": 10}, flipped),
    ],
}
"""Every kind of scorer that can be held against a known value."""

ELSEWHERE: dict[str, str] = {
    "generation": "needs a language model that reads the texts; on a planted one in tests/unit/test_amplify.py",
    "intervention": "needs continuations by a language model; on those of a planted one in tests/unit/test_amplify.py",
}
"""Kinds that have no place in this table, each with the reason and the test that takes it."""

CASES = [(kind, i) for kind, hooks in HOOKS.items() for i in range(len(hooks))]
every = pytest.mark.parametrize(("kind", "i"), CASES, ids=lambda value: str(value))


def scorer_of(kind: str, i: int) -> Scorer:
    return decode(tasks.scorers, {**yaml.safe_load((CONF / f"{kind}.yaml").read_text()), **HOOKS[kind][i].settings})


@cache
def shown(latent: int, seed: int = 0) -> LatentExamples:
    return testbed.examples(latent, seed)


@cache
def bench_of(kind: str) -> Bench | None:
    return next((hook.bench() for hook in HOOKS.get(kind, []) if hook.bench is not None), None)


def scored(scorer: Scorer, said: Explanation, latent: int, judge: Judge, seed: int = 0) -> Score:
    said = dataclasses.replace(said, latent=latent, predicate=None)
    replies = judge.replies(scorer.requests(said, shown(latent, seed), 0))
    return scorer.score(replies, said, shown(latent, seed), 0, bench_of(scorer.kind))


def chance(scorer: Scorer, found: Score) -> float:
    own = found.extra.get("chance")
    return scorer.CHANCE if own is None else own


def test_every_kind_of_scorer_is_put_to_the_bed_or_says_why_not():
    found = set(kinds(tasks.scorers))
    assert found == {*HOOKS, *ELSEWHERE}, (
        f"scorers without a hook: {sorted(found - {*HOOKS, *ELSEWHERE})}; give each an entry in HOOKS with its expected "
        "value, or in ELSEWHERE with the reason and the test that takes its place"
    )
    assert all(reason for reason in ELSEWHERE.values()) and not {*HOOKS} & {*ELSEWHERE}


def test_the_language_of_explanations_says_what_the_latents_do():
    for latent, planted in enumerate(LATENTS):
        for window in shown(latent).windows:
            words = [token.strip() for token in window.tokens]
            fires = testbed.fires(planted.says, words, window.starts_context)
            assert fires == [value > 0 for value in window.values]
    assert testbed.fires("“amber”, “new york” or words in -ing", ["new", "york", "amber", "sing", "going"], True) == [
        False, True, True, False, True,
    ]  # fmt: skip
    assert testbed.fires("a thing that nobody can check", ["amber"], True) == [False]


def test_other_latents_fire_as_often_in_activating_windows_as_in_silent_ones():
    rates = {True: [], False: []}
    for latent in range(len(LATENTS)):
        for window in (w for seed in range(8) for w in shown(latent, seed).windows):
            words = [token.strip() for token in window.tokens]
            rates[window.activating] += [
                any(testbed.fires(other.says, words, window.starts_context)) for i, other in enumerate(LATENTS) if i != latent
            ]
    shares = [statistics.fmean(rates[active]) for active in (True, False)]
    assert shares[0] == pytest.approx(shares[1], abs=0.04) and 0.05 < shares[0] < 0.4


@every
@pytest.mark.parametrize("accuracy", [1.0, 0.0])
def test_before_a_judge_who_is_always_right_or_always_wrong_every_value_is_exact(kind, i, accuracy):
    scorer = scorer_of(kind, i)
    for latent in range(len(LATENTS)):
        found = scored(scorer, right(latent), latent, Judge(accuracy))
        assert found.status == "ok" and found.value == pytest.approx(HOOKS[kind][i].expected(scorer, accuracy, shown(latent)))
        assert found.low - 1e-9 <= found.value <= found.high + 1e-9
        assert found.extra["n_missing"] == 0 and found.extra.get("cue_only", 0.5) == 0.5


@every
def test_before_a_judge_who_errs_in_one_of_five_answers_the_expected_value_lies_in_the_interval(kind, i):
    scorer = scorer_of(kind, i)
    held, gaps = [], []
    for latent in range(len(LATENTS)):
        for seed in range(8 if HOOKS[kind][i].settings.get("mode") != "per_token" else 2):
            found = scored(scorer, right(latent), latent, Judge(0.8, seed))
            expected = HOOKS[kind][i].expected(scorer, 0.8, shown(latent))
            held.append(found.low <= expected <= found.high)
            gaps.append(found.value - expected)
    assert statistics.fmean(held) >= 0.85  # three standard errors of 40 draws below 95%
    assert abs(statistics.fmean(gaps)) < 3 * statistics.stdev(gaps) / math.sqrt(len(gaps)) + 0.005


@every
def test_explanations_of_other_latents_score_at_chance(kind, i):
    scorer = scorer_of(kind, i)
    if not scorer.USES_EXPLANATION:
        assert scored(scorer, right(0), 1, Judge()) == scored(scorer, right(1), 1, Judge())
        return
    gaps = []
    for seed in range(2 if HOOKS[kind][i].settings.get("mode") != "per_token" else 1):
        for latent in range(len(LATENTS)):
            for other in range(len(LATENTS)):
                if other != latent:
                    found = scored(scorer, right(other), latent, Judge(), seed)
                    assert found.status == "ok"
                    gaps.append(found.value - chance(scorer, found))
    assert abs(statistics.fmean(gaps)) < 3 * statistics.stdev(gaps) / math.sqrt(len(gaps)) + 0.02


@every
def test_a_perfect_explanation_beats_the_lexical_one_and_that_beats_a_random_one(kind, i):
    scorer = scorer_of(kind, i)
    if not scorer.USES_EXPLANATION:
        pytest.skip(f"{kind} asks for no explanation")
    means = []
    for explained in (right, lambda latent: Lexical().read([], shown(latent)), anything):
        found = [scored(scorer, explained(latent), latent, Judge()) for latent in range(len(LATENTS))]
        means.append(statistics.fmean(f.value - chance(scorer, f) for f in found))
    assert means[0] > means[1] + 0.02 and means[1] > means[2] + 0.1


def anything(latent: int) -> Explanation:
    """An explanation drawn from the air."""
    return Explanation(latent, "ok", f"words matching /{'|'.join(testbed.FILLER[latent::5])}/")


@pytest.mark.parametrize("settings", [{"kind": "detection", "judge": "llm"}, {"kind": "fuzzing", "type": "active"},
                                      {"kind": "intruder"}, {"kind": "recall", "judge": "llm"}, {"kind": "simulation"}])
def test_over_http_the_same_values_come_out(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-canary-key")
    monkeypatch.delenv("ANTHROPIC_BASE_URL", raising=False)
    scorer, store, judge = decode(tasks.scorers, settings), Store.at(tmp_path / "store"), Judge(0.8)
    explained = explain(ExplainSpec(explainer=Right()), mine=mined())
    with FakeAnthropic(answer=lambda params: judge(params["messages"][0]["content"])) as api:
        runtime = Runtime(mode="inline", device="cpu", base_url=api.url, poll_seconds=0.02)
        recipe = score(ScoreSpec(scorer=scorer, client=AnthropicBatch()), mine=mined(), explain=explained)
        opened = make(recipe, store, runtime)
        assert set(api.paid.values()) == {1}
    rows = pq.read_table(opened.path / "scores.parquet").to_pylist()
    assert [row["value"] for row in rows] == [
        scored(scorer, right(latent), latent, judge).value for latent in range(len(LATENTS))
    ]
    assert {row["metric"] for row in rows} == {scorer.METRIC} == {opened.summary["metric"]}
    assert all(row["chance"] is not None for row in rows)
    assert (opened.summary["control_n"] == 5) == scorer.USES_EXPLANATION
    if scorer.USES_EXPLANATION:
        assert opened.summary["control_mean"] < opened.summary["mean"]
