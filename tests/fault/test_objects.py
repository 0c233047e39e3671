"""A store in a bucket when the server goes away, when processes die, and when two hosts want the same."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from artifacts.backends.objects import Objects
from artifacts.errors import ArtifactBusy, StoreUnreachable
from artifacts.gc import orphans
from artifacts.store import Store
from tests import objects
from tests.objects import until
from tests.small import write_corpus
from tests.toys import counted, tree
from tests.unit.test_objects import named
from tests.warm import Started, calling


@pytest.fixture
def name(s3):
    return objects.bucket(s3)


def start(s3, name: str, host: str, cache: Path, log: Path, what: str = "toys") -> Started:
    return calling(elsewhere, host, name, s3.url, str(cache), str(log), what)


def elsewhere(host: str, name: str, url: str, cache: str, log: str, what: str) -> None:
    """What a process does that runs on another host, where its pid means nothing here."""
    import socket

    from tasks.spec import Runtime
    from tests.making import make

    socket.gethostname = lambda: host
    store = Store(Objects(name, "some/prefix", url, cache=cache, patience=30))
    runtime = Runtime(mode="inline", device="cpu", checkpoint_seconds=0.01, lease_ttl_seconds=3)
    make(tree(log, parts=3, seconds=0.1) if what == "toys" else trained(Path(log)), store, runtime)


def away(s3, seconds: float) -> threading.Thread:
    """Kill the server's door now, and open it again after some seconds."""
    s3.slam()
    thread = threading.Timer(seconds, s3.reopen)
    thread.start()
    return thread


def test_a_server_killed_in_the_middle_of_publishing_costs_seconds_and_nothing_else(s3, name, tmp_path):
    store = objects.store(s3, name, tmp_path / "here")
    artifact, recipe = named(1)
    attempt = store.begin(artifact, recipe)
    wanted = {f"{i}.bin": os.urandom(300_000) for i in range(20)} | {"big.bin": os.urandom(40 * 2**20)}
    for file, data in wanted.items():
        (attempt.path / file).write_bytes(data)
    s3.mode(slow=0.1)
    since = len(s3.seen())
    commit = threading.Thread(target=attempt.commit, args=({},))
    commit.start()
    until(lambda: len(s3.seen()) > since + 5)
    away(s3, 1.5).join()
    commit.join(60)
    s3.mode()
    there = objects.store(s3, name, tmp_path / "there")
    folder = there.open(artifact).path
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == wanted and there.verify(artifact) == []


@pytest.mark.parametrize("seed", range(3))
def test_a_server_killed_around_the_commit_leaves_the_artifact_whole(s3, name, tmp_path, seed):
    store = objects.store(s3, name, tmp_path / "here")
    artifact, recipe = named(seed)
    attempt = store.begin(artifact, recipe)
    (attempt.path / "words.txt").write_text("whole")
    s3.mode(slow=0.15)
    commit = threading.Thread(target=attempt.commit, args=({},))
    commit.start()
    time.sleep(0.15 + 0.17 * seed)
    away(s3, 0.5).join()
    commit.join(60)
    s3.mode()
    there = objects.store(s3, name, tmp_path / "there")
    assert there.find(artifact).attempt == attempt.id and there.verify(artifact) == []
    assert list(there.backend.paths("leases")) == [] and list(orphans(there)) == []


def test_a_server_that_stays_away_is_told_in_one_sentence_and_nothing_hangs(s3, name, tmp_path):
    store = objects.store(s3, name, tmp_path / "here", patience=2)
    artifact, recipe = named(1)
    said = r"backend.endpoint = .*, but it has not answered for 2 s \(no connection\); nothing that was committed is lost"
    with pytest.raises(StoreUnreachable, match=said), store.writing(artifact, recipe) as attempt:
        (attempt.path / "words.txt").write_text("half")
        s3.slam()
    begun = time.monotonic()
    for _ in range(5):
        with pytest.raises(ConnectionError):
            store.find(artifact)
    assert time.monotonic() - begun < 2, "who cleans up does not wait as long again"
    s3.reopen()
    assert store.find(artifact) is None and objects.store(s3, name, tmp_path / "there").find(artifact) is None
    store.begin(artifact, recipe).abandon()  # the lease that could not be given back: its holder was us


def test_two_hosts_at_once_make_each_artifact_once_though_the_server_dies_meanwhile(s3, name, tmp_path):
    log = tmp_path / "log"
    log.mkdir()
    both = [start(s3, name, host, tmp_path / host, log) for host in ("one", "two")]
    until(lambda: len(counted(log)) >= 2)
    away(s3, 0.7).join()
    assert [process.wait(250) for process in both] == [0, 0]
    names = counted(log)
    assert len(names) == len(set(names)) == 5
    store = objects.store(s3, name, tmp_path / "three")
    assert store.open(tree(str(log), parts=3, seconds=0.1).artifact).summary == {"value": 2 * (10 + 11 + 12)}
    assert list(store.backend.paths("leases")) == [] and list(orphans(store)) == []


def test_of_two_that_race_for_one_key_one_gets_it(s3, name, tmp_path):
    artifact, recipe = named(1)
    stores, won, gate = [objects.store(s3, name, tmp_path / str(i)) for i in range(4)], [], threading.Barrier(4)

    def race(store: Store) -> None:
        gate.wait()
        try:
            won.append(store.begin(artifact, recipe))
        except ArtifactBusy:
            pass

    threads = [threading.Thread(target=race, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    won[0].abandon()


def test_a_checkpoint_that_was_half_uploaded_is_not_recovered(s3, name, tmp_path, monkeypatch):
    store = objects.store(s3, name, tmp_path / "here")
    artifact, recipe = named(1)

    def save(attempt, text: str) -> None:
        folder = attempt.scratch / "checkpoint"
        folder.mkdir(exist_ok=True)
        for file in "abc":
            (folder / file).write_text(text)
        attempt._save_after = 0
        attempt.save("checkpoint")

    def found() -> str | None:
        attempt = objects.store(s3, name, tmp_path / "there").begin(artifact, recipe)
        path = attempt.recover("checkpoint")
        text = "".join(sorted({file.read_text() for file in path.iterdir()})) if path else None
        attempt.scratch.joinpath("keep").touch()
        attempt.abandon()
        return text

    def dies(path: str) -> None:
        """The process ends just before this object is written."""
        real = store.backend.bucket.put
        with monkeypatch.context() as m:
            m.setattr(store.backend.bucket, "put", lambda p, d: 1 / 0 if path in p else real(p, d))
            with pytest.raises(ZeroDivisionError):
                save(attempt, "second")

    attempt = store.begin(artifact, recipe)
    dies("/b")
    attempt.abandon()
    assert found() is None
    attempt = store.begin(artifact, recipe)
    save(attempt, "first")
    dies("/c")
    attempt.abandon()
    assert found() == "first"
    attempt = store.begin(artifact, recipe)
    save(attempt, "first")
    dies(".kept.json")
    attempt.abandon()
    assert found() == "first"


def trained(corpus_file: Path):
    """A small SAE and all before it."""
    from tasks.capture import CaptureSpec, capture
    from tasks.corpora.parquet import Parquet
    from tasks.corpus import CorpusSpec, corpus
    from tasks.lms.tiny import Tiny
    from tasks.normalise import NormaliseSpec, normalise
    from tasks.norms.rms import RMS
    from tasks.provide import ProvideSpec, provide
    from tasks.saes.topk import TopK
    from tasks.train import TrainSpec, train

    text = corpus(CorpusSpec(corpus=Parquet(path=str(corpus_file)).pinned()))
    spec = Tiny(d_model=32, n_layers=2, n_heads=2, vocab_size=320, context_tokens=48, n_steps=8, batch_contexts=4)
    lm = provide(ProvideSpec(lm=spec), corpus=text)

    def shards(split: str, n: int):
        return [
            capture(
                CaptureSpec(hookpoint="layers.0", split=split, shard=i, n_shards=n, context_tokens=48),
                corpus=text,
                lm=lm,
            )
            for i in range(n)
        ]

    rows = shards("train", 2)
    norm = normalise(NormaliseSpec(norm=RMS()), shards=rows)
    spec = TrainSpec(sae=TopK(k=4), n_tokens=250_000, batch_tokens=256, dead_after_tokens=3000, validate_every=100)
    return train(spec, shards=rows, validation=shards("validation", 1), norm=norm)


def test_a_training_killed_on_one_host_goes_on_from_its_checkpoint_on_another_to_the_same_bits(s3, name, tmp_path):
    from tests.making import make

    corpus_file = write_corpus(tmp_path / "corpus.parquet", n_documents=40)
    wanted = trained(corpus_file)
    there = objects.store(s3, name, tmp_path / "watching")
    first = start(s3, name, "one", tmp_path / "one", corpus_file, "train")

    def kept() -> bool:
        return any(p.endswith("/checkpoint.kept.json") for p in there.backend.paths(there.home(wanted.artifact)))

    until(lambda: kept() or first.poll() is not None)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL and there.find(wanted.artifact) is None
    since = len(s3.seen())
    second = start(s3, name, "two", tmp_path / "two", corpus_file, "train")

    quiet = Store.at(tmp_path / "quiet")  # meanwhile, on a disk and in one go
    make(wanted, quiet)
    assert second.wait(250) == 0
    assert any("checkpoint.kept/" in line for line in s3.seen()[since:] if line.startswith("GET")), "it began anew"

    def weights(store: Store) -> dict[str, str]:
        return {f.path: f.digest for f in store.find(wanted.artifact).files if f.path.endswith(".safetensors")}

    assert weights(there) and weights(there) == weights(quiet) and there.verify(wanted.artifact) == []
    captures = [parent.artifact for parent in wanted.parents() if parent.stage.name == "capture"]
    assert captures and all(there.find(a).files == quiet.find(a).files for a in captures)
    assert not [path for path in there.backend.paths() if "/scratch/" in path]
