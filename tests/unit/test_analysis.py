"""Statistics by hand."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest

from tasks.analysis import answers as judged
from tasks.analysis.agreement import correlations, kappa, pearson, spearman
from tasks.analysis.estimates import NOTHING, Estimate, around, mean, n_effective, paired, quartiles, share, t975

close = pytest.approx


@pytest.mark.parametrize(("freedom", "point"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (5, 2.57058), (30, 2.04227), (1000, 1.96234)])
def test_students_points_are_those_of_the_tables(freedom, point):
    assert t975(freedom) == close(point, rel=0.01 if freedom == 3 else 0.002)


def test_a_mean_has_the_interval_that_textbooks_give_it():
    found = mean([0.5, 0.7, 0.9])
    half = t975(2) * 0.2 / math.sqrt(3)  # standard deviation 0.2
    assert found.value == close(0.7) and found.n == 3
    assert (found.low, found.high) == (close(0.7 - half), close(0.7 + half))
    assert found.within((0, 1)).high == 1.0 and found.within(None) == found


def test_one_value_has_no_interval_and_none_has_no_mean():
    assert mean([0.4]) == Estimate(0.4, None, None, 1) and mean([]) == NOTHING
    assert mean([0.4, 0.9], [3, 0]) == Estimate(close(0.4), None, None, 1)


def test_weights_count_a_value_as_often_as_they_say():
    assert mean([1.0, 0.0], [3, 1]).value == 0.75
    assert mean([1.0, 0.0], [300, 100]) == mean([1.0, 0.0], [3, 1]), "only their ratio matters"
    assert n_effective([1, 1, 1, 1]) == 4 and n_effective([1, 0, 0]) == 1 and n_effective([]) == 0
    # influences: 3 * 0.25 / 4 and 1 * -0.75 / 4
    assert around(0.75, [0.1875, -0.1875]) == mean([1.0, 0.0], [3, 1])


def test_pairs_are_compared_pair_by_pair():
    found = paired([0.9, 0.5, 0.7, 0.6], [0.5, 0.5, 0.8, 0.2])
    assert (found["value"], found["better"], found["equal"], found["worse"]) == (close(0.175), 2, 1, 1)
    assert found["low"] < 0 < found["high"], "four pairs that differ so prove nothing"


def test_quartiles_and_shares():
    assert quartiles([4, 1, 3, 2, 5]) == (2, 3, 4) and quartiles([7.0]) == (7, 7, 7) and quartiles([]) is None
    assert share(0, 0) == NOTHING and share(8, 10).value == 0.8
    assert share(8, 10).low == close(0.4902, abs=1e-4) and share(8, 10).high == close(0.9433, abs=1e-4)  # Wilson, by hand


def test_a_share_lies_in_its_interval_however_numbers_are_rounded():
    assert all(s.low <= s.value <= s.high for n in range(1, 60) for s in (share(0, n), share(n // 3, n), share(n, n)))


def test_correlations_are_those_of_the_formulas():
    a, b = [1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 1.0, 4.0, 3.0, 5.0]
    assert pearson(a, b) == close(0.8) and spearman(a, b) == close(0.8)
    assert spearman([1, 2, 3], [1, 10, 1000]) == close(1.0) and pearson([1, 2, 3], [1, 10, 1000]) < 0.9
    assert pearson(a, [0.1 + 0.2] * 5) is None and pearson([1], [2]) is None
    found = correlations(a, b)
    z, half = math.atanh(0.8), 1.959964 / math.sqrt(2)
    assert found["n"] == 5 and found["pearson"]["low"] == close(math.tanh(z - half))
    assert correlations(a, a)["pearson"] == {"value": 1.0, "low": None, "high": None}


def test_kappa_is_agreement_beyond_chance():
    # 20 both yes, 5 and 10 apart, 15 both no: 0.7 observed, 0.5 expected (Cohen's own arithmetic)
    ours = [True] * 20 + [True] * 5 + [False] * 10 + [False] * 15
    theirs = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    found = kappa(ours, theirs)
    assert (found["n"], found["agreement"], found["yes"]) == (50, 0.7, [0.5, 0.6])
    assert found["value"] == close(0.4)
    half = 1.959964 * math.sqrt(0.7 * 0.3 / 50) / 0.5
    assert (found["low"], found["high"]) == (close(0.4 - half), close(0.4 + half))
    assert kappa([True, False], [False, True])["value"] == -1
    assert kappa([True] * 3, [True] * 3)["value"] is None and kappa([True] * 3, [True] * 3)["agreement"] == 1
    assert kappa([], [])["n"] == 0


def answers(*rows) -> pa.Table:
    """Rows of latent, truth, predicted, quantile, group, and a probability where one is given."""
    names = ("latent", "truth", "predicted", "quantile", "group", "probability")
    schema = pa.schema([("latent", pa.int32()), ("truth", pa.bool_()), ("predicted", pa.bool_()), ("quantile", pa.int32()),
                        ("group", pa.string()), ("probability", pa.float64())])  # fmt: skip
    return pa.Table.from_pylist([dict(zip(names, row, strict=False)) for row in rows], schema=schema)


YES, NO = True, False
FEW = answers(
    (0, YES, YES, 0, "top"), (0, YES, YES, 1, "quantile"), (0, NO, NO, -1, "random"), (0, NO, YES, -1, "near_miss"),
    (1, YES, NO, 1, "quantile"), (1, YES, YES, 0, "quantile"), (1, NO, NO, -1, "random"), (1, NO, None, -1, "near_miss"),
)  # fmt: skip


def test_pooled_rates_count_windows_and_their_interval_counts_latents():
    found = judged.rates(FEW)
    assert (found["n"], found["n_missing"], found["n_positive"], found["n_negative"]) == (7, 1, 4, 3)
    assert found["true_positive_rate"]["value"] == 0.75 and found["true_positive_rate"]["n"] == 2
    # influence of latent 0: (2 - 0.75 * 2) / 4; of latent 1: (1 - 0.75 * 2) / 4
    assert found["true_positive_rate"]["low"] == max(0, 0.75 - t975(1) * math.sqrt(2 * 2 * 0.125**2)) == 0
    assert found["true_negative_rate"]["value"] == close(2 / 3)
    assert found["balanced_accuracy"]["value"] == close((0.75 + 2 / 3) / 2)


def test_an_interval_of_pooled_rates_is_that_of_the_latents_means_where_all_have_as_many_windows():
    rows = [(i, truth, truth if j < 6 + i % 3 else not truth, 0, "x") for i in range(9) for truth in (YES, NO) for j in range(10)]
    found, plain = judged.rates(answers(*rows))["balanced_accuracy"], mean([(6 + i % 3) / 10 for i in range(9)])
    assert found == {"value": close(plain.value), "low": close(plain.low), "high": close(plain.high), "n": 9}


def test_a_class_without_answers_leaves_no_balanced_accuracy():
    found = judged.rates(FEW.filter(FEW["truth"]))
    assert found["balanced_accuracy"]["value"] is None and found["true_negative_rate"]["value"] is None
    assert found["true_positive_rate"]["value"] == 0.75
    assert judged.rates(FEW.slice(0, 0))["n"] == 0


def test_curves_tell_strengths_and_sorts_apart_and_count_what_is_missing():
    found = judged.curve(FEW, True)
    assert [(row["quantile"], row["n"], row["share"]) for row in found] == [(0, 2, 1.0), (1, 2, 0.5)]
    assert (found[0]["low"], found[0]["high"], found[1]["low"], found[1]["high"]) == (1, 1, 0, 1), "by two latents"
    near, random = judged.curve(FEW, False)
    assert (near["group"], near["n"], near["n_missing"], near["share"]) == ("near_miss", 1, 1, 0.0)
    assert (random["group"], random["n"], random["n_right"]) == ("random", 2, 2)
    assert judged.curve(FEW.slice(0, 0), True) == []


def test_intervals_of_curves_count_latents_and_not_windows():
    """Ten latents that a judge either knows or does not: a hundred windows say no more than ten."""
    rows = [(i, truth, truth == (i < 5), 3, "random") for i in range(10) for truth in (YES, NO) for _ in range(10)]
    plain = mean([1.0] * 5 + [0.0] * 5)
    for truth in (YES, NO):
        (found,) = judged.curve(answers(*rows), truth)
        assert (found["n"], found["share"], found["low"], found["high"]) == (100, 0.5, close(plain.low), close(plain.high))
    (alone,) = judged.curve(answers(*rows[:20]), YES)
    assert (alone["share"], alone["low"], alone["high"]) == (1.0, None, None), "one latent says nothing of the spread"


def test_windows_that_were_only_rated_have_a_mean_and_no_share():
    rated = answers((0, YES, None, 0, "top", 0.9), (0, YES, None, 0, "top", 0.7), (1, NO, None, -1, "random", 0.8))
    (row,) = judged.curve(rated, True)
    assert (row["share"], row["low"], row["probability"], row["n_missing"]) == (None, None, close(0.8), 2)
    assert judged.pooled("AUROC", [1.0], [3], rated, judged.rates(rated)).value == close(0.5)


def test_what_is_pooled_depends_on_the_metric():
    of_rates = judged.rates(FEW)
    assert judged.pooled("balanced accuracy", [1.0], [2], FEW, of_rates).value == close((0.75 + 2 / 3) / 2)
    assert judged.pooled("recall", [1.0, 0.5], [4, 3], FEW, of_rates).value == 0.75, "of activating windows alone"
    assert judged.pooled("correlation", [-0.2, 0.4], [10, 30], FEW, of_rates).value == close(0.25)
    assert judged.pooled("correlation", [], [], FEW, of_rates) == NOTHING
