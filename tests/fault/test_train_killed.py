"""kill -9 in the middle of training a language model or an SAE: the resumed run ends with the same bits."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from artifacts.store import Store
from tasks.spec import Runtime
from tests.making import make_together
from tests.small import write_corpus
from tests.warm import Started, calling


def recipes(which: str, corpus_file: Path):
    from tasks.capture import CaptureSpec, capture
    from tasks.corpora.parquet import Parquet
    from tasks.corpus import CorpusSpec, corpus
    from tasks.lms.tiny import Tiny
    from tasks.normalise import NormaliseSpec, normalise
    from tasks.norms.rms import RMS
    from tasks.provide import ProvideSpec, provide
    from tasks.saes.batchtopk import BatchTopK
    from tasks.saes.gated import Gated
    from tasks.saes.topk import TopK
    from tasks.train import TrainSpec, train

    text = corpus(CorpusSpec(corpus=Parquet(path=str(corpus_file)).pinned()))
    n_steps = 400 if which == "lm" else 20
    spec = Tiny(d_model=32, n_layers=2, n_heads=2, vocab_size=320, context_tokens=48, n_steps=n_steps, batch_contexts=8)
    lm = provide(ProvideSpec(lm=spec), corpus=text)
    if which == "lm":
        return [lm]

    def shards(split: str, n: int):
        return [
            capture(CaptureSpec(hookpoint="layers.0", split=split, shard=i, n_shards=n, context_tokens=48), corpus=text, lm=lm)
            for i in range(n)
        ]

    rows = shards("train", 2)
    norm = normalise(NormaliseSpec(norm=RMS()), shards=rows)
    saes, options = [TopK(k=4)], {}
    if which == "saes":  # two in one read, with all that a checkpoint must hold beside weights
        saes = [TopK(k=4), BatchTopK(k=6)]
        options = {"ema": 0.99, "k_start": 16, "k_anneal_fraction": 0.9, "revive_every_tokens": 25_600, "clip_norm": 1.0, "decay": "cosine"}
    if which == "gated":  # its loss is another at each step
        saes = [Gated(freeze_decoder_at=0.8)]
    common = {"n_tokens": 300_000 // len(saes), "batch_tokens": 256, "dead_after_tokens": 3000, "validate_every": 50, **options}
    return [
        train(TrainSpec(sae=sae, **common), shards=rows, validation=shards("validation", 1), norm=norm) for sae in saes
    ]


def start(store: Path, corpus_file: Path, which: str, checkpoint_seconds: float) -> Started:
    return calling(trained, str(store), str(corpus_file), which, checkpoint_seconds)


def trained(store: str, corpus_file: str, which: str, checkpoint_seconds: float) -> None:
    runtime = Runtime(mode="inline", device="cpu", checkpoint_seconds=checkpoint_seconds)
    make_together(recipes(which, Path(corpus_file)), Store.at(store), runtime)


def found(top: Path, name: str) -> set[str]:
    """Checkpoints of that name below a folder, in which a process is making and deleting files meanwhile."""
    paths = (os.path.join(folder, file) for folder, _, files in os.walk(top) for file in files)
    return {path for path in paths if path.endswith(name)}


@pytest.mark.parametrize(
    "which, checkpoint",
    [
        pytest.param("lm", "tiny.pt", marks=pytest.mark.slow),
        pytest.param("sae", "checkpoint/loop.json", marks=pytest.mark.slow),
        pytest.param("gated", "checkpoint/loop.json", marks=pytest.mark.slow),
        ("saes", "checkpoint/loop.json"),
    ],
)
def test_a_killed_training_goes_on_from_its_checkpoint_and_ends_with_the_same_bits(tmp_path, which, checkpoint):
    corpus_file = write_corpus(tmp_path / "corpus.parquet", n_documents=40)
    wanted = recipes(which, corpus_file)
    assert start(tmp_path / "quiet", corpus_file, which, 1e9).wait(250) == 0

    kills = 0
    for _ in range(2):
        process = start(tmp_path / "killed", corpus_file, which, 0.05)
        limit = time.monotonic() + 60
        seen = found(tmp_path / "killed", checkpoint)
        while process.poll() is None and time.monotonic() < limit:
            if found(tmp_path / "killed", checkpoint) - seen:
                time.sleep(0.1)
                break
            time.sleep(0.005)
        if process.poll() is None:
            process.kill()
            kills += 1
        process.wait()
    assert kills, "training ended before it could be killed: make it longer"
    assert [Store.at(tmp_path / "killed").find(one.artifact) for one in wanted] == [None] * len(wanted)
    assert start(tmp_path / "killed", corpus_file, which, 0.05).wait(250) == 0

    for one in wanted:
        quiet, killed = (Store.at(tmp_path / name).find(one.artifact) for name in ("quiet", "killed"))
        digests = [{f.path: f.digest for f in m.files if f.path.endswith(".safetensors")} for m in (quiet, killed)]
        assert digests[0] and digests[0] == digests[1]
