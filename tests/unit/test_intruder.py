from __future__ import annotations

import dataclasses
import json
from collections import Counter
from random import Random

import pyarrow as pa
import pytest

from tasks.analysis.contrast import judgements
from tasks.clients.base import Reply
from tasks.explainers.base import Explanation, Window
from tasks.scorers._marks import active
from tasks.scorers.base import wilson
from tasks.scorers.intruder import Intruder
from tests.planted import latent_examples

NOBODY = Explanation(0, "refused")


def answered(puzzles, said) -> list[Reply]:
    """Five puzzles to a request; ``said`` maps a puzzle to the number named, counted from 1."""
    return [
        Reply("", "ok", json.dumps({"answers": {str(i + 1): said(p) for i, p in enumerate(puzzles[k : k + 5])}}))
        for k in range(0, len(puzzles), 5)
    ]


def mined(n: int = 40, peak: int = 24, quantiles: int = 10, seed: int = 0):
    """Windows as a mining gives them: centred, 10 quantiles of 4, strengths that fall with them."""
    draw, windows = Random(seed), []
    for i in range(n):
        values, silent = [0.0] * 32, (0.0,) * 32
        values[peak - draw.randrange(3)] = 10.0 - i % quantiles
        tokens = tuple(f" {draw.randrange(10**6)}" for _ in range(64))
        windows.append(Window(f"test/a/{i}", "test", "quantile", i % quantiles, 0, tokens[:32], tuple(values), peak))
        group = "near_miss" if i % 2 else "random"
        windows.append(Window(f"test/s/{i}", "test", group, -1, 0, tokens[32:], silent, peak))
    return dataclasses.replace(latent_examples(0), windows=tuple(windows))


def test_a_puzzle_is_windows_of_one_quantile_and_a_stranger_marked_alike():
    examples = mined()
    puzzles = Intruder().puzzles(examples, 0)
    places = Counter(max(active(w, 0.3)) for w in examples.test(True))
    assert [p.quantile for p in puzzles] == list(range(10))
    for puzzle in puzzles:
        (stranger, marks), members = puzzle.shown[puzzle.intruder], list(puzzle.shown)
        del members[puzzle.intruder]
        assert not stranger.activating and len(members) == len({w.window_id for w, _ in members}) == 4
        assert all(w.quantile == puzzle.quantile and m == active(w, 0.3) for w, m in members)
        assert len(marks) == 1 and max(marks) in places
    used = Counter(w.window_id for p in puzzles for w, _ in p.shown)
    assert set(used.values()) == {1}  # none twice while there are fresh ones
    assert len({p.intruder for p in puzzles}) > 2
    assert {p.shown[p.intruder][0].group for p in puzzles} == {"near_miss", "random"}


def test_marks_of_the_stranger_are_not_those_of_a_window_beside_it():
    """Else the two that are marked alike would be suspects, and chance one in two."""
    alike = Counter()
    for seed in range(60):
        for puzzle in Intruder().puzzles(mined(seed=seed), seed):
            marks = [m for _, m in puzzle.shown]
            stranger = marks.pop(puzzle.intruder)
            alike["stranger"] += marks.count(stranger)
            alike["others"] += sum(marks.count(m) - 1 for m in marks) / len(marks) * 4 / 3  # of 4 others, as it has
    assert alike["stranger"] / alike["others"] == pytest.approx(1, abs=0.15)


def test_an_internal_stranger_is_active_too_but_of_another_strength():
    for puzzle in Intruder(type="internal").puzzles(mined(), 0):
        stranger, marks = puzzle.shown[puzzle.intruder]
        assert stranger.activating and stranger.quantile != puzzle.quantile and marks == active(stranger, 0.3)
    assert Intruder(type="internal").puzzles(mined(quantiles=1), 0) == []


def test_the_share_of_puzzles_solved_with_its_interval_and_its_chance():
    examples, scorer = mined(), Intruder()
    puzzles = scorer.puzzles(examples, 0)
    wrong = puzzles[:3]
    replies = answered(puzzles, lambda p: (p.intruder + 1) % 5 + 1 if p in wrong else p.intruder + 1)
    found = scorer.score(replies, NOBODY, examples, 0)
    assert (found.status, found.value, found.n) == ("ok", 0.7, 10)
    assert (found.low, found.high) == wilson(7, 10)
    assert found.extra["chance"] == found.base_rate == 0.2 and found.extra["n_missing"] == 0
    assert found.extra["accuracy_by_quantile"]["0"] == {"rate": 0.0, "n": 1}
    assert Intruder(windows_per_puzzle=4).score([], NOBODY, mined(), 0).status == "no_judge"


@pytest.mark.parametrize("said", [0, 6, True, "2", None, 2.5])
def test_an_answer_that_names_no_passage_is_missing_and_never_wrong(said):
    examples, scorer = mined(), Intruder()
    puzzles = scorer.puzzles(examples, 0)
    replies = answered(puzzles, lambda p: said if p is puzzles[0] else p.intruder + 1)
    found = scorer.score(replies, NOBODY, examples, 0)
    assert (found.value, found.n, found.extra["n_missing"]) == (1.0, 9, 1)
    none = scorer.score(answered(puzzles, lambda p: said), NOBODY, examples, 0)
    assert (none.status, none.value) == ("unparsable", None)


@pytest.mark.parametrize("kind", ["default", "internal"])
def test_a_judge_agrees_with_itself_however_often_a_window_is_the_stranger(kind):
    scorer, examples = Intruder(type=kind, n_puzzles=40), mined(n=20)
    puzzles = scorer.puzzles(examples, 0)
    replies = answered(puzzles, lambda p: p.intruder + 1 if puzzles.index(p) % 3 else (p.intruder + 1) % 5 + 1)
    answers = scorer.score(replies, NOBODY, examples, 0).answers
    assert len({p.shown[p.intruder][0].window_id for p in puzzles}) < 40 == len({a.window_id for a in answers})
    table = pa.Table.from_pylist([{"latent": 0, "control": False, **dataclasses.asdict(a)} for a in answers])
    found = judgements(table, table)
    assert (found["n"], found["agreement"], found["value"]) == (40, 1.0, 1.0)


def test_no_explanation_enters_the_question():
    examples, scorer = mined(), Intruder()
    asked = scorer.requests(Explanation(0, "ok", "a label"), examples, 0)
    assert asked == scorer.requests(NOBODY, examples, 0) and len(asked) == 2
    puzzles = [p for r in asked for p in json.loads(r.user)["puzzles"].values()]
    assert len(puzzles) == 10 and all(set(p) == {"1", "2", "3", "4", "5"} for p in puzzles)
    assert all("a label" not in r.user + r.system for r in asked)
    options = asked[0].schema["properties"]["answers"]["properties"]["1"]
    assert options == {"type": "integer", "enum": [1, 2, 3, 4, 5]}


def test_quantiles_that_have_too_few_take_from_their_neighbours_and_too_few_in_all_are_no_puzzle():
    puzzles = Intruder(n_puzzles=4).puzzles(mined(n=20), 0)  # two windows of each quantile
    for puzzle in puzzles:
        found = [w.quantile for i, (w, _) in enumerate(puzzle.shown) if i != puzzle.intruder]
        assert Counter(found)[puzzle.quantile] == 2 and all(abs(q - puzzle.quantile) <= 2 for q in found)
    few = dataclasses.replace(mined(), windows=tuple(w for w in mined().windows if w.quantile in (-1, 3))[:43])
    assert Intruder().puzzles(dataclasses.replace(few, windows=few.windows[:8]), 0) == []
    assert Intruder().score([], NOBODY, dataclasses.replace(few, windows=()), 0).status == "too_few_examples"
