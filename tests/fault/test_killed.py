"""kill -9 at any moment, then the same again: what was committed is not made again, and nothing is half made."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from artifacts.gc import orphans
from artifacts.store import Store
from tests.making import make
from tests.toys import counted, tree
from tests.warm import Started, calling


def start(store: Path, log: Path) -> Started:
    return calling(made, str(store), str(log))


def made(store: str, log: str) -> None:
    make(tree(log, parts=6, seconds=0.05), Store.at(store))


@pytest.mark.parametrize("seed", range(6))
def test_what_was_committed_before_a_kill_is_never_made_again(tmp_path, seed):
    where, log = tmp_path / "s", tmp_path / "log"
    log.mkdir()
    draw = random.Random(seed)
    store = Store.at(where)
    for _ in range(3):
        process = start(where, log)
        limit = time.monotonic() + 20
        want = len(counted(log)) + draw.randrange(1, 3)
        while len(counted(log)) < want and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.005)
        time.sleep(draw.random() * 0.06)
        process.send_signal(signal.SIGKILL)
        process.wait()
        done = {a for a in store.artifacts()}
        assert all(store.verify(a) == [] for a in done)
    before = counted(log)
    process = start(where, log)
    assert process.wait(200) == 0
    remade = counted(log)[:]
    for name in before:
        remade.remove(name)
    recipe = tree(str(log), parts=6, seconds=0.05)
    finished = {f"pass-{r.spec.part}" for r in recipe.parents() if r.artifact in done and r.spec.site == "a"}
    finished &= {f"pass-{r.spec.part}" for r in recipe.parents() if r.artifact in done and r.spec.site == "b"}
    assert not finished & set(remade)
    assert store.open(recipe.artifact).summary == {"value": 2 * sum(10 + i for i in range(6))}
    assert list(store.backend.paths("leases")) == [] and list(orphans(store)) == []


def test_two_processes_at_once_make_each_artifact_once(tmp_path):
    where, log = tmp_path / "s", tmp_path / "log"
    both = [start(where, log), start(where, log)]
    assert [p.wait(200) for p in both] == [0, 0]
    names = counted(log)
    assert len(names) == len(set(names)) == 8
