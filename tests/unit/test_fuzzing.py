from __future__ import annotations

import dataclasses
import json
import random
from collections import Counter
from random import Random

import pytest

from tasks.explainers.base import Explanation, Window
from tasks.scorers._marks import Marked, active, cue_only, on_active
from tasks.scorers.fuzzing import Fuzzing
from tests.planted import WORDS, latent_examples
from tests.unit.test_detection import judged

GOOD = Explanation(0, "ok", f"the word {WORDS[0]}")


def marked(latent: int = 0, seed: int = 0, examples=None, **fields):
    split: dict[bool, list] = {True: [], False: []}
    for item in Fuzzing(**fields).marked(examples or latent_examples(latent), seed):
        split[item.right].append(item)
    return split


def varied(examples):
    """The same latent, firing on one to three tokens of a window, more weakly on some."""
    windows = []
    for i, w in enumerate(examples.windows):
        values = list(w.values)
        if w.activating:
            for j in range(i % 3):
                values[(w.peak + j + 1) % len(values)] = max(w.values) * (0.9 if j else 0.2)
        windows.append(dataclasses.replace(w, values=tuple(values)))
    return dataclasses.replace(examples, windows=tuple(windows))


def test_marks_on_silent_windows_repeat_those_on_active_ones_in_number_and_place():
    for latent in range(4):
        found = marked(latent, examples=varied(latent_examples(latent)))
        assert Counter(m.marks for m in found[True]) == Counter(m.marks for m in found[False])
        assert len({len(m.marks) for m in found[True]}) > 1
        assert cue_only(found[True] + found[False]) == 0.5


def test_weak_tokens_are_not_marked():
    for window, places, _ in marked(examples=varied(latent_examples(0)))[True]:
        assert places == {i for i, v in enumerate(window.values) if v >= 0.3 * max(window.values)}


def test_silent_windows_too_short_for_any_marks_get_as_many_elsewhere():
    examples = latent_examples(0)
    windows = tuple(
        w if w.activating else dataclasses.replace(w, tokens=w.tokens[:2], values=(0.0, 0.0), peak=0)
        for w in examples.windows
    )
    found = marked(examples=dataclasses.replace(examples, windows=windows))
    assert all(m.marks and max(m.marks) < 2 for m in found[False])


def test_marks_go_to_silent_windows_of_the_same_length_where_there_are_such():
    examples = latent_examples(0)
    windows = tuple(
        dataclasses.replace(w, tokens=w.tokens[: 8 - i % 2 * 2], values=w.values[: 8 - i % 2 * 2])
        for i, w in enumerate(examples.windows)
    )
    windows = tuple(w for w in windows if not w.values or w.peak < len(w.tokens))
    found = marked(examples=dataclasses.replace(examples, windows=windows))
    lengths = [Counter(len(m.window.tokens) for m in found[right]) for right in (True, False)]
    assert set(lengths[0]) == {6, 8}
    repeated = Counter((len(m.window.tokens), m.marks) for m in found[False])
    same = sum((Counter((len(m.window.tokens), m.marks) for m in found[True]) & repeated).values())
    assert same >= len(found[False]) - sum(((lengths[1] - lengths[0]) + (lengths[0] - lengths[1])).values())


def test_latents_and_seeds_have_marks_of_their_own_and_the_global_generator_is_left_alone():
    state = random.getstate()
    assert marked(0) == marked(0)
    assert marked(0)[False] != marked(1)[False] and marked(0)[False] != marked(0, seed=1)[False]
    assert marked(0, type="active") == marked(0, type="active") != marked(0, seed=1, type="active")
    assert random.getstate() == state


@pytest.mark.parametrize("type", ["default", "active"])
def test_a_right_explanation_tells_right_marks_from_wrong_ones(type):
    scorer, examples = Fuzzing(type=type), latent_examples(0)
    found = scorer.score(judged(scorer, GOOD, examples), GOOD, examples, 0)
    assert found.status == "ok" and found.value == 1.0 and found.extra["cue_only"] == 0.5
    assert found.base_rate == 0.5 and set(found.extra["true_negative_rate_by_group"]) == {
        "random" if type == "default" else "active"
    }


def test_marks_travel_as_json_and_the_text_between_them_stays_whole():
    examples, scorer = latent_examples(0), Fuzzing(windows_per_request=10)
    asked = [w for r in scorer.requests(GOOD, examples, 0) for w in json.loads(r.user)["windows"].values()]
    for item, shown in zip(scorer.marked(examples, 0), asked, strict=True):
        text = "".join(part if isinstance(part, str) else part[0] for part in shown)
        assert text == "…" + item.window.text
        assert sum(isinstance(part, list) for part in shown) == 1


def test_a_judge_is_needed_even_for_rules_and_without_one_there_is_no_score():
    rule = dataclasses.replace(GOOD, predicate={"any": ["word:cat"]})
    assert Fuzzing().needs_client(True)
    assert Fuzzing().score([], rule, latent_examples(0), 0).status == "no_judge"
    assert len(Fuzzing(windows_per_request=10).requests(rule, latent_examples(0), 0)) == 3


def shaped(draw: Random, n: int, actives: set[int], name: str) -> Window:
    values = tuple(10.0 * (i in actives) for i in range(n))
    tokens = tuple(f" {draw.randrange(10**6)}" for _ in range(n))
    return Window(f"test/{name}", "test", "quantile", 0, 0, tokens, values, min(actives), starts_context=True)


def test_wrong_marks_on_active_windows_stand_on_silence_at_the_same_distance_from_both_ends():
    draw = Random(0)
    for case in range(300):
        one, other = (
            shaped(draw, draw.randint(6, 32), set(draw.sample(range(6), draw.randint(1, 3))), f"{case}/{i}")
            for i in range(2)
        )
        found = on_active([one], [other], 0.3, draw)
        if not found:
            continue
        right, wrong = found
        assert (right.right, wrong.right) == (True, False) and right.marks == wrong.marks
        assert len(right.window.tokens) == len(wrong.window.tokens) > max(right.marks)
        assert all(wrong.window.values[m] == 0 for m in wrong.marks)
        assert {right.window.tokens[m] for m in right.marks} == {one.tokens[i] for i in active(one, 0.3)}
        for shown, whole in ((right.window, one), (wrong.window, other)):
            assert shown.text in whole.text and shown.starts_context == whole.text.startswith(shown.text)


def test_active_windows_all_at_one_place_give_nothing_away():
    """Mined windows are centred: without cutting, marks at the place of the peak would all be right ones."""
    draw = Random(0)
    windows = tuple(shaped(draw, 32, {24}, str(i)) for i in range(40))
    found = marked(examples=dataclasses.replace(latent_examples(0), windows=windows), type="active")
    assert len(found[True]) == len(found[False]) == 20
    assert len({m.window.window_id for m in found[True] + found[False]}) == 40
    assert cue_only(found[True] + found[False]) == 0.5
    assert all(len(m.window.tokens) >= 32 - 8 for m in found[False])
    assert len({m.marks for m in found[False]}) > 3


def test_cutting_leaves_at_least_half_of_what_stands_before_right_marks():
    """It may be what makes them right: the first word of two, the topic."""
    draw = Random(0)
    windows = tuple(shaped(draw, 32, {6}, str(i)) for i in range(40))
    found = marked(examples=dataclasses.replace(latent_examples(0), windows=windows), type="active")
    assert all(min(m.marks) >= 3 for m in found[True]) and min(min(m.marks) for m in found[True]) < 6


def test_latents_that_are_never_silent_have_no_score_by_active_windows():
    draw = Random(0)
    windows = tuple(shaped(draw, 8, set(range(8)), str(i)) for i in range(40))
    examples = dataclasses.replace(latent_examples(0), windows=windows)
    assert Fuzzing(type="active").requests(GOOD, examples, 0) == []
    assert Fuzzing(type="active").score([], GOOD, examples, 0).status == "too_few_examples"


def test_cues_in_number_or_place_are_found():
    window = shaped(Random(0), 32, {5}, "w")
    right = [Marked(window, frozenset({i % 32}), True) for i in range(32)]
    assert cue_only(right) is None
    more = [Marked(window, m.marks | {31 - max(m.marks)}, False) for m in right]
    assert cue_only(right + more) == 1.0  # wrong ones have two marks
    constant = [Marked(window, frozenset({24}), False) for _ in right]
    assert cue_only(right + constant) == 0.5 + 0.5 * 0.75  # a quarter of the right ones stand there as well
    mixed = [Marked(window, frozenset({24 if i % 2 else i}), False) for i in range(32)]
    assert cue_only(right + mixed) == pytest.approx(0.5 + (1 / 8 + 1 / 8 + 1 / 8 + (5 / 8 - 1 / 4)) / 4)
