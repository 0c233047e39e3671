"""saint import and saint export: an SAE comes in, goes out, and is the same there; what cannot be done is said first."""

from __future__ import annotations

import json
import re

import pytest
import torch

from flows.cli import main
from tasks.formats.base import formats, opened
from tasks.spec import SpecError
from tests import foreign
from tests.small import write_model


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A model, an SAE of it in SAELens' files, and a store that took it in."""
    root = tmp_path_factory.mktemp("porting")
    write_model(root / "model", d_model=foreign.D)
    metadata = {"hook_name": "blocks.1.hook_resid_post", "model_name": "model"}
    foreign.saelens(root / "sae", "gated", metadata=metadata)
    assert main(["import", f"sae.path={root / 'sae'}", *common(root)]) == 0
    return root


def common(root):
    return ["lm=hf", f"lm.path={root / 'model'}", f"backend.root={root / 'store'}", "runtime.mode=inline", "runtime.device=cpu"]


def adopted(root, capsys):
    assert main(["import", f"sae.path={root / 'sae'}", "--json", *common(root)]) == 0
    return json.loads(capsys.readouterr().out)


def test_an_import_is_found_again_and_told_as_json(world, capsys):
    found = adopted(world, capsys)
    assert (found["format"], found["kind"], found["hookpoint"]) == ("saelens", "gated", "layers.1")
    assert found["row_norm"]["min"] > 0 and found["artifact"].startswith("adopt/")


def test_an_import_is_told_as_a_table(world, capsys):
    assert main(["import", f"sae.path={world / 'sae'}", *common(world)]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("saelens", "gated", "40 latents of d_in 16", "layers.1", "lengths of decoder rows"))


@pytest.mark.parametrize("format", ["saelens", "dictionary_learning"])
def test_an_export_is_read_again_with_the_same_latents(world, format, tmp_path, capsys):
    name = adopted(world, capsys)["artifact"]
    assert main(["export", name, format, str(tmp_path / "out"), f"backend.root={world / 'store'}"]) == 0
    assert "read again" in capsys.readouterr().out
    raw = torch.from_numpy(foreign.inputs())
    back, first = opened(tmp_path / "out", allow_pickle=True).trained, opened(world / "sae").trained
    torch.testing.assert_close(back.reconstruct(raw), first.reconstruct(raw), atol=1e-5, rtol=1e-5)
    assert {p.name for p in tmp_path.iterdir()} == {"out"}


def test_nothing_is_written_over_and_nothing_is_left_of_what_fails(world, tmp_path, capsys):
    name, store = adopted(world, capsys)["artifact"], f"backend.root={world / 'store'}"
    (tmp_path / "there").mkdir()
    assert main(["export", name, "saelens", str(tmp_path / "there"), store]) == 2
    assert "something is there already, and nothing is written over" in capsys.readouterr().err
    assert main(["export", name, "sparsify", str(tmp_path / "out"), store]) == 2
    assert "sae.kind = 'gated', but sparsify has topk and groupmax" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["there"] and not list((tmp_path / "there").iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["export", "adopt/0", "saelens"], "takes an SAE, a format and a folder, but 2 are named"),
        (["export", "adopt/0", "goodfire", "x"], "format = 'goodfire', but that is only read; use one of dictionary_learning, saelens"),
        (["export", "adopt/0", "onnx", "x"], "format = 'onnx', but that is none"),
        (["import", "lm=tiny"], "has neither sae.path nor sae.repo"),
        (["import", "path=/tmp"], "path=/tmp, but there is no path in the configuration"),
        (["import", "folder"], "takes overrides only; write sae.path=folder"),
    ],
)  # fmt: skip
def test_what_was_typed_wrong_is_said(arguments, said, capsys):
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def test_an_export_leaves_what_lies_beside_it_and_takes_folders_with_a_sign_of_equality(world, tmp_path, capsys):
    name, store = adopted(world, capsys)["artifact"], f"backend.root={world / 'store'}"
    mine = tmp_path / "new" / "a=b.part" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("kept")
    assert main(["export", name, "saelens", str(tmp_path / "new" / "a=b"), store]) == 0
    assert mine.read_text() == "kept" and (tmp_path / "new" / "a=b" / "cfg.json").is_file()
    assert {p.name for p in (tmp_path / "new").iterdir()} == {"a=b", "a=b.part"}


def test_a_pickle_is_imported_with_the_flag_only(world, tmp_path, capsys):
    path = foreign.dictionary_learning(tmp_path / "dl", "GatedAutoEncoder", foreign.Weights())
    typed = ["import", f"sae.path={path}", *common(world), "sae.any_model=true", "sae.hookpoint=layers.2"]
    assert main(typed) == 2
    assert "set sae.allow_pickle=true" in capsys.readouterr().err
    assert main([*typed, "--allow-pickle"]) == 0
    assert "layers.2" in capsys.readouterr().out


def test_all_formats_are_listed(capsys):
    assert main(["import", "--formats", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["format"]: row["writes"] for row in found} == {name: list(one.WRITES) for name, one in formats().items()}
    assert main(["import", "--formats"]) == 0
    said = capsys.readouterr().out
    assert all(one.SAYS in said for one in formats().values())


def test_an_adopted_sae_is_explained_and_scored_over_the_captures_of_the_command(world, tmp_path, capsys):
    from tests.small import write_corpus

    text = write_corpus(tmp_path / "corpus.parquet", n_documents=20)
    name = adopted(world, capsys)["artifact"]
    typed = ["corpus=parquet", f"corpus.path={text}", "corpus.document_column=doc", "capture.n_shards=2", "capture.context_tokens=32"]
    where = [f"backend.root={world / 'store'}", "runtime.mode=inline", "runtime.device=cpu"]
    assert main(["explain", name, "latents=0:6", *typed, *where]) == 0
    assert "latents explained" in capsys.readouterr().out
    assert main(["score", name, *typed, *where, "--report"]) == 0
    assert "report: " in capsys.readouterr().out
    assert main(["explain", name, "capture.hookpoints=[layers.0]", *where]) == 2
    assert "is made already and has its own" in capsys.readouterr().err

def test_a_transcoder_that_saelens_has_not_is_told_what_to_do(tmp_path):
    from tasks.formats.base import Portable, found_sae

    w = torch.ones(4, 3)
    sae = found_sae("topk", {"W_enc_ND": w, "b_enc_N": w[:, 0], "W_dec_ND": w, "b_dec_D": w[0]}, k=2, subtract_b_dec=False)
    said = "sae.kind = 'topk', but SAELens has no transcoders of that kind; export to sparsify, or train it with sae=standard"
    with pytest.raises(SpecError, match=said):
        formats()["saelens"].write(Portable(sae, hookpoint="layers.0.mlp_in:layers.0.mlp"), tmp_path / "out")


def test_an_export_that_would_not_come_back_is_not_written(world, tmp_path, capsys, monkeypatch):
    name = adopted(world, capsys)["artifact"]
    monkeypatch.setattr("flows.porting._apart", lambda it, back: 0.5)
    assert main(["export", name, "saelens", str(tmp_path / "out"), f"backend.root={world / 'store'}"]) == 2
    assert re.search(r"reconstructions as saelens would be up to 0.5 of the largest away .*; use another", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())
