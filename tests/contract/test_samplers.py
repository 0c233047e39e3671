"""What every sampler promises. A new file in ``tasks/samplers`` is held to it before anybody tests it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import tasks.samplers
from tasks.kinds import decode, kinds

CONF = Path(__file__).parents[2] / "conf/sampler"
every = pytest.mark.parametrize("kind", kinds(tasks.samplers))


def made(kind: str, **fields):
    return decode(tasks.samplers, {**yaml.safe_load((CONF / f"{kind}.yaml").read_text()), **fields}, "mine.train_sampler")


@every
def test_its_yaml_has_every_field_and_only_those(kind):
    assert set(yaml.safe_load((CONF / f"{kind}.yaml").read_text())) == set(type(made(kind)).model_fields)


@every
@settings(max_examples=80, deadline=None)
@given(m=st.integers(0, 300), n=st.integers(1, 80), n_quantiles=st.integers(1, 20), seed=st.integers(0, 99))
def test_as_many_as_there_are_none_twice_and_the_same_for_the_same_seed(kind, m, n, n_quantiles, seed):
    sampler = made(kind, n=n, n_quantiles=n_quantiles)
    state = random.getstate()
    found = sampler.draw(m, random.Random(seed))
    ranks = [rank for rank, _ in found]
    assert len(ranks) == min(n, m) and ranks == sorted(set(ranks)) and all(0 <= rank < m for rank in ranks)
    assert {group for _, group in found} <= {"top", "quantile", "random"}
    assert found == sampler.draw(m, random.Random(seed)) and random.getstate() == state
    quantiles = [sampler.quantile(rank, m) for rank in range(m)]
    assert quantiles == sorted(quantiles) and all(0 <= q < n_quantiles for q in quantiles)
    assert not m or quantiles[0] == 0
