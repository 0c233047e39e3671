"""A disk that is really full: one sentence, nothing committed is lost, and with room again the same command goes on."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from artifacts.store import Store
from tests.small import overrides
from tests.warm import saint


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    where = tmp_path / "disk"
    where.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(where)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a file system can be mounted by root only")
    yield where
    subprocess.run(["umount", str(where)], check=True)


def test_a_full_disk_loses_nothing_that_was_committed(small_disk: Path, tmp_path: Path):
    world = tmp_path / "world"
    arguments = [*overrides(world), "runtime.mode=inline", f"backend.root={small_disk / 'store'}"]
    done = saint(world, "run", *arguments)
    assert done.returncode == 1
    assert "but the disk is full" in done.stderr and "resume: the same command" in done.stderr
    store = Store.at(small_disk / "store")
    kept = {artifact: store.find(artifact) for artifact in store.artifacts()}
    assert kept and all(store.verify(artifact) == [] for artifact in kept)
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    assert saint(world, "run", *arguments).returncode == 0
    assert all(store.find(artifact) == manifest for artifact, manifest in kept.items())
