"""A store in a bucket: lost replies, sentences, and the copies that a host keeps."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from artifacts import fetching
from artifacts.activations import FILE_ROWS, Activations, ActivationWriter
from artifacts.backends import base
from artifacts.errors import ArtifactCorrupt, StoreUnreachable, StoreUnwritable
from artifacts.fetching import pending
from artifacts.gc import remove_orphans
from artifacts.keys import Artifact, key_of, recipe_json
from artifacts.store import Store
from flows.config import load
from flows.looking import store_of
from tasks.spec import SpecError
from tests import objects
from tests.objects import ROOT, until

N_FILES = 3


def named(n: int) -> tuple[Artifact, dict]:
    return Artifact("toy", key_of("toy", 1, {"n": n}, {})), recipe_json("toy", 1, {"n": n}, {})


def written(store: Store, n: int, data: bytes = b"hello") -> Artifact:
    artifact, recipe = named(n)
    with store.writing(artifact, recipe) as attempt:
        (attempt.path / "words.txt").write_bytes(data)
    return artifact


def activations(store: Store) -> tuple[Artifact, torch.Tensor]:
    artifact, recipe = named(0)
    rows = (N_FILES - 1) * FILE_ROWS + 3000
    x, row = torch.randn(rows, 4), np.arange(rows)
    with store.writing(artifact, recipe) as attempt:  # noqa: SIM117
        with ActivationWriter(attempt.path / "activations.zarr", 4, store_dtype="float32") as writer:
            writer.append(x, row, row, row, row, [rows])
    return artifact, x


def fetched(s3, since: int = 0) -> Counter:
    """How often each file of artifacts was downloaded."""
    return Counter(
        line.partition("/data/")[2] for line in s3.seen()[since:] if line.startswith("GET") and "/data/" in line
    )


@pytest.fixture
def place(s3, tmp_path):
    """Opens the same store as another host sees it."""
    name = objects.bucket(s3)
    return lambda host="here", **more: objects.store(s3, name, tmp_path / host, **more)


# lost replies


def test_a_write_whose_reply_was_lost_counts_as_done(s3, place):
    backend = place().backend
    for change in (
        lambda: backend.create("a", b"ours"),
        lambda: backend.swap("a", b"ours", b"ours, newer"),
        lambda: backend.swap("a", b"ours, newer", None),
        lambda: backend.swap("a", None, b"ours again"),
    ):
        s3.mode(lose="prefix/a$")
        since = len(s3.seen())
        assert change()
        assert [line.split()[0] for line in s3.seen()[since:]] == ["GET", "PUT", "GET"], "it was done the first time"
    assert backend.read("a") == b"ours again"


def test_a_write_that_failed_while_another_wrote_counts_as_anothers(s3, place, monkeypatch):
    backend, there = place().backend, place("there").backend
    real = backend.bucket.put_if

    def failing(path, data, e_tag):
        monkeypatch.undo()
        there.create("a", b"theirs")
        s3.mode(fail=[500, 1])
        real(path, data, e_tag)

    monkeypatch.setattr(backend.bucket, "put_if", failing)
    assert not backend.create("a", b"ours") and backend.read("a") == b"theirs"


def test_a_server_that_is_busy_for_a_moment_is_asked_again(s3, place):
    backend = place().backend
    s3.mode(fail=[503, 3])
    assert backend.create("a", b"ours") and backend.read("a") == b"ours"


# sentences


def sentence(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text and "HTTP error" not in text and "Generic" not in text, text
    return text


def test_a_bucket_that_ignores_a_condition_is_refused(s3, place):
    for header in ("If-None-Match", "If-Match"):
        s3.mode(ignore=[header])
        with pytest.raises(StoreUnwritable) as error:
            place().backend.check_writable()
        assert f"but it ignores {header}, so two runs could write one artifact; use a bucket with" in sentence(error)
    s3.mode()
    assert list(place().backend.paths()) == []


def test_each_way_of_not_reaching_a_bucket_is_one_sentence(s3, tmp_path, monkeypatch):
    typed = ["backend=s3", f"backend.cache={tmp_path}"]
    with pytest.raises(StoreUnwritable) as error:
        load([*typed, "backend.bucket=nonesuch", f"backend.endpoint={s3.url}"])
    assert f"backend.bucket = 'nonesuch', but {s3.url} has no such bucket; make it, or name" in sentence(error)
    with pytest.raises(StoreUnreachable) as error:
        load([*typed, "backend.bucket=b", "backend.endpoint=http://127.0.0.1:1"])
    assert (
        "backend.endpoint = 'http://127.0.0.1:1', but it has not answered (no connection); nothing that was"
        in sentence(error)
    )
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(StoreUnwritable) as error:
        load([*typed, "backend.bucket=b", f"backend.endpoint={s3.url}"])
    assert "but the environment has no credentials for it; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in sentence(
        error
    )


def test_trouble_is_remembered_so_that_nobody_is_taken_for_dead_who_could_not_be_heard(s3, place):
    backend = place().backend
    backend.read("a")
    quiet = backend.answering_since
    backend.read("a")
    assert backend.answering_since == quiet
    s3.mode(fail=[503, 1])
    backend.read("a")
    assert backend.answering_since > quiet


def test_a_refused_request_is_told_at_once(s3, place):
    s3.mode(fail=[403, 1])
    with pytest.raises(StoreUnwritable, match=r"refuses the request \(.*403.*\); check AWS_ACCESS_KEY_ID"):
        place().backend.read("a")


def test_without_obstore_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr("flows.places.find_spec", lambda name: None)
    with pytest.raises(
        SpecError, match=r"^backend = 's3', but obstore is not installed; pip install 'saint-sae\[s3\]'$"
    ):
        load(["backend=s3", "backend.bucket=b"])


def test_a_plan_writes_nothing_to_a_bucket(s3, tmp_path):
    name, before = objects.bucket(s3), len(s3.seen())
    typed = ["backend=s3", f"backend.bucket={name}", f"backend.endpoint={s3.url}", f"backend.cache={tmp_path / 'c'}"]
    assert load(typed).store.find(named(0)[0]) is None and list(store_of(typed).artifacts()) == []
    assert {line.split()[0] for line in s3.seen()[before:]} == {"GET"} and not (tmp_path / "c").exists()


# copies


def test_what_was_made_here_or_read_here_once_is_not_downloaded(s3, place):
    artifact = written(place(), 1)
    since = len(s3.seen())
    assert (place().open(artifact).path / "words.txt").read_bytes() == b"hello" and not fetched(s3, since)
    for _ in range(2):
        assert (place("there").open(artifact).path / "words.txt").read_bytes() == b"hello"
    assert fetched(s3, since) == {"words.txt": 1}


def test_a_damaged_copy_is_fetched_anew_and_a_damaged_original_is_told(place, tmp_path):
    artifact = written(place(), 1)
    (copy,) = (tmp_path / "here").rglob("words.txt")
    copy.write_bytes(b"hallo")
    assert (place().open(artifact).path / "words.txt").read_bytes() == b"hello"
    backend = place().backend
    (path,) = [p for p in backend.paths() if p.endswith("words.txt")]
    backend.write(path, b"hullo")
    assert [fault.path for fault in place().verify(artifact)] == ["words.txt"], "verify reads the bucket, not the copy"
    with pytest.raises(ArtifactCorrupt, match="words.txt has digest"):
        place("there").open(artifact)


def test_what_was_used_longest_ago_makes_room_and_what_is_in_use_stays(place, tmp_path):
    maker = place("maker")
    made = [written(maker, n, bytes([n]) * 1000) for n in range(5)]
    held = subprocess.Popen(
        [sys.executable, "-c", """
import sys; from artifacts.backends.cache import Cache
cache = Cache(sys.argv[1], 2500); cache.entry(sys.argv[2]); print(flush=True); sys.stdin.read()
""", str(place("there").backend.cache.root), place().backend.cache._entry(Store._data(maker, maker.find(made[0]))).name],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        held.stdout.readline()
        for n in (0, 1, 2, 3, 2, 4):
            reader = place("there", cache_bytes=3500)
            assert (reader.open(made[n]).path / "words.txt").read_bytes() == bytes([n]) * 1000
            for file in reader.backend.cache._locks.values():
                file.close()  # as when its process ends
        left = {file.read_bytes()[0] for file in (tmp_path / "there").rglob("words.txt")}
        assert left == {0, 2, 4}, "0 is in use by a process, 2 was used again, 4 is the last"
    finally:
        held.communicate()


def test_marks_of_deletions_go_after_a_day(s3, place, monkeypatch):
    store = place()
    written(store, 1)
    marks = [meta for meta in store.backend.bucket.metas() if meta.size == 0]
    assert [mark.path.split("/")[0] for mark in marks] == ["leases"]
    remove_orphans(store)
    assert [meta for meta in store.backend.bucket.metas() if meta.size == 0] == marks
    monkeypatch.setattr(base, "STALE_SECONDS", -5.0)
    remove_orphans(store)
    assert not [meta for meta in store.backend.bucket.metas() if meta.size == 0]
    assert len(list(store.artifacts())) == 1


# Zarr


def test_rows_are_fetched_when_they_are_read_and_each_file_once(s3, place):
    artifact, x = activations(place("maker"))
    since = len(s3.seen())
    s3.mode(slow=0.2, where="activations/c/[12]")
    opened = place("there").open(artifact)
    assert not any("/c/" in name for name in fetched(s3, since)) and pending(
        opened.path / "activations.zarr/activations/c/2/0"
    )
    rows = Activations.open(opened.path, str(artifact))
    assert torch.equal(rows.activations(0, 2000), x[:2000])
    assert pending(opened.path / "activations.zarr"), "training starts before all of it is here"
    until(lambda: not pending(opened.path / "activations.zarr"))
    assert torch.equal(rows.activations(), x) and rows.token_id[-1] == len(x) - 1
    assert set(fetched(s3, since).values()) == {1}


def test_two_readers_of_one_cache_download_a_file_once(s3, place):
    artifact, _ = activations(place("maker"))
    since = len(s3.seen())
    s3.mode(slow=0.3, where="activations/c/0")
    readers = []
    for _ in range(2):
        name = "activations.zarr/activations/c/0/0"
        folder = place("there").open(artifact).path
        readers.append(threading.Thread(target=fetching._bringers[folder].bring, args=(name,)))
    for thread in readers:
        thread.start()
    for thread in readers:
        thread.join()
    assert fetched(s3, since)[name] == 1


def test_a_reader_that_goes_through_zarr_python_never_takes_what_is_not_here_for_zeros(place):
    artifact, x = activations(place("maker"))
    rows = Activations.open(place("there").open(artifact).path)
    rows._rows.codecs = None
    assert torch.equal(rows.activations(FILE_ROWS, FILE_ROWS + 2000), x[FILE_ROWS : FILE_ROWS + 2000])


def test_a_chunk_file_that_is_gone_from_the_bucket_is_named(place):
    artifact, _ = activations(place("maker"))
    store = place("there")
    (path,) = [p for p in store.backend.paths() if p.endswith("activations/c/1/0")]
    store.backend.delete(path)
    rows = Activations.open(store.open(artifact).path, str(artifact))
    assert len(rows.activations(0, 10)) == 10
    with pytest.raises(ArtifactCorrupt, match=rf"{artifact}: activations/c/1/0, chunk .* is missing"):
        rows.activations(FILE_ROWS, FILE_ROWS + 1)


def test_zarr_python_opens_activations_where_they_lie(s3, place):
    import zarr
    from obstore.store import S3Store
    from zarr.storage import ObjectStore

    artifact, x = activations(place())
    store = place()
    prefix = f"some/prefix/{store._data(store.find(artifact))}/activations.zarr"
    there = S3Store(store.backend.bucket.name, prefix=prefix, endpoint=s3.url, client_options={"allow_http": True})
    group = zarr.open_group(ObjectStore(there, read_only=True), mode="r")
    assert np.array_equal(group["activations"][FILE_ROWS - 5 : FILE_ROWS + 5], x[FILE_ROWS - 5 : FILE_ROWS + 5].numpy())
    assert group["token_id"][7] == 7


def test_what_runs_ahead_does_not_keep_a_process_from_ending(s3, place, tmp_path):
    artifact, _ = activations(place("maker"))
    s3.mode(slow=1.0, where="c/[12]")
    program = f"""
from pathlib import Path
from artifacts.activations import Activations
from artifacts.backends.objects import Objects
from artifacts.keys import Artifact
from artifacts.store import Store
store = Store(Objects({place().backend.bucket.name!r}, "some/prefix", {s3.url!r}, cache={str(tmp_path / "there")!r}))
print(len(Activations.open(store.open(Artifact("toy", {artifact.key!r})).path).activations(0, 10)))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout, done.stderr) == (0, "10\n", "")
    assert not list(Path(tmp_path / "there").rglob("c/2/0"))
