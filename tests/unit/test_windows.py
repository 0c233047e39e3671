"""Windows by hand: at the edges of contexts, and where the strongest row is."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.kinds import decode
from tasks.spec import SpecError
from tasks.windows.base import strongest
from tasks.windows.centred import Centred
from tasks.windows.tiled import Tiled

OFFSETS = np.array([0, 20, 23, 40])
"""Contexts of 20, 3 and 17 rows."""


def edges(windows, rows):
    return [pair for pair in zip(*(e.tolist() for e in windows.around(np.array(rows), OFFSETS)), strict=True)]


def test_a_centred_window_has_three_quarters_before_its_peak_and_moves_at_edges():
    centred = Centred(window_tokens=8)
    assert edges(centred, [6, 10, 18]) == [(0, 8), (4, 12), (12, 20)]
    assert edges(centred, [0, 5, 19]) == [(0, 8), (0, 8), (12, 20)]  # moved, never cut
    assert edges(centred, [20, 21, 22]) == [(20, 23)] * 3  # its context is shorter than a window
    assert edges(centred, [23, 29, 39]) == [(23, 31), (23, 31), (32, 40)]


def test_tiles_begin_with_the_context_and_the_last_one_takes_what_is_left():
    tiled = Tiled(window_tokens=8)
    assert edges(tiled, [0, 7, 8, 19]) == [(0, 8), (0, 8), (8, 16), (16, 20)]
    assert edges(tiled, [22, 23, 31, 39]) == [(20, 23), (23, 31), (31, 39), (39, 40)]


ROWS = np.array([1, 6, 7, 12, 19, 21, 30, 39])
VALUES = np.array([2, 5, 3, 5, 1, 4, 9, 0.5], np.float32)


def test_one_centred_window_around_the_strongest_row_of_each_context_the_first_of_equals():
    peaks = Centred(window_tokens=8).peaks(ROWS, VALUES, OFFSETS)
    assert ROWS[peaks].tolist() == [30, 6, 21]


def test_further_centred_windows_of_a_context_overlap_none_before():
    peaks = Centred(window_tokens=8, per_context=2).peaks(ROWS, VALUES, OFFSETS)
    # around 6 is 0:8 and around 12 is 6:14, which overlap; 12:20 around 19 holds 12, which is stronger; 39 has 32:40, 30 has 24:32
    assert ROWS[peaks].tolist() == [30, 6, 21, 39]
    # around 6 is 3:7, so neither 1 with 0:4 nor 7 with 4:8
    many = Centred(window_tokens=4, per_context=9).peaks(ROWS, VALUES, OFFSETS)
    assert ROWS[many].tolist() == [30, 6, 12, 21, 19, 39]


def test_no_row_in_a_window_is_stronger_than_its_peak_though_it_has_no_window_of_its_own():
    rows, values = np.array([100, 130, 140]), np.array([10, 8, 5], np.float32)
    # around 100 is 76:108 and around 130 is 106:138, which overlap; 116:148 around 140 does not, but holds 130
    assert rows[Centred(per_context=3).peaks(rows, values, np.array([0, 256]))].tolist() == [100]
    alike = np.array([8, 8, 5], np.float32)
    assert rows[Centred(per_context=3).peaks(rows, alike, np.array([0, 256]))].tolist() == [100]
    assert rows[Centred(per_context=3).peaks(rows, values, np.array([0, 135, 256]))].tolist() == [100, 140]
    assert len(Centred(per_context=3).peaks(rows[:0], values[:0], np.array([0, 256]))) == 0


def test_each_tile_is_ranked_by_its_largest_activation():
    assert ROWS[Tiled(window_tokens=8).peaks(ROWS, VALUES, OFFSETS)].tolist() == [30, 6, 12, 21, 19, 39]
    assert ROWS[Tiled(window_tokens=8, min_tokens=4).peaks(ROWS, VALUES, OFFSETS)].tolist() == [30, 6, 12, 19]


def test_windows_that_are_too_short_are_left_out():
    assert ROWS[Centred(window_tokens=8, min_tokens=4).peaks(ROWS, VALUES, OFFSETS)].tolist() == [30, 6]


def test_the_strongest_of_a_group_is_the_first_of_equals():
    assert strongest(np.array([3, 3, 3, 5, 9, 9]), np.array([1.0, 4, 4, 0, 2, 1])).tolist() == [1, 3, 4]


def test_a_window_that_may_not_be_as_short_as_it_is_is_refused():
    with pytest.raises(SpecError, match="mine.windows.min_tokens = 9, but a window has at most 8; use at most 8"):
        decode("tasks.windows", {"kind": "tiled", "window_tokens": 8, "min_tokens": 9}, "mine.windows")
