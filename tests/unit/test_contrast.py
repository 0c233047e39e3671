"""Explainer against explainer, judge against judge, by hand."""

from __future__ import annotations

import pyarrow as pa
import pytest

from tasks.analysis.contrast import judgements, labels, matrix, scores
from tasks.explainers.base import Explanation


def said(**found: str) -> dict[int, Explanation]:
    """Explanations by latent; a status in capitals is a failure."""
    return {
        int(name[1:]): Explanation(int(name[1:]), text.lower()) if text.isupper() else Explanation(int(name[1:]), "ok", text)
        for name, text in found.items()
    }


def test_labels_are_equal_but_for_case_space_and_full_stop():
    ours = said(_0="Cats.", _1="dogs", _2="REFUSED", _3="EXPIRED", _4="birds", _9="only here")
    theirs = said(_0="cats", _1="cats", _2="fish", _3="REFUSED", _4="UNPARSABLE")
    found = labels(ours, theirs)
    assert {n: found[n] for n in ("n", "both", "equal", "only_first", "only_second", "neither")} == {
        "n": 5, "both": 2, "equal": 1, "only_first": 1, "only_second": 1, "neither": 1,
    }  # fmt: skip
    assert found["share_equal"]["value"] == 0.5
    assert labels(ours, {})["share_equal"]["value"] is None


def test_scores_are_paired_by_latent_and_split_by_how_often_they_fire():
    ours = {i: 0.9 for i in range(6)} | {99: 0.1}
    theirs = {0: 0.5, 1: 0.5, 2: 0.9, 3: 0.9, 4: 1.0, 5: 1.0, 7: 0.0}
    found = scores(ours, theirs, {i: 0.01 * i for i in range(6)})
    assert found["n"] == 6 and found["first"]["value"] == pytest.approx(0.9) and found["second"]["value"] == pytest.approx(0.8)
    assert found["difference"]["value"] == pytest.approx(0.1)
    assert [found["difference"][n] for n in ("better", "equal", "worse")] == [2, 2, 2]
    assert [(t["name"], round(t["difference"]["value"], 9)) for t in found["thirds"]] == [
        ("rarest third", 0.4), ("middle third", 0.0), ("most frequent third", -0.1),
    ]  # fmt: skip
    assert found["thirds"][1]["density"] == [0.02, 0.03]
    assert [row["latent"] for row in found["largest"]] == [0, 1, 4, 5], "who gains most, then who loses most; none that are equal"
    assert found["pearson"]["value"] is None, "one of them never varies"


def test_nothing_in_common_is_said_and_not_divided_by():
    found = scores({1: 0.5}, {2: 0.5}, {})
    assert found["n"] == 0 and found["first"]["value"] is None and found["thirds"] == [] == found["largest"]


def answers(*rows) -> pa.Table:
    names = ("latent", "window_id", "control", "truth", "predicted")
    schema = pa.schema([("latent", pa.int32()), ("window_id", pa.string()), ("control", pa.bool_()), ("truth", pa.bool_()),
                        ("predicted", pa.bool_())])  # fmt: skip
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], schema=schema)


def test_judges_are_compared_on_the_windows_that_both_answered():
    ours = answers(
        (1, "a", False, True, True), (1, "b", False, False, True), (1, "c", False, False, False), (2, "a", False, True, False),
        (2, "b", False, True, None), (1, "a", True, True, True), (3, "z", False, True, True),
    )  # fmt: skip
    theirs = answers(
        (2, "b", False, True, True), (2, "a", False, True, True), (1, "c", False, False, False), (1, "b", False, False, False),
        (1, "a", False, True, True), (1, "a", True, True, False),
    )  # fmt: skip
    found = judgements(ours, theirs)
    assert (found["n"], found["agreement"], found["apart"]) == (4, 0.5, 2)
    assert found["table"] == {"both_yes": 1, "only_first": 1, "only_second": 1, "both_no": 1}
    assert found["first_right"] == 0 and found["value"] == pytest.approx(0.0)
    assert judgements(ours, theirs.slice(0, 0))["n"] == 0


def test_windows_of_which_another_thing_was_asked_are_not_compared():
    """Wrong marks on a window that fires, and right ones, go by one window's id."""
    asked = answers((1, "a", False, True, True), (1, "b", False, True, True))
    other = answers((1, "a", False, False, False), (1, "b", False, True, True))
    assert (judgements(asked, other)["n"], judgements(asked, other)["agreement"]) == (1, 1.0)


def test_a_matrix_has_each_pair_twice():
    pairs = [{"first": "a", "second": "b", "r": {"value": 0.3}}, {"first": "a", "second": "c", "r": {"value": None}}]
    assert matrix(pairs, ["a", "b", "c"], "r") == [[1, 0.3, None], [0.3, 1, None], [None, None, 1]]
