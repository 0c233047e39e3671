"""The area under the ROC curve, and an interval that holds the truth as often as it says."""

from __future__ import annotations

import math
import time
from random import Random
from statistics import NormalDist

import pytest

from tasks.auroc import auroc, ranks


def test_it_is_the_share_of_pairs_in_the_right_order_and_ties_count_half():
    assert auroc([3, 2], [1, 0]).value == 1.0
    assert auroc([0, 1], [2, 3]).value == 0.0
    assert auroc([1, 1], [1, 1, 1]).value == 0.5
    assert auroc([2, 1], [1, 0]).value == (1 + 1 + 0.5 + 1) / 4
    draw = Random(0)
    positive, negative = ([draw.randrange(6) for _ in range(n)] for n in (17, 11))
    pairs = [(p > n) + (p == n) / 2 for p in positive for n in negative]
    assert auroc(positive, negative).value == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused(number):
    with pytest.raises(ValueError, match="finite"):
        auroc([1.0, number], [0.0])
    with pytest.raises(ValueError, match="finite"):
        auroc([1.0], [number, 0.0])


def test_a_million_numbers_take_seconds():
    draw = Random(0)
    began = time.monotonic()
    found = auroc([draw.random() for _ in range(500_000)], [draw.random() for _ in range(500_000)])
    assert found.value == pytest.approx(0.5, abs=0.005) and time.monotonic() - began < 30


def test_ranks_are_shared_by_equal_values():
    assert ranks([10, 30, 20, 30]).tolist() == [1, 3.5, 2, 3.5]


def test_a_class_without_windows_has_no_area():
    assert auroc([], [1.0]) is None and auroc([1.0], []) is None


def test_the_interval_is_where_the_estimate_is_not_refuted():
    found = auroc(range(5, 25), range(20))
    spare, n = 19, 400
    for edge in (found.low, found.high):  # the equation of the method, at its solution
        variance = edge * (1 - edge) * (1 + spare * ((1 - edge) / (2 - edge) + edge / (1 + edge))) / n
        assert abs(found.value - edge) == pytest.approx(1.959964 * math.sqrt(variance), abs=1e-9)
    assert found.low < found.value < found.high
    other = auroc(range(20), range(5, 25))
    assert (other.low, other.high) == (pytest.approx(1 - found.high), pytest.approx(1 - found.low))


def test_twenty_windows_parted_without_fault_prove_no_area_of_one():
    found = auroc(range(20, 40), range(20))
    assert (found.value, found.high) == (1.0, 1.0) and 0.8 < found.low < 0.95


@pytest.mark.parametrize("area", [0.5, 0.8, 0.97])
def test_the_interval_holds_the_truth_in_95_of_100_draws(area):
    draw, shift = Random(1), NormalDist().inv_cdf(area) * math.sqrt(2)
    held = 0
    for _ in range(400):
        found = auroc([draw.gauss(shift, 1) for _ in range(20)], [draw.gauss(0, 1) for _ in range(20)])
        held += found.low <= area <= found.high
    assert held / 400 > 0.92  # 0.95 less three standard errors of 400 draws
