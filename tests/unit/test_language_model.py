"""Language models: the real tiny one speaks as it should; contexts and token texts give the text back."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from artifacts.store import Store
from tasks.lm.contexts import contexts
from tasks.lm.hookpoints import Hookpoint
from tasks.lm.language_model import LanguageModel
from tasks.lms.hf import HF
from tasks.provide import ProvideSpec, provide
from tasks.spec import Runtime, SpecError
from tests.making import make
from tests.small import sentences, write_model

DATA = Path(__file__).parents[2] / "../shared/data"
STORIES = DATA / "lm-stories260k"
CPU = Runtime(mode="inline", device="cpu")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    top = tmp_path_factory.mktemp("lm")
    opened = make(provide(ProvideSpec(lm=HF(path=str(write_model(top / "model"))).pinned())), Store.at(top / "s"))
    return opened, LanguageModel.open(opened, CPU)


@pytest.mark.skipif(not STORIES.exists(), reason="the shared model lm-stories260k is not here")
def test_greedy_text_of_the_real_model_is_the_oracles_byte_for_byte(tmp_path):
    opened = make(provide(ProvideSpec(lm=HF(path=str(STORIES)).pinned())), Store.at(tmp_path))
    lm = LanguageModel.open(opened, CPU)
    oracle = (STORIES / "greedy_oracle.txt").read_text()
    ids = [lm.bos_token_id]
    while len(lm.tokenizer.decode(ids[1:])) < len(oracle.rstrip("\n")) and len(ids) < 400:
        token = torch.tensor([ids])
        ids.append(int(lm.logits(token, torch.ones_like(token, dtype=torch.bool))[0, -1].argmax()))
    text = lm.tokenizer.decode(ids[1:])
    assert oracle.strip().startswith(text.strip()[: len(oracle.strip())]) and len(text) > 200
    texts = lm.token_strings()
    assert "".join(texts[i] for i in ids[1:]).strip() == text.strip()


def test_token_texts_joined_are_the_text(small):
    _, lm = small
    texts = lm.token_strings()
    said = "The cat saw a caf\u00e9.\n  Two lines"
    ids = lm.tokenizer(said, add_special_tokens=False).input_ids
    assert "".join(texts[i] for i in ids).replace("\\xc3\\xa9", "\u00e9") == said


def test_loading_some_layers_gives_the_same_activations(small):
    opened, lm = small
    part = LanguageModel.open(opened, CPU, n_layers=2)
    token = torch.randint(1, 300, (2, 10), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(token, dtype=torch.bool)
    assert torch.equal(
        lm.activations(token, mask, ["layers.1"])["layers.1"], part.activations(token, mask, ["layers.1"])["layers.1"]
    )
    with pytest.raises(Exception, match="logits need all 3 layers"):
        part.logits(token, mask)


def table(documents: list[list[str]]) -> pa.Table:
    rows = [(text, d) for d, texts in enumerate(documents) for text in texts]
    return pa.table(
        {
            "text": [t for t, _ in rows],
            "document_id": pa.array([d for _, d in rows], pa.int32()),
            "sentence_id": list(range(len(rows))),
        }
    )


@pytest.mark.parametrize("mode", ["document", "sentence"])
def test_contexts_hold_one_document_each_and_all_of_its_tokens(small, mode):
    _, lm = small
    text = sentences(60)
    documents = [text[:25], text[25:27], text[27:]]
    found = list(contexts(table(documents), lm.tokenizer, 0, 48, mode, " "))
    texts = lm.token_strings()
    for d, document in enumerate(documents):
        mine = [c for c in found if c.document_id == d]
        assert all(len(c.token_id) <= 48 and c.token_id[0] == 0 and not c.keep[0] and c.keep[1:].all() for c in mine)
        said = "".join(texts[i] for c in mine for i in c.token_id[1:])
        if mode == "document":
            assert said.replace(" ", "") == "".join(document).replace(" ", "")
        else:
            assert len(mine) == len(document)
    if mode == "document":
        assert len(found) < 30, "sentences of a document must share contexts"


def test_a_sentence_longer_than_a_context_goes_on_in_the_next(small):
    _, lm = small
    long = " ".join(sentences(12))
    found = list(contexts(table([[long]]), lm.tokenizer, 0, 16, "document", " "))
    ids = lm.tokenizer(long, add_special_tokens=False).input_ids
    assert [i for c in found for i in c.token_id[1:]] == ids
    assert {int(s) for c in found for s in c.sentence_id} == {0}


@pytest.mark.parametrize("text", ["layers", "layers.x", "blocks.3", "layers.3.out", "layers.-1"])
def test_what_is_no_hookpoint_is_told_with_the_form_of_one(text):
    with pytest.raises(SpecError, match="a hookpoint is layers.N"):
        Hookpoint.parse(text)


def test_a_layer_past_the_last_names_the_last():
    with pytest.raises(SpecError, match="'layers.12', but gpt2 has layers 0 to 11; use 'layers.11' for the last one"):
        Hookpoint.parse("layers.12").check(12, "gpt2")


def test_models_that_must_not_or_cannot_be_opened_are_told_before_any_work(tmp_path):
    with pytest.raises(SpecError, match="but there is no such folder"):
        HF(path=str(tmp_path / "none")).pinned()
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8, "num_hidden_layers": 1}))
    with pytest.raises(SpecError, match="it has no \\*.safetensors"):
        HF(path=str(tmp_path)).pinned()
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(SpecError, match=r"pickles only \(pytorch_model.bin\)"):
        HF(path=str(tmp_path)).pinned()
    with pytest.raises(SpecError, match="lm.revision = 'main', but a key needs a fixed commit"):
        HF(hub_id="a/b", revision="main").pinned()


def test_a_model_folder_that_changed_since_it_was_planned_is_refused(tmp_path):
    folder = write_model(tmp_path / "model")
    opened = make(provide(ProvideSpec(lm=HF(path=str(folder)).pinned())), Store.at(tmp_path / "s"))
    (folder / "README.md").write_text("words do not matter")
    LanguageModel.open(opened, CPU)
    write_model(folder, seed=1)
    with pytest.raises(SpecError, match="not .* as when this run was planned"):
        LanguageModel.open(opened, CPU)
