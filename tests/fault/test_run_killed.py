"""kill -9 of a whole run at any moment of any stage: the same command goes on, and ends where a quiet run ends."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest

from artifacts.gc import orphans
from artifacts.store import Store
from tests.small import overrides
from tests.warm import Started, saint
from tests.warm import start as started


def start(world: Path, store: str) -> Started:
    arguments = [
        *overrides(world), "runtime.mode=inline", "runtime.checkpoint_seconds=0.2", f"backend.root={world / store}",
        "train.n_tokens=200000",
    ]  # fmt: skip
    return started("run", *arguments, cwd=world)


def rounds(world: Path, store: str, n: int, seed: int) -> None:
    """Kill a run ``n`` times at random moments, a later one each time, then let it finish."""
    draw = random.Random(seed)
    for _ in range(n):
        process = start(world, store)
        time.sleep(0.3 + draw.random() * 3.0)  # whole and alone it takes some four seconds
        before = {a: m for a in Store.at(world / store).artifacts() if (m := Store.at(world / store).find(a))}
        process.kill()
        process.wait()
        after = Store.at(world / store)
        for artifact, manifest in before.items():
            assert after.find(artifact) == manifest, "what was committed must not be made again"
            assert after.verify(artifact) == []
    committed = {a: m for a in Store.at(world / store).artifacts() if (m := Store.at(world / store).find(a))}
    assert start(world, store).wait(250) == 0
    final = Store.at(world / store)
    assert all(final.find(a) == m for a, m in committed.items())


def digests(store: Store) -> dict:
    """Artifact to the digests of its files: tensors and tables, not what tells of seconds."""
    return {
        artifact: {f.path: f.digest for f in store.find(artifact).files if not f.path.endswith(("log.parquet", ".html"))}
        for artifact in store.artifacts()
    }


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_killed_again_and_again_ends_like_a_quiet_one(tmp_path, seed):
    overrides(tmp_path)
    assert start(tmp_path, "quiet").wait(250) == 0
    rounds(tmp_path, "killed", 4 if seed == 0 else 12, seed)
    quiet, killed = (Store.at(tmp_path / name) for name in ("quiet", "killed"))
    assert digests(killed) == digests(quiet)
    assert list(killed.backend.paths("leases")) == [] and list(orphans(killed)) == []
    runs = json.loads(saint(tmp_path, "ls", "--json", f"backend.root={tmp_path / 'killed'}").stdout)["runs"]
    assert runs[-1]["status"] == "done" and "killed" in {r["status"] for r in runs[:-1]}
