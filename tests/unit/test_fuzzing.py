from __future__ import annotations

import dataclasses
import json
from collections import Counter

from tasks.explainers.base import Explanation
from tasks.scorers.fuzzing import Fuzzing
from tests.planted import WORDS, latent_examples
from tests.unit.test_detection import judged

GOOD = Explanation(0, "ok", f"the word {WORDS[0]}")


def marked(latent: int = 0, seed: int = 0, examples=None):
    examples = examples or latent_examples(latent)
    windows = Fuzzing().chosen(examples, seed)
    marks = Fuzzing().marks(windows, latent, seed)
    split = {True: [], False: []}
    for window, places in zip(windows, marks, strict=True):
        split[window.activating].append(places)
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
        assert Counter(found[True]) == Counter(found[False])
        assert len({len(places) for places in found[True]}) > 1


def test_weak_tokens_are_not_marked():
    examples = varied(latent_examples(0))
    for window, places in zip((windows := Fuzzing().chosen(examples, 0)), Fuzzing().marks(windows, 0, 0), strict=True):
        if window.activating:
            assert places == {i for i, v in enumerate(window.values) if v >= 0.3 * max(window.values)}


def test_silent_windows_too_short_for_any_marks_get_as_many_elsewhere():
    examples = latent_examples(0)
    windows = tuple(
        w if w.activating else dataclasses.replace(w, tokens=w.tokens[:2], values=(0.0, 0.0), peak=0)
        for w in examples.windows
    )
    found = marked(examples=dataclasses.replace(examples, windows=windows))
    assert all(places and max(places) < 2 for places in found[False])


def test_latents_and_seeds_have_marks_of_their_own_and_the_global_generator_is_left_alone():
    import random

    state = random.getstate()
    assert marked(0) == marked(0)
    assert marked(0)[False] != marked(1)[False] and marked(0)[False] != marked(0, seed=1)[False]
    assert random.getstate() == state


def test_a_right_explanation_tells_right_marks_from_wrong_ones():
    examples = latent_examples(0)
    found = Fuzzing().score(judged(Fuzzing(), GOOD, examples), GOOD, examples, 0)
    assert found.status == "ok" and found.value == 1.0


def test_marks_travel_as_json_and_the_text_between_them_stays_whole():
    examples = latent_examples(0)
    windows = Fuzzing().chosen(examples, 0)
    asked = [w for r in Fuzzing(windows_per_request=10).requests(GOOD, examples, 0) for w in json.loads(r.user)["windows"]]
    for window, shown in zip(windows, asked, strict=True):
        assert "".join(part if isinstance(part, str) else part[0] for part in shown) == window.text
        assert sum(isinstance(part, list) for part in shown) == 1


def test_a_judge_is_needed_even_for_rules_and_without_one_there_is_no_score():
    rule = dataclasses.replace(GOOD, predicate={"any": ["word:cat"]})
    assert Fuzzing().needs_client(True)
    assert Fuzzing().score([], rule, latent_examples(0), 0).status == "no_judge"
    assert len(Fuzzing(windows_per_request=10).requests(rule, latent_examples(0), 0)) == 3
