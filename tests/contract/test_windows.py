"""What every kind of window promises. A new file in ``tasks/windows`` is held to it before anybody tests it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import tasks.windows
from tasks.kinds import decode, kinds

CONF = Path(__file__).parents[2] / "conf/windows"
every = pytest.mark.parametrize("kind", kinds(tasks.windows))


def made(kind: str, **fields):
    return decode(tasks.windows, {**yaml.safe_load((CONF / f"{kind}.yaml").read_text()), **fields}, "mine.windows")


@every
def test_its_yaml_has_every_field_and_only_those(kind):
    assert set(yaml.safe_load((CONF / f"{kind}.yaml").read_text())) == set(type(made(kind)).model_fields)


@every
@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(4, 12), st.integers(1, 4))
def test_a_window_holds_its_row_lies_in_its_context_and_is_as_long_as_it_may_be(kind, lengths, size, least):
    windows, offsets = made(kind, window_tokens=size, min_tokens=least), np.cumsum([0, *lengths])
    rows = np.arange(offsets[-1])
    begin, end = windows.around(rows, offsets)
    context = np.repeat(np.arange(len(lengths)), lengths)
    assert (begin <= rows).all() and (rows < end).all() and (end - begin <= size).all()
    assert (offsets[context] <= begin).all() and (end <= offsets[context + 1]).all()
    assert windows.long_enough(rows, offsets).tolist() == (end - begin >= least).tolist()


@every
@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(4, 12), st.integers(1, 4), st.integers(0, 10**6))
def test_peaks_are_the_strongest_of_windows_that_do_not_overlap(kind, lengths, size, least, seed):
    windows, offsets = made(kind, window_tokens=size, min_tokens=least), np.cumsum([0, *lengths])
    draw = np.random.Generator(np.random.Philox(seed))
    rows = np.flatnonzero(draw.random(offsets[-1]) < 0.3)
    values = draw.choice([0.5, 1.0, 2.0], len(rows)).astype(np.float32)
    peaks = windows.peaks(rows, values, offsets)
    begin, end = windows.around(rows[peaks], offsets)
    order = np.argsort(begin)
    assert (begin[order][1:] >= end[order][:-1]).all()
    assert (end - begin >= least).all()
    assert (np.diff(values[peaks]) <= 0).all()
    for peak, a, b in zip(peaks.tolist(), begin, end, strict=True):
        inside = (rows >= a) & (rows < b)
        assert values[peak] == values[inside].max()
    if least == 1:  # whatever fires has a window in its context
        assert len(set(np.searchsorted(offsets, rows, "right"))) == len(set(np.searchsorted(offsets, rows[peaks], "right")))


@every
def test_a_latent_that_is_silent_has_no_windows(kind):
    nothing = np.zeros(0, np.int64)
    assert len(made(kind).peaks(nothing, np.zeros(0, np.float32), np.array([0, 9]))) == 0
