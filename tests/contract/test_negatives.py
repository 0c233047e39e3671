"""What every kind of non-activating windows promises. A new file in ``tasks/negatives`` is held to it at once."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import yaml

import tasks.negatives
from tasks.kinds import decode, kinds
from tasks.negatives.base import Ground, Negatives
from tests.grounds import cache_of, ground_of, scattered
from tests.local_models import BagOfWords, embed
from tests.planted import FILLER, WORDS

CONF = Path(__file__).parents[2] / "conf/negative"
NONE = np.zeros(0, np.int64)
WANTED = 9
SILENT, EVERYWHERE = 7, 12
MODELS = {"embedding": lambda kind: {kind.embedder: BagOfWords()}}
"""What kinds find on the ground that they would load."""

every = pytest.mark.parametrize(
    "kind", [pytest.param(name, marks=embed) if name == "embedding" else name for name in kinds(tasks.negatives)]
)


def fields(kind: str) -> dict:
    return yaml.safe_load((CONF / f"{kind}.yaml").read_text())


def negatives(kind: str, n: int = WANTED) -> Negatives:
    return decode(tasks.negatives, {**fields(kind), "n": n}, "mine.negatives")


@pytest.fixture(scope="module")
def world():
    """Latents that fire here and there, one never, one everywhere, on a text of few words."""
    fires, n_rows = scattered(13, SILENT, EVERYWHERE)
    token_id = np.random.default_rng(5).integers(0, len(WORDS) + len(FILLER), n_rows)
    return fires, token_id


def ground(world, kind: str, n_shards: int = 1, seed: int = 0) -> Ground:
    fires, token_id = world
    here = ground_of(cache_of(fires, token_id, n_shards), texts=[f" {word}" for word in (*WORDS, *FILLER)], seed=seed)
    for name, model in MODELS.get(kind, lambda one: {})(negatives(kind)).items():
        here.once(name, lambda model=model: model)
    return here


def windows(here: Ground, rows: np.ndarray) -> list[tuple[int, int]]:
    return list(zip(*(edge.tolist() for edge in here.around(rows)), strict=True))


def overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] < b[1] and b[0] < a[1]


@every
def test_its_yaml_has_every_field_and_only_those(kind):
    filled = {"fingerprint"}  # when a run is composed
    assert set(fields(kind)) == set(type(negatives(kind)).model_fields) - filled


@every
def test_the_latent_is_silent_in_every_window_and_no_two_overlap(world, kind):
    fires, _ = world
    here = ground(world, kind)
    for latent in (0, 5, 11):
        drawn = negatives(kind).draw(latent, here, NONE)
        assert len(drawn.row) == WANTED
        found = windows(here, drawn.row)
        assert not any(begin <= row < end for row in fires[latent] for begin, end in found)
        assert not any(overlap(a, b) for i, a in enumerate(found) for b in found[:i])


@every
def test_columns_are_of_one_length_and_a_neighbour_fires_at_the_peak(world, kind):
    fires, _ = world
    drawn = negatives(kind).draw(3, ground(world, kind), NONE)
    assert [column.dtype.name for column in drawn] == ["int64", "int32", "float32"]
    assert {len(column) for column in drawn} == {WANTED}
    for row, neighbour, similarity in zip(*(column.tolist() for column in drawn), strict=True):
        assert neighbour == -1 or (neighbour != 3 and row in fires[neighbour] and np.isfinite(similarity))
        assert not similarity > 1 + 1e-5


@every
def test_windows_that_overlap_with_taken_ones_are_left_out(world, kind):
    here = ground(world, kind)
    taken = negatives(kind).draw(4, here, NONE).row[::2]
    again = negatives(kind).draw(4, here, taken)
    assert len(again.row) == WANTED
    assert not any(overlap(a, b) for a in windows(here, again.row) for b in windows(here, taken))


@every
def test_draws_hang_on_nothing_but_seed_split_latent_and_text(world, kind):
    """Not on shards, nor on what was drawn before, nor on the global generator, which they leave alone."""
    state = random.getstate(), np.random.get_state()[1].tolist()
    first = negatives(kind).draw(2, ground(world, kind), NONE)
    other = ground(world, kind, n_shards=3)
    for latent in (11, 2, 6):
        negatives(kind).draw(latent, other, NONE)
    second = negatives(kind).draw(2, other, NONE)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == state


@every
def test_no_more_than_there_are_and_none_where_none_can_be(world, kind):
    here = ground(world, kind)
    most = negatives(kind, 10_000).draw(0, here, NONE)
    assert WANTED < len(most.row) < 10_000 and here.silent_in(0, here.stretches(most.row)).all()
    assert len(negatives(kind, 0).draw(0, here, NONE).row) == 0
    assert len(negatives(kind).draw(EVERYWHERE, here, NONE).row) == 0
    assert here.silent_in(SILENT, here.stretches(negatives(kind).draw(SILENT, here, NONE).row)).all()
