"""saint push and saint export of latents, on a small real store with hostile labels: bytes that arrive at a hub on loopback."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import io
import json
import re
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout

import huggingface_hub
import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import close_session, constants

from artifacts.store import Store
from flows.cli import main
from tasks.explainers._files import loaded
from tasks.formats.base import opened
from tasks.spec import SpecError
from tests.browsed import PLANTED, build
from tests.fake_hub import fake_hub
from tests.unit.test_sharing import Seen

TOKEN = "hf_" + "s3cret" * 6


@contextmanager
def using(hub, cache):
    """What ``huggingface_hub`` reads of the environment when it is imported, read anew: this hub, and no cache or token of anybody's."""
    with ExitStack() as afterwards, pytest.MonkeyPatch.context() as patch:
        afterwards.callback(_anew)
        for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN"):
            patch.delenv(name, raising=False)
        own = {"HF_ENDPOINT": hub, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        for name, value in own.items():
            patch.setenv(name, value)
        _anew()
        yield


def _anew():
    importlib.reload(constants)
    close_session()


def commands(hub, cache, *each):
    """What some commands say, with this hub: exit code, output and errors of each. The token is never in them."""
    found = []
    with using(hub, cache), pytest.MonkeyPatch.context() as patch:
        for token, arguments in (one if isinstance(one, tuple) else (TOKEN, one) for one in each):
            patch.setenv("HF_TOKEN", token)
            out, err = io.StringIO(), io.StringIO()
            with redirect_stdout(out), redirect_stderr(err):
                code = main(arguments)
            found.append((code, out.getvalue(), err.getvalue()))
            assert TOKEN not in out.getvalue() + err.getvalue()
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("pushing")
    store = build(root)
    (root / "hub").mkdir()
    (sae,) = [str(a) for a in Store.at(store).artifacts() if a.stage == "train"]
    return root, sae, f"backend.root={store}"


@pytest.fixture(scope="module")
def pushed(world):
    """All that happened in one session with a hub, and the hub at its end."""
    root, sae, where = world
    (root / "hub" / "me" / "model").mkdir(parents=True)
    (root / "hub" / "me" / "model" / "config.json").write_text("{}")
    push = lambda repo, *more: ["push", sae, repo, "--license", "mit", where, *more]  # noqa: E731
    with fake_hub(root / "hub") as hub:
        hub.tokens[TOKEN] = ("me",)
        hub.private.add("me/model")
        hub.failing = [("api/models/me/late/commit", 500)]
        back = ["import", "sae.repo=me/sae", "sae.subfolder=layers.1", "lm=hf", f"lm.path={root / 'model'}", "sae.any_model=true"]
        said = commands(
            hub.url, root / "cache", push("me/sae"), push("me/sae"), push("me/sae", "--license", "apache-2.0"), push("you/sae"),
            push("me/model"), push("me/bad", "--license", "nonsense"), push("me/open", "--public"), push("me/open"),
            (TOKEN + "x", push("me/sae")), ("", push("me/sae")), ["push", sae, "me/sae", where],
            push("me/late"), push("me/late"), [*back, f"backend.root={root / 'second'}", "runtime.mode=inline", "runtime.device=cpu"],
        )  # fmt: skip
        names = [
            "first", "again", "license", "other_owner", "other_content", "bad_license", "public", "then_private", "bad_token", "no_token",
            "unlicensed", "interrupted", "resumed", "back",
        ]  # fmt: skip
        yield hub, dict(zip(names, said, strict=True))


def test_what_was_pushed_arrived_byte_for_byte_in_one_commit_in_a_private_repository(pushed):
    hub, said = pushed
    code, out, _ = said["first"]
    assert code == 0 and "private" in out and "me/sae" in hub.private
    first = hub.commits[0]
    names = {op["value"]["path"] for op in first["operations"]}
    weights = {"layers.1/cfg.json", "layers.1/sae_weights.safetensors"}
    assert names == {"README.md", "saint.json", "explanations.parquet", "explanations.jsonl", *weights}
    weights = (hub.root / "me/sae/layers.1/sae_weights.safetensors").read_bytes()
    (large,) = [op["value"] for op in first["operations"] if op["value"]["path"].endswith("safetensors")]
    assert hub.large[large["oid"]] == weights and hashlib.sha256(weights).hexdigest() == large["oid"]


def test_pushing_again_what_is_there_makes_no_commit_and_a_change_sends_only_what_changed(pushed):
    hub, said = pushed
    assert said["again"][0] == 0 and "nothing new: it is there already" in said["again"][1]
    own = [c for c in hub.commits if c["repo"] == "me/sae"]
    assert [[op["value"]["path"] for op in c["operations"]] for c in own[1:]] == [["README.md"]]
    assert own[1]["header"]["parentCommit"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("other_owner", "this token may not write there; use one with write access to you"),
        ("other_content", "it is there already and holds something else (config.json); name another repository"),
        ("bad_license", 'refuses its card ("license" must be one of'),
        ("then_private", "anybody can read it; add --public if that is meant"),
        ("bad_token", "the hub does not know this token; set HF_TOKEN"),
        ("no_token", "there is no token; set HF_TOKEN to one that may write, or run hf auth login"),
        ("unlicensed", "has no --license, but others must know"),
    ],
)
def test_what_cannot_be_pushed_is_said_in_one_line(pushed, name, words):
    code, _, err = pushed[1][name]
    assert code == 2 and words in err and err.count("\n") == 1 and "Traceback" not in err


def test_nothing_is_left_of_what_was_refused(pushed):
    hub, said = pushed
    assert not (hub.root / "me/bad").exists() and not (hub.root / "you").exists()
    assert [p.name for p in (hub.root / "me/model").iterdir()] == ["config.json"]
    assert said["public"][0] == 0 and "me/open" not in hub.private


def test_what_was_pushed_comes_back_with_equal_tensors_and_labels(pushed, world):
    root = world[0]
    hub, said = pushed
    assert said["back"][0] == 0, said["back"]
    second = Store.at(root / "second")
    (adopted,) = [a for a in second.artifacts() if a.stage == "adopt"]
    from tasks.trained import TrainedSAE

    back = TrainedSAE.open(second.open(adopted))
    first = opened(hub.root / "me/sae/layers.1").trained
    assert back.hookpoint == "layers.1"
    for name, tensor in first.sae.weights().items():
        assert torch.equal(tensor, back.sae.weights()[name]), name
    for file in ("explanations.parquet", "explanations.jsonl"):
        found = loaded(str(hub.root / "me/sae" / file)).explanations
        assert found[3].label == PLANTED and found[3].status == "ok"
        assert "onerror" in found[4].label, "as it was, in data"
    columns = pq.read_table(hub.root / "me/sae/explanations.parquet")
    assert len(columns) == 128 and {"latent", "label", "status", "detection", "detection low"} <= set(columns.column_names)


def test_the_card_is_the_hubs_and_no_label_gets_into_it(pushed):
    from huggingface_hub import ModelCard
    from markdown_it import MarkdownIt

    text = (pushed[0].root / "me/sae/README.md").read_text()
    card = ModelCard(text)
    assert (card.data.license, card.data.to_dict()["library_name"]) == ("apache-2.0", "saelens") and "sparse-autoencoder" in card.data.tags
    page = Seen(MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(card.text))
    assert not {"img", "script", "a", "style", "template"} & set(page.tags)
    assert 'SAE.from_pretrained("me/sae", "layers.1")' in text and "saint import sae.repo=me/sae sae.subfolder=layers.1" in text
    told = json.loads((pushed[0].root / "me/sae/saint.json").read_text())
    assert told["sae"].startswith("train/") and all(key.split("/")[1] in text for key in told["rests_on"])


def test_the_cards_hook_does_what_saint_does_and_leaves_the_first_token_alone(pushed, world, monkeypatch):
    from flows.api import open_sae

    hub, (root, sae, _) = pushed[0], world
    text = (hub.root / "me/sae/README.md").read_text()
    (title, lines), = re.findall(r"(Steering in plain transformers[^\n]*):\n\n```python\n(.*?)```", text, re.DOTALL)
    latent = int(re.search(r"latent (\d+) at 0.8", title)[1])
    assert f"--latent {latent}=0.8" in text
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo, file: str(hub.root / repo / file))
    mine = open_sae(sae, root / "store", device="cpu")
    model, token_BT = mine.subject.lm.model, torch.tensor([[0, 7, 30, 2, 9]])
    held = {"model": model}
    with torch.no_grad():
        plain = model(token_BT, output_hidden_states=True).hidden_states[2]
        with mine.steering({latent: 0.8}, unit="largest"):
            wanted = model(token_BT, use_cache=True)
            goes_on = model(token_BT[:, :1] + 5, past_key_values=wanted.past_key_values).logits
        exec(lines, held)  # what people are told to run
        found = model(token_BT, output_hidden_states=True, use_cache=True)
        next_logits = model(token_BT[:, :1] + 5, past_key_values=found.past_key_values).logits
    held["handle"].remove()
    changed_T = (found.hidden_states[2] != plain).any(-1)[0]
    assert changed_T.tolist() == [False, True, True, True, True], "BOS is left as it is"
    torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(next_logits, goes_on, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(found.logits, model(token_BT).logits, atol=1e-2)


def test_nothing_that_goes_out_says_where_it_was_made(pushed, world):
    for file in (pushed[0].root / "me/sae").rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            assert str(world[0]).encode() not in data and TOKEN.encode() not in data, file


def test_a_dry_run_writes_the_folder_and_asks_no_hub(world, tmp_path, capsys, monkeypatch):
    _, sae, where = world
    monkeypatch.delenv("HF_TOKEN", raising=False)
    arguments = ["push", sae, "me/sae", "--license", "mit", "--dry-run", where]
    assert main([*arguments, "--folder", str(tmp_path / "out")]) == 0
    assert "nothing was sent" in capsys.readouterr().out and (tmp_path / "out" / "README.md").is_file()
    assert main([*arguments, "--folder", str(tmp_path / "out")]) == 2
    assert "something is there already" in capsys.readouterr().err
    assert main(arguments) == 2 and "add --folder DIR" in capsys.readouterr().err
    assert main([*arguments, "--folder", str(tmp_path / "two"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pushed"] is False
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / n).rglob("*") if p.is_file()} for n in ("out", "two"))
    assert one == two and [p.name for p in sorted(tmp_path.iterdir())] == ["out", "two"]


def test_an_interrupted_push_leaves_nothing_half_and_the_same_command_goes_on(pushed):
    hub, said = pushed
    code, _, err = said["interrupted"]
    assert code == 1 and "the hub fails (500" in err and "the same command goes on" in err
    assert said["resumed"][0] == 0 and "README.md" in hub.files("me/late")
    assert len([c for c in hub.commits if c["repo"] == "me/late"]) == 1


def test_an_sae_goes_out_in_the_first_format_that_holds_it_and_one_that_would_not_come_back_leaves_nothing(tmp_path):
    from flows.publishing import _weights
    from tasks.formats.base import Portable, found_sae

    w = torch.eye(8, 6)
    tensors = {"W_enc_ND": w, "b_enc_N": w[:, 0].clone(), "W_dec_ND": w.clone(), "b_dec_D": w[0].clone()}
    transcoder = Portable(found_sae("topk", tensors, k=2, subtract_b_dec=False), hookpoint="layers.0.mlp_in:layers.0.mlp")
    assert _weights(transcoder, "train/0", tmp_path / "one")[0] == "sparsify"
    crosscoder = Portable(found_sae("topk", tensors, k=2), hookpoint="layers.0+layers.1")
    assert _weights(crosscoder, "train/0", tmp_path / "two") == ("saint_sae", [])
    back = opened(tmp_path / "two")
    assert back.hookpoint == "layers.0+layers.1" and torch.equal(back.sae.weights()["W_enc_ND"], w)
    nowhere = Portable(found_sae("topk", tensors, k=2), hookpoint=None)
    nowhere.sae.weights()["W_dec_ND"][0, 0] = float("nan")
    with pytest.raises(SpecError, match="1 values in W_dec that are not finite"):
        _weights(nowhere, "train/0", tmp_path / "three")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "two"]


def test_an_imported_sae_without_windows_is_pushed_with_where_it_came_from(pushed, world, tmp_path):
    second = world[0] / "second"
    (name,) = [str(a) for a in Store.at(second).artifacts() if a.stage == "adopt"]
    arguments = ["push", name, "me/again", "--license", "other", "--dry-run", "--folder", str(tmp_path / "out"), f"backend.root={second}"]
    assert main(arguments) == 0
    text = (tmp_path / "out" / "README.md").read_text()
    assert "| Imported from | me/sae at " in text and "None yet." in text and "explainer=load" not in text


# exports


def test_latents_are_exported_by_the_name_of_an_sae_of_explanations_or_of_scores(world, tmp_path, capsys):
    root, sae, where = world
    store = Store.at(root / "store")
    score = next(a for a in store.artifacts() if a.stage == "score")
    assert main(["export", sae, "neuronpedia", str(tmp_path / "all"), where, "--model-id", "tiny", "--set", "res-x", "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert (whole["latents"], whole["files"][0]["path"]) == (128, "tiny/1-res-x/activations/batch-0.jsonl.gz")
    assert main(["export", str(score), "neuronpedia", str(tmp_path / "one"), where, "--latents", "0:5", "--json"]) == 0
    some = json.loads(capsys.readouterr().out)
    assert some["latents"] == 5 and some["explanations"] < whole["explanations"]
    top = next((tmp_path / "one").glob("*/*"))
    labels = gzip.decompress((top / "explanations" / "batch-0.jsonl.gz").read_bytes()).decode()
    assert top.name == "1-res-saint-128" and PLANTED not in labels
    every = gzip.decompress((tmp_path / "all/tiny/1-res-x/explanations/batch-0.jsonl.gz").read_bytes()).decode()
    assert json.dumps(PLANTED)[1:-1] in every


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["neuronpedia", "{}/x", "--model-id", "a b"], "place.model = 'a b', but Neuronpedia takes no such thing"),
        (["saedashboard", "{}/x", "--set", "y"], "--set, but format saedashboard has no such thing"),
        (["saelens", "{}/x", "--latents", "0:4"], "--latents, but format saelens is of weights"),
        (["neuronpedia", "{}/x", "--latents", "0:999"], "--latents = '0:999'"),
        (["neuronpedia", "{}/x", "--latents", "[1,-5]"], "--latents = [1, -5], but a list of latents holds numbers from 0 up"),
        (["neuronpedia", "{}/x", "--latents", "[1,x5]"], "--latents = '[1,x5]', but a choice of latents is all"),
        (["neuronpedia", "{}/x", "--latents", ""], "--latents = '', but a choice of latents is all"),
        (["neuronpedia", "{}/x", "--batch", "0"], "--batch = 0, but a file has at least one latent"),
        (["neuronpaedia", "{}/x"], "use one of dictionary_learning, saelens, saint_sae, sparsify, neuronpedia, saedashboard"),
    ],
)
def test_what_was_typed_wrong_is_said_and_leaves_nothing(world, tmp_path, capsys, more, said):
    _, sae, where = world
    assert main(["export", sae, *[word.format(tmp_path) for word in more], where]) == 2
    assert said in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_the_end_of_a_long_export_is_told_once(capsys, monkeypatch):
    from flows import console

    monkeypatch.setattr(console, "LINE_SECONDS", 0)
    with console.Lines().bar("export", 3, "latents") as bar:
        bar.advance(2)
        bar.advance(1)
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(" latents")[0] for line in said] == ["export: 2 of 3", "export: 3 of 3"]


def test_an_export_that_fails_half_way_leaves_nothing(world, tmp_path, monkeypatch):
    _, sae, where = world
    from tasks.sharing import neuronpedia

    whole = neuronpedia.Place.feature

    def broken(place, it):
        if it.latent == 100:
            raise KeyboardInterrupt
        return whole(place, it)

    monkeypatch.setattr(neuronpedia.Place, "feature", broken)
    assert main(["export", sae, "neuronpedia", str(tmp_path / "out"), where, "--batch", "8"]) == 130
    assert not list(tmp_path.iterdir())


def test_help_lists_the_formats(capsys):
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    out = capsys.readouterr().out
    assert all(name in out for name in ("neuronpedia", "saedashboard", "saelens", "--model-id"))
    with pytest.raises(SystemExit):
        main(["push", "--help"])
    assert "a repository that is made is private" in " ".join(capsys.readouterr().out.split())
