"""Chaos: whatever dies, the same command goes on, ends where a quiet run ends, and makes nothing twice.

Rounds are seeded; ``make test`` runs a few, ``.ci/run`` all fifty and more.
"""

from __future__ import annotations

import os
import random
import subprocess

import pytest

from artifacts.store import Store
from flows.sweep import jobs
from tests.fault import accidents
from tests.fault.accidents import ALONE, POOL
from tests.objects import bucket
from tests.workplace import Workplace, digests, workplace


def rounds(kinds, n_short: int, n: int):
    """``n`` rounds over all kinds of accidents, of which the first few are not slow."""
    for seed in range(n):
        kind = kinds[seed % len(kinds)]
        marks = () if seed < n_short else (pytest.mark.slow,)
        yield pytest.param(kind, seed, id=f"{seed}-{kind.__name__}", marks=marks)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Workplace:
    """Two users and a store, without Prefect."""
    return Workplace(tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory, alone):
    with workplace(tmp_path_factory.mktemp("lab")) as place:
        place.overrides = alone.overrides  # one corpus and one model, so that keys are those of the quiet run
        place.open()
        yield place


@pytest.fixture(scope="module")
def quiet(alone) -> dict:
    """Digests of a run to which nothing happened."""
    store = alone.folder / "quiet"
    accidents.finish(alone, store)
    return digests(Store.at(store))


@pytest.mark.parametrize("accident, seed", rounds(ALONE, 1, 28))
def test_two_users_of_one_store(alone, quiet, tmp_path, accident, seed):
    store = tmp_path / "store"
    if accident is accidents.the_disk_is_full and os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    try:
        again = accident(alone, store, random.Random(seed))
        accidents.finish(alone, store)
        accidents.check(Store.at(store), quiet, again)
    finally:
        subprocess.run(["umount", store], capture_output=True)


@pytest.mark.parametrize("accident, seed", rounds(POOL, 0, 19))
def test_a_run_on_the_pool(lab, quiet, tmp_path, accident, seed):
    store = tmp_path / f"store{seed}"
    again = accident(lab, store, random.Random(seed))
    accidents.finish(lab, store, f"runtime.guard={store.name}", mode=random.Random(seed + 1).choice(["pool", "inline"]))
    accidents.at_rest(lab, store)
    accidents.check(Store.at(store), quiet, again)
    accidents.turns(store)


@pytest.mark.parametrize("accident, seed", rounds([accidents.the_s3_server_is_dropped], 0, 6))
def test_two_hosts_of_one_bucket(alone, quiet, tmp_path, s3, accident, seed):
    name = bucket(s3)
    where = accident(alone, s3, name, tmp_path, random.Random(seed))
    accidents.finish(alone, where)
    here = jobs([where])[0].pipeline.store
    accidents.check(here, quiet)
