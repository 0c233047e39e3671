"""SAEs to and fro between us and the peers themselves, where their environments are: benchmarks/environments.py makes them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.environments import PEERS, cache
from benchmarks.roundtrip import rows

WHERE = Path(os.environ.get("SAINT_PEERS") or cache())


@pytest.mark.special
@pytest.mark.skipif(
    not all((WHERE / peer / "saint-environment.json").exists() for peer in PEERS),
    reason="python benchmarks/environments.py makes the peers' environments; SAINT_PEERS is their folder if it is another",
)
def test_every_sae_of_the_peers_and_of_ours_gives_the_same_on_both_sides():
    found = list(rows(WHERE))
    assert len(found) > 100
    assert [row for row in found if not row["fine"]] == []
