"""The store against a dictionary: any order of making, failing, damaging, deleting and reopening."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from artifacts.errors import ArtifactNotFound
from artifacts.gc import remove_orphans
from artifacts.keys import Artifact, key_of, recipe_json
from artifacts.store import Store

names = st.integers(0, 3)
contents = st.dictionaries(st.sampled_from(["a", "b/c", "d.zarr/c/0"]), st.binary(min_size=1, max_size=40), min_size=1)


class Machine(RuleBasedStateMachine):
    """``self.model`` is what the store should hold: artifact to its files, or None once damaged."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.store = Store.at(self.root)
        self.model: dict[Artifact, dict[str, bytes] | None] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    def at(self, n: int) -> tuple[Artifact, dict]:
        return Artifact("toy", key_of("toy", 1, {"n": n}, {})), recipe_json("toy", 1, {"n": n}, {})

    def fill(self, folder: Path, files: dict[str, bytes]) -> None:
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)

    @rule(n=names, files=contents)
    def make(self, n, files):
        artifact, recipe = self.at(n)
        if artifact in self.model:
            if self.model[artifact] is not None:
                assert self.store.begin(artifact, recipe) is None
            return
        attempt = self.store.begin(artifact, recipe)
        self.fill(attempt.path, files)
        attempt.commit({"n": n})
        self.model[artifact] = files

    @rule(n=names, files=contents)
    def fail(self, n, files):
        artifact, recipe = self.at(n)
        if artifact in self.model:
            return
        with pytest.raises(KeyError), self.store.writing(artifact, recipe) as attempt:
            self.fill(attempt.path, files)
            self.fill(attempt.scratch, files)
            raise KeyError

    @rule(n=names)
    def delete(self, n):
        artifact, _ = self.at(n)
        self.store.delete(artifact)
        self.model.pop(artifact, None)

    @rule(n=names, byte=st.integers(0, 39), bit=st.integers(0, 7))
    def damage(self, n, byte, bit):
        artifact, _ = self.at(n)
        files = self.model.get(artifact)
        if not files:
            return
        path = self.store.open(artifact).path / sorted(files)[0]
        data = bytearray(path.read_bytes())
        data[byte % len(data)] ^= 1 << bit
        path.write_bytes(data)
        self.model[artifact] = None

    @rule()
    def reopen(self):
        self.store = Store.at(self.root)

    @rule()
    def collect(self):
        remove_orphans(self.store)

    @invariant()
    def it_holds_what_the_dictionary_holds(self):
        assert set(self.store.artifacts()) == set(self.model)
        fresh = Store.at(self.root)
        for n in range(4):
            artifact, _ = self.at(n)
            if artifact not in self.model:
                with pytest.raises(ArtifactNotFound):
                    fresh.open(artifact)
                continue
            files = self.model[artifact]
            assert (fresh.verify(artifact) == []) == (files is not None)
            if files is not None:
                folder = fresh.open(artifact).path
                assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == files
        assert list(self.store.backend.paths("leases")) == []


Machine.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestStore = Machine.TestCase
