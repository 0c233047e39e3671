from __future__ import annotations

import dataclasses
import json
import math
from random import Random

import pytest

from tasks.clients.base import Reply
from tasks.explainers.base import Explanation, Window
from tasks.scorers._choosing import generator
from tasks.scorers._simulated import (
    Simulated,
    absolute_deviation,
    calibrated_variance,
    correlation,
    explained_variance,
    interval,
)
from tasks.scorers.simulation import Simulation, expected
from tests.planted import WORDS, latent_examples
from tests.unit.test_detection import judged, replied, tokens

GOOD = Explanation(0, "ok", f"the word {WORDS[0]}")


def score(scorer, replies, explanation=GOOD, examples=None):
    return scorer.score(replies, explanation, examples or latent_examples(0), 0)


def strong(examples):
    """The same latent, at full strength wherever it fires."""
    return dataclasses.replace(
        examples,
        windows=tuple(dataclasses.replace(w, values=tuple(10.0 * (v > 0) for v in w.values)) for w in examples.windows),
    )


def test_correlation_over_the_tokens_of_all_windows_by_hand():
    windows = [Simulated([0, 10], [0, 5]), Simulated([0, 0], [5, 0])]
    # t = 0 10 0 0, p = 0 5 5 0: covariance 50/4 - 2.5 * 2.5, variances 18.75 and 6.25
    assert correlation(windows) == pytest.approx(6.25 / math.sqrt(18.75 * 6.25))
    assert explained_variance(windows) == pytest.approx(1 - 50 / 75)
    assert absolute_deviation(windows) == 2.5


def test_constant_simulations_have_no_correlation_and_constant_truths_no_score():
    for value in (0.0, 0.1, 7.0):
        assert correlation([Simulated([0, 10, 0], [value] * 3)] * 4) == 0.0
    assert correlation([Simulated([0.0] * 3, [1, 2, 3])]) is None and correlation([]) is None
    low, high = interval([Simulated([0, 10, 0], [0.0] * 3)] * 20, [Simulated([0.0] * 3, [0.0] * 3)] * 20, Random(0))
    assert low < -0.3 and high > 0.3  # a draw among equals would say that all is known


def test_a_calibrated_simulation_is_not_punished_for_its_scale_but_was_fitted_on_other_windows():
    draw = Random(0)
    true = [[10.0 * (draw.random() < 0.2) for _ in range(20)] for _ in range(20)]
    weak = [Simulated(t, [v / 5 + 1 for v in t]) for t in true]
    assert explained_variance(weak) < 0.5 and calibrated_variance(weak, Random(0)) == pytest.approx(1.0)
    noise = [Simulated(t, [10 * draw.random() for _ in t]) for t in true]
    assert explained_variance(noise) < -1 and -0.1 < calibrated_variance(noise, Random(0)) < 0.02
    assert calibrated_variance(noise[:1], Random(0)) is None


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """The judge finds four of five firings, and has a false alarm in one of a hundred tokens."""

    def world(draw, n):
        active, silent = [], []
        for i in range(2 * n):
            true = [0.0] * 32
            if i < n:
                true[24] = 10.0
            said = [10.0 * ((draw.random() < 0.8) if t else (draw.random() < 0.01)) for t in true]
            (active if i < n else silent).append(Simulated(true, said))
        return active, silent

    truth = correlation([w for part in world(Random(1), 20000) for w in part])
    hits = 0
    for i in range(150):
        low, high = interval(*world(Random(f"draw {i}"), 20), Random(i))
        hits += low <= truth <= high
    assert 0.88 <= hits / 150 <= 0.99  # three standard errors about 94%


def test_a_right_explanation_foretells_every_token_and_a_wrong_one_none():
    scorer, examples = Simulation(), strong(latent_examples(0))
    found = score(scorer, judged(scorer, GOOD, examples), examples=examples)
    assert (found.status, found.value, found.high) == ("ok", pytest.approx(1.0), pytest.approx(1.0))
    assert found.extra["explained_variance"] == pytest.approx(1.0) and found.extra["absolute_deviation"] == 0.0
    assert (found.n, found.n_positive, found.extra["n_tokens"]) == (24, 12, 24 * 8)
    assert {q: (p["n"], p["correlation"]) for q, p in found.extra["by_quantile"].items()} == {
        str(q): (3, pytest.approx(1.0)) for q in range(4)
    }
    assert all(a.predicted == a.truth and a.probability == a.truth for a in found.answers)
    wrong = Explanation(0, "ok", "the word nonesuch")
    none = score(scorer, judged(scorer, wrong, examples), wrong, examples)
    assert (none.value, none.extra["calibrated_explained_variance"] <= 0) == (0.0, True) and none.low < 0 < none.high


def test_weaker_activations_weigh_less():
    scorer, examples = Simulation(), latent_examples(0)  # strengths 10, 9, 8, 7; the judge always says 10
    found = score(scorer, judged(scorer, GOOD, examples), examples=examples)
    true = [v for w in scorer.chosen(examples, 0) for v in w.values]
    assert found.value == pytest.approx(correlation([Simulated(true, [10.0 * (t > 0) for t in true])])) and found.value < 1


@pytest.mark.parametrize("row", [[0] * 7, [0] * 9, [0] * 7 + [11], [0] * 7 + [-1], [0] * 7 + [True], ["0"] * 8, None, 5])
def test_ratings_that_are_not_one_per_token_make_their_window_missing_and_no_other(row):
    scorer, examples = Simulation(), strong(latent_examples(0))
    replies = judged(scorer, GOOD, examples)
    said = json.loads(replies[0].text)
    said["answers"]["2"] = row
    found = score(scorer, [Reply("", "ok", json.dumps(said)), *replies[1:]], examples=examples)
    assert found.value == pytest.approx(1.0) and found.n == 23 and found.extra["n_missing"] == 1
    assert [a.predicted for a in found.answers].index(None) == 1 and found.answers[1].status == "unparsable"


@pytest.mark.parametrize("status", ["refused", "truncated"])
def test_too_few_windows_left_are_no_score_and_the_status_says_why(status):
    scorer, examples = Simulation(min_windows=5), strong(latent_examples(0))
    said = judged(scorer, GOOD, examples)
    found = score(scorer, [*said[:2], *(Reply("", status) for _ in said[2:])], examples=examples)
    assert 0 < found.n_positive < 5 and (found.status, found.value) == (status, None)
    assert interval([Simulated([0, 10, 0], [0, 9, 1])], [Simulated([0] * 3, [0] * 3)] * 9, Random(0)) == (-1, 1)


def test_a_truth_that_never_varies_is_too_little():
    windows = tuple(dataclasses.replace(w, values=(5.0,) * len(w.values)) for w in latent_examples(0).windows if w.activating)
    examples, scorer = dataclasses.replace(latent_examples(0), windows=windows), Simulation()
    assert score(scorer, judged(scorer, GOOD, examples), examples=examples).status == "too_few_examples"


def test_one_request_per_token_holds_what_comes_before_it_and_is_read_as_an_expected_value():
    scorer = Simulation(mode="per_token", n_positive=5, n_negative=2, min_windows=4)
    examples = strong(latent_examples(0))
    requests, windows = scorer.requests(GOOD, examples, 0), scorer.chosen(examples, 0)
    assert len(requests) == 7 * 8 and len({r.system for r in requests}) == 1 and requests[0].logprobs == 20
    asked = [json.loads(r.user) for r in requests]
    assert [a["before"] + a["token"] for a in asked[:8]] == ["".join(windows[0].tokens[: i + 1]) for i in range(8)]
    sure = [Reply("", "ok", json.dumps({"answers": {"1": 10 * (a["token"].strip() == WORDS[0])}})) for a in asked]
    assert score(scorer, sure, examples=examples).value == pytest.approx(1.0)
    found = score(scorer, [Reply("", "refused"), *sure[1:]], examples=examples)
    assert (found.n, found.extra["n_missing"], found.answers[0].status) == (6, 1, "refused")
    assert score(scorer, [Reply("", "refused")] * len(sure), examples=examples).status == "refused"
    assert score(scorer, sure[1:], examples=examples).status == "no_judge"


def test_the_expected_value_weighs_all_numbers_by_their_probabilities():
    reply = replied(tokens('{"answers":{"1":', {"8": 0.5, "4": 0.25, "0": 0.25}, "}}"))
    assert expected(reply) == pytest.approx(8 * 0.5 + 4 * 0.25)
    assert expected(dataclasses.replace(reply, logprobs=None)) == 8.0
    assert expected(replied(tokens('{"answers":{"1":', {"1": 1.0}, {"0": 0.5, "}": 0.5}, "}}"))) == pytest.approx(5.5)
    assert expected(Reply("", "ok", '{"answers": {"1": 11}}')) is None
    assert expected(Reply("", "expired", '{"answers": {"1": 1}}')) is None


def test_windows_are_those_of_detection_and_too_few_of_them_are_no_score():
    from tasks.scorers.detection import Detection

    examples = latent_examples(0)
    assert Simulation().chosen(examples, 0) == Detection().chosen(examples, 0)
    few = dataclasses.replace(examples, windows=tuple(w for w in examples.windows if not w.activating))
    assert Simulation().requests(GOOD, few, 0) == [] and score(Simulation(), [], examples=few).status == "too_few_examples"
    assert score(Simulation(), [], Explanation(0, "refused")).status == "no_explanation"
    alone = Simulation(n_negative=0)
    found = score(alone, judged(alone, GOOD, strong(examples)), examples=strong(examples))
    assert found.value == pytest.approx(1.0) and found.base_rate == 1.0


def test_starts_of_texts_are_told():
    window = Window("test/0", "test", "quantile", 0, 0, (" a", " b"), (1.0, 0.0), 0, starts_context=True)
    examples = dataclasses.replace(latent_examples(0), windows=(window,))
    for mode in ("all_at_once", "per_token"):
        (asked, *_) = Simulation(mode=mode, min_windows=1).requests(GOOD, examples, 0)
        assert '"starts":true' in asked.user
    assert generator(0, 1, "a").random() != generator(0, 1, "b").random()
