"""The store against a dictionary: any order of making, failing, damaging, deleting and reopening."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from artifacts.errors import ArtifactNotFound
from artifacts.fetching import fetched
from artifacts.gc import remove_orphans
from artifacts.keys import Artifact, key_of, recipe_json
from artifacts.store import Store
from tests import objects

names = st.integers(0, 3)
contents = st.dictionaries(st.sampled_from(["a", "b/c", "d.zarr/c/0"]), st.binary(min_size=1, max_size=40), min_size=1)


class Machine(RuleBasedStateMachine):
    """``self.model`` is what the store should hold: artifact to its files, or None once damaged."""

    def open_store(self) -> Store:
        return Store.at(self.root)

    def damage_file(self, artifact: Artifact, name: str, change) -> None:
        path = self.store.open(artifact).path / name
        path.write_bytes(change(path.read_bytes()))

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.store = self.open_store()
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

        def flipped(data: bytes) -> bytes:
            at = byte % len(data)
            return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]

        self.damage_file(artifact, sorted(files)[0], flipped)
        self.model[artifact] = None

    @rule()
    def reopen(self):
        self.store = self.open_store()

    @rule()
    def collect(self):
        remove_orphans(self.store)

    @invariant()
    def it_holds_what_the_dictionary_holds(self):
        assert set(self.store.artifacts()) == set(self.model)
        fresh = self.open_store()
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
                fetched(folder / "d.zarr")
                assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == files
        assert list(self.store.backend.paths("leases")) == []


Machine.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestStore = Machine.TestCase


def test_a_store_in_a_bucket_is_the_same_store(s3, tmp_path):
    class Bucket(Machine):
        """The same over S3, with a cache that holds almost nothing."""

        def open_store(self) -> Store:
            if not hasattr(self, "bucket"):
                self.bucket = objects.bucket(s3)
            return objects.store(s3, self.bucket, self.root / "cache", cache_bytes=200)

        def damage_file(self, artifact: Artifact, name: str, change) -> None:
            backend, manifest = self.store.backend, self.store.find(artifact)
            path = f"{Store.home(artifact)}/attempts/{manifest.attempt}/data/{name}"
            backend.write(path, change(backend.read(path)))

    run_state_machine_as_test(Bucket, settings=settings(max_examples=5, stateful_step_count=12, deadline=None))
