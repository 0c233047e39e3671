"""Canonical JSON: one spelling per meaning, for all values."""

from __future__ import annotations

import json
import random

from hypothesis import given
from hypothesis import strategies as st

from artifacts.keys import canonical_json, key_of

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=20
)


def shuffled(value, draw: random.Random):
    if isinstance(value, dict):
        names = list(value)
        draw.shuffle(names)
        return {name: shuffled(value[name], draw) for name in names}
    return [shuffled(item, draw) for item in value] if isinstance(value, list) else value


def spelled(value) -> str:
    """Another, slower way to tell two values apart: type and repr of every leaf."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{name!r}:{spelled(value[name])}" for name in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(spelled(item) for item in value) + "]"
    return f"{type(value).__name__}:{value + 0.0!r}" if isinstance(value, float) else f"{type(value).__name__}:{value!r}"


@given(values, st.randoms(use_true_random=False))
def test_the_order_in_which_names_were_typed_never_counts(value, draw):
    assert canonical_json(value) == canonical_json(shuffled(value, draw))


@given(values)
def test_what_was_written_reads_back_equal_and_is_written_the_same_again(value):
    data = canonical_json(value)
    assert canonical_json(json.loads(data)) == data
    data.decode("ascii")


@given(values, values)
def test_two_values_share_a_key_only_if_they_are_the_same_value(a, b):
    same = spelled(a) == spelled(b)
    assert (key_of("x", 1, a, {}) == key_of("x", 1, b, {})) == same
