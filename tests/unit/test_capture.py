"""Capture: the rows on disk are the model's activations at the text's tokens, whatever the batches were."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from artifacts.activations import Activations
from artifacts.store import Store
from flows.ordering import lanes
from tasks.capture import CaptureSpec, capture, cuts, expected
from tasks.corpora.parquet import Parquet
from tasks.corpus import CorpusSpec, corpus, sentences
from tasks.lm.contexts import contexts
from tasks.lm.language_model import LanguageModel
from tasks.lms.hf import HF
from tasks.progress import Progress
from tasks.provide import ProvideSpec, provide
from tasks.realising import make_all
from tasks.spec import Runtime, SpecError
from tests.making import make
from tests.small import write_corpus, write_model

INLINE = Runtime(mode="inline", device="cpu", lm_batch_tokens=512)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A store, a corpus recipe and a language model recipe."""
    folder = tmp_path_factory.mktemp("world")
    text = Parquet(path=str(write_corpus(folder / "text.parquet")), validation=0.1, test=0.2).pinned()
    model = HF(path=str(write_model(folder / "model"))).pinned()
    return SimpleNamespace(
        store=Store.at(folder / "store"), corpus=corpus(CorpusSpec(corpus=text)), lm=provide(ProvideSpec(lm=model))
    )


def recipe(world, **fields):
    fields = {"hookpoint": "layers.1", "context_tokens": 40, **fields}
    return capture(CaptureSpec(**fields), corpus=world.corpus, lm=world.lm)


def opened(world, runtime=INLINE, **fields):
    made = make(recipe(world, **fields), world.store, runtime)
    return made, Activations.open(made.path, str(made.artifact))


class Listening(Progress):
    def __init__(self):
        self.notes, self.labels, self.done = [], [], 0

    def note(self, text):
        self.notes.append(text)

    def started(self, bar):
        self.labels.append((bar.label, bar.unit))

    def finished(self, bar):
        self.done = bar.done
        self.total = bar.total
        self.figures = bar.figures


def reference(world, hookpoints, split="train", context_tokens=40, mode="document"):
    """The contexts of a split and their activations, one context at a time, from the model's own hidden states."""
    model = LanguageModel.open(make(world.lm, world.store), INLINE)
    text = sentences(make(world.corpus, world.store), split)
    found, rows = list(contexts(text, model.tokenizer, model.bos_token_id, context_tokens, mode, " ")), []
    for context in found:
        with torch.inference_mode():
            states = model.model(torch.from_numpy(context.token_id)[None], output_hidden_states=True).hidden_states
        rows.append({h: states[int(h[7:]) + 1][0][torch.from_numpy(context.keep)] for h in hookpoints})
    return found, {h: torch.cat([row[h] for row in rows]) for h in hookpoints}


def test_rows_are_the_hidden_states_of_the_text_in_order(world):
    made, rows = opened(world, store_dtype="float32")
    found, want = reference(world, ["layers.1"])
    assert rows.n_rows == len(want["layers.1"])
    # batched and padded against one at a time: float32 sums in another order
    torch.testing.assert_close(rows.activations(), want["layers.1"], atol=1e-5, rtol=1e-4)
    assert rows.token_id.tolist() == np.concatenate([c.token_id[c.keep] for c in found]).tolist()
    assert rows.sentence_id.tolist() == np.concatenate([c.sentence_id[c.keep] for c in found]).tolist()
    assert rows.document_id.tolist() == [c.document_id for c in found for _ in range(c.keep.sum())]
    assert np.diff(rows.context_offsets).tolist() == [c.keep.sum() for c in found]
    assert rows.position.tolist() == [i for c in found for i in np.flatnonzero(c.keep)]
    assert made.summary["n_rows"] == rows.n_rows
    assert made.summary["n_contexts"] == len(found)
    assert (made.summary["d_in"], made.summary["hookpoint"], made.summary["split"]) == (32, "layers.1", "train")
    assert made.summary["tokens_per_second"] > 0


def test_bos_is_read_and_not_stored(world):
    _, rows = opened(world, store_dtype="float32")
    assert 0 not in rows.token_id  # <s>
    assert rows.position.min() == 1


def test_the_batch_size_changes_no_row(world, tmp_path):
    _, rows = opened(world, store_dtype="float32")
    other = Store.at(tmp_path)
    for batch_tokens in (40, 4096):
        made = make(
            recipe(world, store_dtype="float32"), other, INLINE.model_copy(update={"lm_batch_tokens": batch_tokens})
        )
        again = Activations.open(made.path)
        assert np.array_equal(again.token_id, rows.token_id)
        assert np.array_equal(again.context_offsets, rows.context_offsets)
        torch.testing.assert_close(again.activations(), rows.activations(), atol=1e-5, rtol=1e-4)
        other.delete(made.artifact)


def test_shards_together_are_the_split(world):
    _, whole = opened(world, store_dtype="float32")
    parts = [opened(world, store_dtype="float32", n_shards=4, shard=i)[1] for i in range(4)]
    assert np.array_equal(np.concatenate([p.token_id for p in parts]), whole.token_id)
    assert np.array_equal(np.concatenate([p.document_id for p in parts]), whole.document_id)
    documents = [set(p.document_id.tolist()) for p in parts]
    assert sum(map(len, documents)) == len(set.union(*documents))
    assert max(p.n_rows for p in parts) < 1.5 * min(p.n_rows for p in parts)


def test_hookpoints_of_a_shard_come_from_one_pass_and_one_model(world, monkeypatch, tmp_path):
    passes, loads = [], []
    whole, load = LanguageModel.activations, LanguageModel.open

    def counted(self, token_BT, mask_BT, hookpoints):
        passes.append(hookpoints)
        return whole(self, token_BT, mask_BT, hookpoints)

    def counted_open(*args, **options):
        loads.append(options["n_layers"])
        return load(*args, **options)

    monkeypatch.setattr(LanguageModel, "activations", counted)
    monkeypatch.setattr(LanguageModel, "open", counted_open)
    store = Store.at(tmp_path)
    make(world.corpus, store), make(world.lm, store)
    hookpoints = ["layers.0", "layers.1", "layers.0.mlp"]
    todo = [recipe(world, hookpoint=h, n_shards=2, shard=s) for s in range(2) for h in hookpoints]
    (lane,) = lanes(todo)
    outcome = make_all(lane, store, INLINE, Progress())
    assert len(outcome.made) == 6
    assert loads == [3]  # for both shards: blocks 0 and 1, and one more that the self-check looks at
    assert passes[0] == ["layers.0", "layers.1", "layers.2"]  # the self-check
    assert len(passes) > 2
    assert all(sorted(p) == sorted(hookpoints) for p in passes[1:])
    first = Activations.open(store.open(todo[1].artifact).path)
    _, alone = opened(world, n_shards=2, shard=0)
    assert torch.equal(first.activations(), alone.activations())
    _, mlp = opened(world, hookpoint="layers.0.mlp", n_shards=2)
    assert not torch.equal(mlp.activations(), first.activations())


def test_a_shard_that_needs_a_deeper_block_gets_a_deeper_model(world, monkeypatch, tmp_path):
    loads, load = [], LanguageModel.open

    def counted_open(*args, **options):
        loads.append(options["n_layers"])
        return load(*args, **options)

    store = Store.at(tmp_path)
    make(recipe(world, hookpoint="layers.1", n_shards=2, shard=0), store, INLINE)
    monkeypatch.setattr(LanguageModel, "open", counted_open)
    todo = [recipe(world, hookpoint=h, n_shards=2, shard=s) for s in range(2) for h in ("layers.0", "layers.1")]
    (lane,) = lanes(todo)
    outcome = make_all(lane, store, INLINE, Progress())
    assert (len(outcome.made), len(outcome.hits)) == (3, 1)
    assert loads == [2, 3]
    shallow, whole = Activations.open(store.open(todo[0].artifact).path), opened(world, hookpoint="layers.0")[1]
    # a step of bfloat16 is a 256th: other batches, other sums, another side of a step
    torch.testing.assert_close(shallow.activations(), whole.activations(0, shallow.n_rows), rtol=1 / 128, atol=1e-4)


def test_sites_within_a_block_come_in_their_own_widths_from_the_same_pass(world, tmp_path):
    store = Store.at(tmp_path)
    hookpoints = ["embed", "layers.1.z", "layers.1.resid_mid", "layers.1.mlp_in", "layers.1.mlp_act", "layers.1.mlp", "layers.1"]
    made = {h: make(recipe(world, hookpoint=h, store_dtype="float32"), store, INLINE) for h in hookpoints}
    rows = {h: Activations.open(one.path) for h, one in made.items()}
    assert [rows[h].d for h in hookpoints] == [32, 32, 32, 32, 64, 32, 32] == [one.summary["d_in"] for one in made.values()]
    assert all(np.array_equal(rows["embed"].token_id, one.token_id) for one in rows.values())
    block = LanguageModel.open(store.open(world.lm.artifact), INLINE).blocks[1]
    x = {h: one.activations(0, 50) for h, one in rows.items()}
    torch.testing.assert_close(x["layers.1.resid_mid"] + x["layers.1.mlp"], x["layers.1"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(block.mlp(x["layers.1.mlp_in"]), x["layers.1.mlp"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(block.mlp.down_proj(x["layers.1.mlp_act"]), x["layers.1.mlp"], atol=1e-5, rtol=1e-4)


def test_statistics_are_of_the_rows_as_stored(world):
    made, rows = opened(world)
    found, x = load_file(made.path / "statistics.safetensors"), rows.activations().double()
    assert int(found["count"]) == len(x)
    torch.testing.assert_close(found["mean"], x.mean(0), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found["m2"], (x - x.mean(0)).square().sum(0), rtol=1e-9, atol=1e-12)


def test_max_tokens_takes_whole_contexts_from_the_front(world):
    _, whole = opened(world)
    _, rows = opened(world, max_tokens=500)
    assert 500 - 40 < rows.n_rows <= 500
    assert np.array_equal(rows.token_id, whole.token_id[: rows.n_rows])
    assert rows.context_offsets[-1] in whole.context_offsets


def test_a_context_per_sentence(world):
    _, rows = opened(world, context="sentence", split="test")
    assert rows.n_contexts == len(np.unique(rows.sentence_id))
    assert np.array_equal(rows.context_offsets, rows.sentence_offsets)


def test_blosc_holds_the_same_rows_in_less_space(world):
    plain, rows = opened(world)
    small, again = opened(world, codec="blosc")
    assert torch.equal(rows.activations(), again.activations())
    assert small.manifest.bytes < plain.manifest.bytes


def test_a_person_learns_the_size_before_and_the_speed_meanwhile(world, tmp_path):
    progress = Listening()
    made = make(recipe(world), Store.at(tmp_path), INLINE.model_copy(update={"lm_batch_tokens": 64}), progress)
    (note,) = [n for n in progress.notes if n.startswith("capture train at layers.1: about ")]
    assert all(unit in note for unit in (" M tokens", " GB", " s in 1 shards"))
    assert ("capture train 1/1", "tokens") in progress.labels
    assert progress.done == made.summary["n_rows"]
    # the first block of contexts stands for the rest
    assert progress.total == pytest.approx(progress.done, rel=0.2)
    assert progress.figures["tokens_per_second"] > 0


@pytest.mark.parametrize(
    ("n_chars", "n_shards", "want"),
    [
        ([5] * 10, 2, [0, 5, 10]),
        ([5] * 10, 3, [0, 4, 7, 10]),
        ([100, 1, 1, 1], 3, [0, 1, 2, 4]),  # nothing is left for the second third, but it gets a document
        ([1, 1, 1, 100], 4, [0, 1, 2, 3, 4]),
        ([1, 1, 100, 1], 2, [0, 3, 4]),
        ([0, 0, 0], 3, [0, 1, 2, 3]),
        ([7], 1, [0, 1]),
    ],
)
def test_documents_are_cut_at_equal_characters(n_chars, n_shards, want):
    assert cuts(n_chars, n_shards) == want


def test_more_shards_than_documents_is_told(world):
    with pytest.raises(SpecError, match=r"^capture.n_shards = 64, but the split test has \d+ documents; use at most"):
        opened(world, split="test", n_shards=64)


def test_a_context_longer_than_the_model_reads_is_told(world):
    with pytest.raises(SpecError, match=r"^capture.context_tokens = 129, but .* reads at most 128 tokens; use 128"):
        opened(world, context_tokens=129)


def test_a_layer_past_the_last_is_told(world):
    with pytest.raises(SpecError, match=r"'layers.7', but .* has layers 0 to 2; use 'layers.2'"):
        opened(world, hookpoint="layers.7")


def test_a_hook_that_sees_something_else_stops_the_capture(world, monkeypatch, tmp_path):
    from artifacts.errors import ArtifactError

    whole = LanguageModel.activations

    def wrong(self, *args):
        return {h: x + 1 for h, x in whole(self, *args).items()}

    monkeypatch.setattr(LanguageModel, "activations", wrong)
    with pytest.raises(ArtifactError, match="hidden_states"):
        make(recipe(world, hookpoint="layers.0"), Store.at(tmp_path), INLINE)


def test_values_that_overflow_stop_the_capture(world, monkeypatch, tmp_path):
    whole = LanguageModel.activations

    def overflowing(self, token_BT, mask_BT, hookpoints):
        return {h: x * float("inf") for h, x in whole(self, token_BT, mask_BT, hookpoints).items()}

    monkeypatch.setattr(LanguageModel, "check_hooks", lambda self, hookpoints: None)
    monkeypatch.setattr(LanguageModel, "activations", overflowing)
    with pytest.raises(
        SpecError, match=r"capture.dtype = 'float32', but layers.1 has values in it that are not finite"
    ):
        make(recipe(world), Store.at(tmp_path), INLINE)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shard": 3, "n_shards": 3}, "capture.shard = 3, but capture.n_shards is 3; use 0 to 2"),
        ({"hookpoint": "blocks.3"}, "capture.hookpoint = 'blocks.3'"),
    ],
)
def test_a_bad_spec_is_refused_where_it_is_made(fields, message):
    with pytest.raises(ValidationError, match=message):
        CaptureSpec(**fields)


def test_what_is_expected_is_arithmetic():
    facts = SimpleNamespace(n_layers=12, d_model=768, name="gpt2", vocab_size=50257)
    found = expected(4_400_000, facts, CaptureSpec(hookpoint="layers.8"))
    assert found.n_tokens == 1_000_000
    assert found.n_bytes == 1_000_000 * (768 * 2 + 16)
    assert found.flops == 2.0 * 1_000_000 * 9 * 12 * 768**2
    few = expected(4_400_000, facts, CaptureSpec(max_tokens=100, n_shards=3, store_dtype="float32"))
    assert (few.n_tokens, few.n_bytes) == (300, 300 * (768 * 4 + 16))
    small = expected(797_891, SimpleNamespace(d_model=64, vocab_size=512), CaptureSpec(hookpoint="layers.2"))
    assert small.n_tokens == pytest.approx(398_692, rel=0.01)  # what TinyStories came to under stories260K
