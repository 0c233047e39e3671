"""The budget of requests and characters of a latent, counted from the requests themselves."""

from __future__ import annotations

import json

from benchmarks.questions import DELPHI, counted, latents
from tasks.explainers.base import Explanation
from tasks.scorers.detection import Detection
from tasks.scorers.fuzzing import Fuzzing
from tasks.scorers.intruder import Intruder
from tasks.scorers.simulation import Simulation

FULL = [examples for examples in latents() if len(examples.test(True)) == len(examples.test(False)) == 50]
GOOD = Explanation(0, "ok", "words for what a function gives back")


def test_a_hundred_windows_of_detection_and_of_fuzzing_take_a_quarter_of_the_requests_and_two_fifths_of_the_characters():
    assert len(FULL) >= 5
    tokens = [token for examples in FULL for window in examples.windows for token in window.tokens]
    assert 3.8 < sum(map(len, tokens)) / len(tokens) < 4.5  # as long as a tokenizer's, or the count would flatter us
    for examples in FULL:
        n, characters = counted(examples)["all"]
        assert n <= 15 and characters <= 0.4 * DELPHI["all"][1]
        many = {"n_positive": 50, "n_negative": 50}
        assert len(Detection(**many).items(examples, 0)) == len(Fuzzing(**many).items(examples, 0)) == 100


def test_questions_of_one_scorer_share_their_system_turn_and_those_of_one_latent_their_beginning():
    for scorer in (Detection(), Fuzzing(), Intruder(n_puzzles=20), Simulation()):
        asked = [scorer.requests(GOOD, examples, 0) for examples in FULL[:3]]
        assert len({r.system for requests in asked for r in requests}) == 1
        assert all(len({r.user[: r.user.index("{", 1)] for r in requests}) == 1 and len(requests) > 1 for requests in asked)
        assert len({json.dumps(r.schema) for requests in asked for r in requests}) == 1  # one grammar to compile
