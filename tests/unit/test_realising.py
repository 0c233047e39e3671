"""Making what is missing, once, in passes."""

from __future__ import annotations

import errno
import json

import pytest

from artifacts.backends.local import Local
from artifacts.errors import ArtifactCorrupt, StoreUnwritable
from artifacts.lease import busy
from artifacts.store import Store
from tasks.progress import Progress
from tasks.realising import make_all
from tasks.spec import Runtime, Spec
from tasks.stage import stage
from tests.making import make
from tests.toys import NumberSpec, counted, number, tree

INLINE = Runtime(mode="inline")


def test_a_recipe_has_its_key_before_any_work_is_done(tmp_path):
    recipe = tree(tmp_path / "log")
    assert len(recipe.key) == 64 and not (tmp_path / "log").exists()
    assert recipe.key == tree(tmp_path / "log").key
    assert recipe.key != tree(tmp_path / "log", parts=4).key


def test_everything_is_made_once_and_one_pass_serves_all_sites(tmp_path):
    store, log = Store.at(tmp_path / "s"), tmp_path / "log"
    opened = make(tree(log), store)
    assert json.loads((opened.path / "value.json").read_text()) == 2 * (10 + 11 + 12)
    assert counted(log) == ["number-10", "pass-0", "pass-1", "pass-2", "total"]
    make(tree(log), store)
    assert len(counted(log)) == 5


def test_a_failing_stage_frees_its_lease_and_makes_nothing(tmp_path):
    store = Store.at(tmp_path / "s")

    @stage("bad", version=1)
    def bad(job):
        (job.out / "half.txt").write_text("half")
        raise RuntimeError("boom")

    recipe = bad(Spec())
    with pytest.raises(RuntimeError, match="boom"):
        make_all([recipe], store, INLINE, Progress())
    assert store.find(recipe.artifact) is None
    assert list(store.backend.paths("leases")) == []


def test_a_pass_that_fails_keeps_the_passes_before_it(tmp_path):
    store = Store.at(tmp_path / "s")

    class At(Spec):
        part: int
        site: str = "a"

    @stage("shaky", version=1, together="site")
    def shaky(units):
        for (job,) in units:
            if job.spec.part == 2:
                raise RuntimeError("boom")
            (job.out / "x").write_text("x")

    recipes = [shaky(At(part=i)) for i in range(4)]
    with pytest.raises(RuntimeError, match="boom"):
        make_all(recipes, store, INLINE, Progress())
    assert [store.find(r.artifact) is not None for r in recipes] == [True, True, False, False]
    assert list(store.backend.paths("leases")) == []


def test_a_full_disk_says_so_and_keeps_what_was_committed(tmp_path):
    store, log = Store.at(tmp_path / "s"), tmp_path / "log"
    kept = number(NumberSpec(value=1, where=str(log)))
    make(kept, store)

    @stage("big", version=1)
    def big(job):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StoreUnwritable, match=r"backend.root = .* but the disk is full \(.* GB free\); nothing that was"):
        make_all([big(Spec())], store, INLINE, Progress())
    assert store.find(kept.artifact) is not None


def test_a_damaged_input_stops_the_stage_before_it_starts(tmp_path):
    store, log = Store.at(tmp_path / "s"), tmp_path / "log"
    wanted = tree(log)
    make(wanted, store)
    store.delete(wanted.artifact)
    for path in (tmp_path / "s" / "part").rglob("value.json"):
        path.write_text("99")
        break
    before = counted(log)
    with pytest.raises(ArtifactCorrupt, match="value.json has (digest|\\d bytes)|digest"):
        make(wanted, Store.at(tmp_path / "s"))
    assert counted(log) == before


def test_the_key_field_that_keeps_keys_is_left_out_at_its_old_value():
    class Old(Spec):
        a: int = 1

    class New(Spec):
        KEEPS_KEY = {"b": None}
        a: int = 1
        b: int | None = None

    assert New().payload() == Old().payload()
    assert New(b=2).payload() == {"a": 1, "b": 2}


class Sealed(Local):
    """A folder that is read-only, or a bucket that refuses, from some moment on."""

    sealed: Exception | None = None

    def swap(self, path, expected, data):
        if self.sealed is not None:
            raise self.sealed
        return super().swap(path, expected, data)

    def read(self, path):
        if self.sealed is not None:
            raise self.sealed
        return super().read(path)


@stage("sealing", version=1, together="n")
def sealing(units):
    for unit in units:
        unit[0].attempt._store.backend.sealed = PATHS[unit[0].spec.n]
        raise ValueError("what went wrong with the work")


PATHS = {1: OSError(errno.EROFS, "Read-only file system"), 3: StoreUnwritable("bucket = 'b', but it refuses the request")}


class Two(Spec):
    n: int = 0


@pytest.mark.parametrize("n", [1, 3])
def test_a_store_that_takes_nothing_any_more_hides_no_failure_and_holds_no_lease(tmp_path, n):
    backend = Sealed(tmp_path)
    store = Store(backend)
    both = [sealing(Two(n=n)), sealing(Two(n=n + 1))]
    with pytest.raises(ValueError, match="what went wrong with the work"):
        make_all(both, store, INLINE, Progress())
    backend.sealed = None
    assert len(list(backend.paths("leases"))) == 2
    assert [busy(backend, recipe.artifact) for recipe in both] == [None, None]
