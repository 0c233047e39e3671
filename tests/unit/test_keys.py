"""Keys hash meaning, not spelling."""

from __future__ import annotations

import pytest

from artifacts.keys import Artifact, Key, canonical_json, key_of


def test_the_key_of_a_known_recipe_is_this_literal():
    key = key_of("train", 1, {"k": 16, "lr": 0.001, "name": "é"}, {"shards": ["capture/aa", "capture/bb"]})
    assert key == "5eadb8ab75ef4c4a2b4033b368d8ff20538f4524edcb99763f25a452869e62b0"
    assert str(Artifact("train", Key("3f2a9c01d4e5" + "0" * 52))) == "train/3f2a9c01d4e5"


def test_the_order_of_names_does_not_count_but_the_order_of_lists_does():
    assert canonical_json({"b": 1, "a": [1, 2]}) == canonical_json({"a": (1, 2), "b": 1})
    assert canonical_json([1, 2]) != canonical_json([2, 1])


def test_whole_numbers_and_floats_are_kept_apart_and_minus_zero_is_zero():
    assert canonical_json(1) != canonical_json(1.0)
    assert canonical_json(-0.0) == canonical_json(0.0)
    assert canonical_json(True) != canonical_json(1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), {1: 2}, object(), b"x", {1, 2}])
def test_what_json_cannot_say_exactly_is_refused(bad):
    with pytest.raises((TypeError, ValueError), match="but"):
        canonical_json({"x": bad})
