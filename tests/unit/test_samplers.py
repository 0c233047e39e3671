"""Samplers by hand: every window can be reached, and few windows are still some."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from random import Random

from tasks.samplers.base import spread
from tasks.samplers.mix import Mix
from tasks.samplers.quantiles import Quantiles
from tasks.samplers.random import RandomWindows
from tasks.samplers.top import Top


def test_top_is_the_strongest():
    assert Top(n=3).draw(10, Random(0)) == [(0, "top"), (1, "top"), (2, "top")]


def test_a_sample_over_quantiles_has_as_many_from_each():
    found = Quantiles(n=20, n_quantiles=5).draw(100, Random(1))
    assert Counter(rank // 20 for rank, _ in found) == dict.fromkeys(range(5), 4)
    assert {group for _, group in found} == {"quantile"}


def test_the_remainder_of_the_ranking_is_reached_too():
    """103 windows in 10 slices: the last three were out of reach when a slice was 103 // 10."""
    seen = {rank for seed in range(300) for rank, _ in Quantiles(n=20, n_quantiles=10).draw(103, Random(seed))}
    assert seen == set(range(103))


def test_fewer_samples_than_quantiles_are_still_samples_and_come_from_all_of_them_in_the_long_run():
    draws = [Quantiles(n=3, n_quantiles=10).draw(100, Random(seed)) for seed in range(200)]
    assert all(len(draw) == 3 for draw in draws)
    counts = Counter(rank // 10 for draw in draws for rank, _ in draw)
    assert set(counts) == set(range(10)) and min(counts.values()) > 20
    for draw in draws:  # spread out, not side by side
        ranks = [rank // 10 for rank, _ in draw]
        assert min(b - a for a, b in pairwise(ranks)) >= 3


def test_what_a_small_slice_lacks_comes_from_the_others():
    # 5 numbers in 4 slices: 1, 1, 1 and 2 of them
    assert all(len(spread(5, 4, 4, Random(seed))) == 4 for seed in range(20))
    assert spread(3, 9, 4, Random(0)) == [0, 1, 2]
    assert len(spread(7, 6, 5, Random(0))) == 6


def test_a_mix_is_the_strongest_and_then_some_of_the_rest_told_apart_by_group():
    found = Mix(n=12, top_share=0.25, n_quantiles=3).draw(33, Random(0))
    assert found[:3] == [(0, "top"), (1, "top"), (2, "top")]
    rest = [rank for rank, group in found if group == "quantile"]
    assert Counter((rank - 3) // 10 for rank in rest) == {0: 3, 1: 3, 2: 3}
    assert [group for _, group in Mix(n=12, top_share=0.25).draw(4, Random(0))] == ["top"] * 3 + ["quantile"]


def test_the_default_mix_is_twenty_of_the_strongest_and_forty_others():
    found = Mix().draw(1000, Random(0))
    assert Counter(group for _, group in found) == {"top": 20, "quantile": 40}


def test_quantiles_count_from_the_strongest_over_all_windows():
    assert [Quantiles(n_quantiles=4).quantile(rank, 10) for rank in range(10)] == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert [Quantiles(n_quantiles=4).quantile(rank, 2) for rank in range(2)] == [0, 2]


def test_a_random_sample_is_even():
    counts = Counter(rank for seed in range(500) for rank, _ in RandomWindows(n=5).draw(20, Random(seed)))
    assert set(counts) == set(range(20)) and min(counts.values()) > 80  # 125 expected, standard deviation 10
