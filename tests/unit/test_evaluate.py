"""Evaluation against SAEs whose figures are known beforehand."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import tasks.trained
from artifacts.activations import Activations, ActivationWriter
from artifacts.store import Store
from tasks.capture import CaptureSpec, capture
from tasks.corpora.parquet import Parquet
from tasks.corpus import CorpusSpec, corpus
from tasks.evaluate import EvaluateSpec, contexts, evaluate, spread
from tasks.lm.language_model import LanguageModel
from tasks.lm.sites import Sites
from tasks.lms.hf import HF
from tasks.metrics import DEFINITIONS
from tasks.provide import ProvideSpec, provide
from tasks.saes.base import Latents
from tasks.spec import Runtime, Spec, SpecError
from tasks.stage import stage
from tests.making import make
from tests.small import write_corpus, write_model

INLINE = Runtime(mode="inline", device="cpu", lm_batch_tokens=512)


@stage("train", version=1)
def trained(job):
    """A train artifact with nothing in it: the SAE is a fake."""
    return {}


class Fake:
    """An SAE that reconstructs as it is told, and fires latent 0 always, latent 1 on even rows."""

    hookpoint = "layers.1"
    sites = Sites.parse("layers.1")

    def __init__(self, change):
        self.change, self.W_dec_ND = change, torch.zeros(4, 32)
        self.sae = self
        self.norm = SimpleNamespace(sides=lambda x: (x, None), apply=lambda x: (x, x), invert=lambda _, x: change(x))

    def to(self, _device):
        return self

    def decode(self, latents, x_BD=None):
        """Nothing: what is reconstructed is the norm's to say here."""

    def encode(self, x_BD):
        index = torch.tensor([[0, 1]]).expand(len(x_BD), 2)
        value = torch.ones(len(x_BD), 2)
        value[1::2, 1] = 0
        return Latents(index, value)

    def reconstruct(self, x_BD):
        return self.change(x_BD)

    def read(self, found):
        return found["layers.1"]

    def written(self, rows):
        return {"layers.1": rows}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    text = corpus(
        CorpusSpec(corpus=Parquet(path=str(write_corpus(folder / "text.parquet")), validation=0.1, test=0.2).pinned())
    )
    lm = provide(ProvideSpec(lm=HF(path=str(write_model(folder / "model"))).pinned()))
    shards = [
        capture(
            CaptureSpec(
                hookpoint="layers.1", split="test", shard=i, n_shards=2, context_tokens=40, store_dtype="float32"
            ),
            corpus=text,
            lm=lm,
        )
        for i in range(2)
    ]
    return SimpleNamespace(store=Store.at(folder / "store"), lm=lm, shards=shards, sae=trained(Spec()))


@pytest.fixture
def measure(world, monkeypatch, tmp_path):
    """metrics.json and the folder of the evaluation of a fake SAE."""

    def run(change, runtime=INLINE, **fields):
        monkeypatch.setattr(tasks.trained.TrainedSAE, "open", lambda *_, **__: Fake(change))
        recipe = evaluate(EvaluateSpec(**fields), lm=world.lm, sae=world.sae, shards=world.shards)
        if world.store.find(recipe.artifact):
            world.store.delete(recipe.artifact)
        made = make(recipe, world.store, runtime)
        return json.loads((made.path / "metrics.json").read_text()), made

    return run


def value(metrics, name):
    return metrics[name]["value"]


def test_an_sae_that_changes_nothing_costs_nothing(measure):
    found, made = measure(lambda x: x)
    assert value(found, "fvu") == 0
    assert value(found, "ce_sae") == pytest.approx(value(found, "ce_clean"), abs=1e-6)
    assert value(found, "ce_loss_recovered") == pytest.approx(1, abs=1e-4)
    assert value(found, "kl_sae") == pytest.approx(0, abs=1e-6)
    assert value(found, "ce_zero") != pytest.approx(value(found, "ce_clean"), abs=1e-3)
    assert made.summary["ce_loss_recovered"] == value(found, "ce_loss_recovered")
    assert made.summary["n_tokens"] == sum(Activations.open(o.path).n_rows for o in shards_of(made, measure))


def shards_of(made, _):
    store = Store.at(made.path.parents[5])
    from artifacts.keys import Artifact

    return [store.open(Artifact(*address.split("/"))) for address in made.manifest.inputs["shards"]]


def test_an_sae_that_answers_zero_recovers_nothing(measure):
    found, _ = measure(torch.zeros_like)
    assert value(found, "ce_sae") == pytest.approx(value(found, "ce_zero"), abs=1e-6)
    assert value(found, "ce_loss_recovered") == pytest.approx(0, abs=1e-6)
    assert value(found, "l2_ratio") == 0


def test_an_sae_that_answers_the_mean_has_fvu_1_and_the_loss_of_mean_ablation(measure):
    _, made = measure(lambda x: x)
    mean = torch.cat([Activations.open(o.path).activations() for o in shards_of(made, None)]).double().mean(0).float()
    found, _ = measure(lambda x: mean.expand_as(x))
    assert value(found, "fvu") == pytest.approx(1, abs=1e-6)
    assert value(found, "ce_sae") == pytest.approx(value(found, "ce_mean"), abs=1e-5)
    assert value(found, "ce_loss_recovered_from_mean") == pytest.approx(0, abs=1e-3)


def test_clean_loss_is_the_models_own_over_text_tokens(measure, world):
    found, made = measure(lambda x: x)
    model = LanguageModel.open(world.store.open(world.lm.artifact), INLINE)
    total, n = 0.0, 0
    for opened in shards_of(made, None):
        rows = Activations.open(opened.path)
        for start, stop in zip(rows.context_offsets[:-1], rows.context_offsets[1:], strict=True):
            token = torch.tensor([[0, *rows.token_id[start:stop].tolist()]])
            loss = model.model(token, labels=token).loss
            total, n = total + float(loss) * (stop - start), n + int(stop - start)
    assert found["ce_clean"]["n"] == n
    assert value(found, "ce_clean") == pytest.approx(total / n, abs=1e-5)


def test_bos_and_padding_are_never_edited(measure, monkeypatch):
    seen, whole = [], LanguageModel.logits

    def spy(self, token_BT, mask_BT, *edits):
        for edit in edits:
            x = torch.ones(*token_BT.shape, 32)
            if (changed := edit.change(x)) is not None:
                seen.append(((changed != x).any(-1), token_BT, mask_BT))
        return whole(self, token_BT, mask_BT, *edits)

    monkeypatch.setattr(LanguageModel, "logits", spy)
    measure(torch.zeros_like, ce_contexts=9)
    assert len(seen) >= 3
    for edited, token, mask in seen:
        assert not edited[:, 0].any()
        assert not edited[~mask].any()
        assert edited[:, 1:][mask[:, 1:]].all()
        assert (token[:, 0] == 0).all()


def test_the_batch_size_changes_no_loss(measure):
    one, _ = measure(lambda x: x * 0.9, ce_contexts=20)
    other, _ = measure(lambda x: x * 0.9, INLINE.model_copy(update={"lm_batch_tokens": 41}), ce_contexts=20)
    for name in ("ce_clean", "ce_sae", "ce_zero", "ce_mean", "ce_loss_recovered", "kl_sae"):
        assert value(one, name) == pytest.approx(value(other, name), abs=1e-5), name


def test_firing_is_counted_per_latent(measure):
    found, made = measure(lambda x: x, ce_contexts=0)
    table = pq.read_table(made.path / "density.parquet").to_pydict()
    n = made.summary["n_tokens"]
    assert table["latent"] == [0, 1, 2, 3]
    assert table["n_fires"][0] == n
    assert table["density"][1] == pytest.approx(0.5, abs=0.01)
    assert value(found, "dead_fraction") == 0.5
    assert value(found, "dense_fraction") == 0.5
    assert value(found, "l0") == pytest.approx(1.5, abs=0.01)
    assert "ce_clean" not in found


def test_the_interval_is_stored_with_the_value(measure):
    found, _ = measure(lambda x: x * 0.5)
    entry = found["ce_loss_recovered"]
    assert entry["low"] <= entry["value"] <= entry["high"]
    assert entry["n_documents"] > 1


def test_every_number_comes_with_its_definition_and_source(measure):
    found, _ = measure(lambda x: x)
    assert set(found) == set(DEFINITIONS)
    for name, entry in found.items():
        assert (entry["definition"], entry["source"]) == DEFINITIONS[name]
        assert entry["n"] > 0


def group(folder, lengths, first_position=1):
    n = sum(lengths)
    with ActivationWriter(folder / "a.zarr", 2) as writer:
        position = np.concatenate([np.arange(first_position, first_position + length) for length in lengths])
        document = np.repeat(np.arange(len(lengths)), lengths)
        writer.append(torch.zeros(n, 2), np.arange(100, 100 + n), position, document, document, lengths)
    return Activations.open(folder / "a.zarr")


def test_stored_contexts_get_their_bos_back(tmp_path):
    found = contexts([group(tmp_path, [3, 2])], 2, bos_token_id=7)
    assert [c.token_id.tolist() for c in found] == [[7, 100, 101, 102], [7, 103, 104]]
    assert [c.keep.tolist() for c in found] == [[False, True, True, True], [False, True, True]]
    assert [c.document_id for c in found] == [0, 1]


def test_a_tokenizer_without_bos_gets_none(tmp_path):
    found = contexts([group(tmp_path, [3], first_position=0)], 5, bos_token_id=None)
    assert found[0].token_id.tolist() == [100, 101, 102]
    assert found[0].keep.all()


def test_contexts_and_chunks_are_taken_at_even_distances(tmp_path):
    rows = group(tmp_path, [1] * 10)
    assert [c.document_id for c in contexts([rows], 5, 7)] == [0, 2, 4, 6, 8]
    chunks = [("shard", i) for i in range(10)]
    assert [i for _, i in spread(chunks, 2 * 1024)] == [0, 5]
    assert spread(chunks, None) == chunks
    assert len(spread(chunks, 10**9)) == 10


def test_shards_without_rows_are_told(world, tmp_path, monkeypatch):
    from tasks.progress import Progress
    from tasks.stage import Job

    ActivationWriter(tmp_path / "activations.zarr", 2).close()
    empty = SimpleNamespace(path=tmp_path, artifact="capture/0123456789ab")
    monkeypatch.setattr(tasks.trained.TrainedSAE, "open", lambda *_, **__: Fake(lambda x: x))
    job = Job(None, EvaluateSpec(), {"sae": None, "shards": (empty,)}, None, INLINE, Progress(), None)
    with pytest.raises(SpecError, match="evaluate has 1 shards without a row"):
        evaluate.run(job)
