"""Foreign SAEs as artifacts: what is wrong with a file is said in one sentence, nothing in a pickle runs, the model is checked."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil

import numpy as np
import pytest
import torch

from artifacts.backends.local import Local
from artifacts.store import Store
from flows.config import load, pipeline
from flows.lineage import recipe_of
from flows.recipes import recipes
from tasks.adopt import AdoptSpec, adopt
from tasks.formats._hooks import lens, ours, same_model
from tasks.formats.base import opened
from tasks.provide import ProvideSpec, provide
from tasks.spec import SpecError
from tasks.trained import TrainedSAE
from tests import foreign
from tests.making import make
from tests.small import write_model

D = foreign.D


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("adopting") / "model", d_model=D)


@pytest.fixture
def store(tmp_path):
    return Store(Local(tmp_path / "store"))


def lm_of(model):
    from tasks.kinds import decode

    return provide(ProvideSpec(lm=decode("tasks.lms", {"kind": "hf", "path": str(model)}, "lm").pinned()))


def adopted(path, model, **fields):
    spec = AdoptSpec(path=str(path), **fields).pinned()
    return adopt(spec, lm=lm_of(model))


def here(folder, **more):
    """An SAE of the test's own model, at a layer that it has."""
    return foreign.saelens(folder, "jumprelu", metadata={"hook_name": "blocks.1.hook_resid_post", "model_name": "model"}, **more)


def test_an_adopted_sae_is_an_artifact_with_the_files_of_a_trained_one(tmp_path, model, store):
    recipe = adopted(here(tmp_path / "sae"), model)
    made = make(recipe, store)
    assert {p.name for p in made.path.iterdir()} == {"sae.safetensors", "sae.json", "log.parquet"}
    found = {n: made.summary[n] for n in ("n_latents", "d_in", "hookpoint", "kind", "format", "norm")}
    assert found == {
        "n_latents": foreign.M, "d_in": D, "hookpoint": "layers.1", "kind": "jumprelu", "format": "saelens", "norm": "none"
    }  # fmt: skip
    body = json.loads((made.path / "sae.json").read_text())
    assert body["adopted"]["model"] == "model" and body["lm"] == f"lm/{recipe.inputs['lm'].key}"
    raw = torch.from_numpy(foreign.inputs())
    want = opened(tmp_path / "sae").trained
    assert torch.equal(TrainedSAE.open(made).reconstruct(raw), want.reconstruct(raw))


def test_its_key_follows_the_contents_of_its_files_and_not_their_place(tmp_path, model):
    one, same, other = here(tmp_path / "a"), here(tmp_path / "b"), here(tmp_path / "c", w=foreign.Weights(7))
    keys = [adopted(path, model).key for path in (one, same, other)]
    assert keys[0] == keys[1] != keys[2]


def test_its_recipe_is_found_again_in_the_store(tmp_path, model, store):
    recipe = adopted(here(tmp_path / "sae"), model)
    make(recipe, store)
    again = recipe_of(store, recipe.artifact)
    assert again.key == recipe.key and again.stage is adopt and again.inputs["lm"] == recipe.inputs["lm"]


def test_files_that_changed_since_the_run_was_composed_are_not_read(tmp_path, model, store):
    recipe = adopted(here(tmp_path / "sae"), model)
    here(tmp_path / "sae", w=foreign.Weights(7))
    with pytest.raises(SpecError, match=r"its files have fingerprint [0-9a-f]{12}\.\.\., not [0-9a-f]{12}"):
        make(recipe, store)


def test_a_width_or_a_layer_that_the_model_has_not_is_said(tmp_path, model, store):
    wide = here(tmp_path / "wide", w=foreign.Weights(0, d=24))
    with pytest.raises(SpecError, match=rf"sae.d_in = 24, but model has rows of {D} numbers at layers.1, which the SAE reads; set lm"):
        make(adopted(wide, model), store)
    with pytest.raises(SpecError, match=r"sae.hookpoint = 'layers.9', but model has layers 0 to 2"):
        make(adopted(here(tmp_path / "sae"), model, hookpoint="layers.9"), store)


def test_an_sae_of_another_model_is_refused_unless_any_model_will_do(tmp_path, model, store):
    path = here(tmp_path / "sae")
    config = json.loads((path / "cfg.json").read_text())
    config["metadata"]["model_name"] = "gemma-2-2b"
    (path / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(SpecError, match=r"lm = 'model', but the SAE's files say that it is of 'gemma-2-2b'"):
        make(adopted(path, model), store)
    assert make(adopted(path, model, any_model=True), store).summary["kind"] == "jumprelu"


# what is wrong with a file


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rewritten(path, **tensors):
    """A safetensors file with some tensors replaced (None: left out)."""
    from safetensors.numpy import load_file

    found = {**load_file(path), **tensors}
    foreign.safetensors(path, **{name: value for name, value in found.items() if value is not None})


def settings(path, **values):
    found = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({name: value for name, value in found.items() if value is not None}))


def lens_with(root, **values):
    folder = foreign.saelens(root / "sae", values.pop("architecture", "standard"))
    settings(folder / "cfg.json", **values)
    return folder


def nan(root):
    folder = foreign.saelens(root / "sae")
    bad = foreign.Weights().enc.T.copy()
    bad[3, 4] = np.nan
    bad[5, 6] = np.inf
    rewritten(folder / "sae_weights.safetensors", W_enc=bad)
    return folder


def with_tensors(root, **tensors):
    folder = foreign.saelens(root / "sae")
    rewritten(folder / "sae_weights.safetensors", **tensors)
    return folder


def truncated(root, name="sae_weights.safetensors"):
    folder = foreign.saelens(root / "sae")
    cut(folder / name)
    return folder


def cut_npz(root):
    folder = root / "gemma-scope-2b-pt-res" / "layer_3"
    folder.mkdir(parents=True)
    w = foreign.Weights()
    np.savez(folder / "params.npz", W_enc=w.enc.T, W_dec=w.dec, b_enc=w.b_enc, b_dec=w.b_dec, threshold=w.threshold)
    cut(folder / "params.npz")
    return folder


def cut_pickle(root):
    folder = foreign.dictionary_learning(root / "dl", "AutoEncoder", foreign.Weights())
    cut(folder / "ae.pt")
    return folder


def two_formats(root):
    folder = foreign.saelens(root / "both")
    foreign.sparsify(root / "other", foreign.Weights())
    (root / "other" / "sae.safetensors").rename(folder / "sae.safetensors")
    return folder


def no_weights(root):
    foreign.saelens(root / "sae" / "blocks.0")
    return root / "sae"


def no_sae(root):
    foreign.saelens(root / "sae" / "blocks.0")
    (root / "sae" / "README.md").write_text("text")
    return root / "sae" / "README.md"


def no_format(root):
    foreign.safetensors(root / "sae" / "model.safetensors", some=np.ones((3, 4), np.float32))
    return root / "sae"


def without_k(root):
    folder = foreign.sparsify(root / "layers.1", foreign.Weights())
    settings(folder / "cfg.json", k=None)
    return folder


def llama_without_threshold(root):
    case = foreign.scope_cases(root)["llama_scope"]
    settings(case.path / "hyperparams.json", jump_relu_threshold=None)
    return case.path


def several(root):
    for layer in (0, 1):
        foreign.openai(root / "autoencoders" / f"{layer}.pt", foreign.Weights(), "TopK")
    return root / "autoencoders"


def saint_file(root, **values):
    w = foreign.Weights()
    mine = {"b_pre": w.b_dec, "encoder.weight": w.enc, "encoder.bias": w.b_enc, "decoder.weight": w.dec.T}
    foreign.pickle(root / "sae.pt", **mine, **values)
    return root / "sae.pt"


def raw_file(root, data):
    (root / "sae.pt").write_bytes(data)
    return root / "sae.pt"


PICKLE = {"allow_pickle": True}
W = foreign.Weights()
MISTAKES = {
    "no_such_path": (lambda root: root / "nope", {}, "nothing is there; name a folder with an SAE, or its file"),
    "no_sae": (no_sae, {}, r"README.md', but it holds no weights .*\); name a folder with an SAE, or its file"),
    "no_weights": (no_weights, {}, r"it holds no weights .*; its folders do: name one of them \(blocks.0\)"),
    "no_format": (no_format, {}, r"no format has such files \(model.safetensors has some\); saint import --formats lists"),
    "two_formats": (two_formats, {}, "its files are those of saelens and of sparsify; say which with sae.format=saelens"),
    "another_format": (two_formats, {"format": "openai"}, "are not as it has them .*; they are those of saelens, sparsify"),
    "unknown_format": (no_format, {"format": "sealens"}, "sae.format = 'sealens', but there are deepseek_r1, "),
    "truncated": (truncated, {}, r"its sae_weights.safetensors is cut short, or no safetensors file \(.+\); copy it again"),
    "truncated_config": (lambda root: truncated(root, "cfg.json"), {}, "its cfg.json is not JSON .*; copy it again"),
    "truncated_npz": (cut_npz, {}, r"its params.npz is cut short, or no npz file \(.+\); copy it again"),
    "truncated_pickle": (cut_pickle, {"allow_pickle": True}, r"its ae.pt is cut short, or no torch.save file \(.+\)"),
    "transposed": (
        lambda root: with_tensors(root, W_enc=W.enc), {},
        r"has W_enc of shape \(40, 16\), where SAELens has \(d_in 16, n_latents 40\) by b_dec and b_enc: it is transposed",
    ),
    "transposed_decoder": (lambda root: with_tensors(root, W_dec=W.dec.T), {}, "W_dec of shape .16, 40., .*it is transposed"),
    "misshapen": (lambda root: with_tensors(root, W_dec=W.dec[:7]), {}, r"W_dec of shape \(7, 16\), where SAELens has \(n_latents 40"),
    "missing_tensor": (lambda root: with_tensors(root, b_dec=None), {}, "has no b_dec, which SAELens keeps there"),
    "nan": (nan, {}, r"has 2 values in W_enc that are not finite \(NaN or infinite\), of 640"),
    "no_k": (without_k, {}, "its cfg.json says no k; set sae.k="),
    "no_k_in_saint": (saint_file, {"allow_pickle": True}, "says no k, as no file of SAINT does; set sae.k="),
    "no_threshold": (llama_without_threshold, {}, "says no jump_relu_threshold; set sae.threshold="),
    "threshold_never_set": (
        lambda root: saint_file(root, threshold=np.array(-1.0, np.float32)), {"allow_pickle": True, "k": 3},
        "threshold = -1.0: it was never set; set sae.threshold=",
    ),
    "no_scale": (
        lambda root: lens_with(root, normalize_activations="expected_average_only_in"), {},
        "normalize_activations = 'expected_average_only_in', and no file says .*; set sae.scale=",
    ),
    "architecture": (lambda root: lens_with(root, architecture="spade"), {}, "says architecture = 'spade'; no kind here is one"),
    "signs": (lambda root: lens_with(root, architecture="abstopk"), {}, "'abstopk', which keeps the signs of its latents"),
    "one_at_a_time": (lambda root: lens_with(root, architecture="matching_pursuit"), {}, "finds its latents one after another"),
    "sequences": (lambda root: lens_with(root, architecture="temporal"), {}, "reads whole sequences"),
    "pickle": (saint_file, {"k": 3}, "is a pickle, and pickles can run code .*; set sae.allow_pickle=true"),
    "several": (several, {"allow_pickle": True}, r"holds 2 files with weights \(0.pt, 1.pt\); name one of them"),
    "k_too_large": (
        lambda root: foreign.sparsify(root / "layers.1", W, k=99), {},
        r"its sae.safetensors has 40 latents, and k = 99 of them cannot be active; set sae.k=... to those of a token, at most 40",
    ),
    "metadata": (lambda root: lens_with(root, metadata=[1]), {}, r"its cfg.json says metadata = \[1\], which is no object"),
    "kwargs": (lambda root: lens_with(root, activation_fn_kwargs="k"), {}, "its cfg.json says activation_fn_kwargs = k, which is"),
    "integers": (
        lambda root: with_tensors(root, W_enc=W.enc.T.astype(np.int8)), {},
        "has W_enc as int8, which are no weights without their scale; take the SAE in float32",
    ),
    "no_latents": (
        lambda root: with_tensors(root, W_enc=W.enc.T[:, :0], W_dec=W.dec[:0], b_enc=W.b_enc[:0]), {},
        r"has b_enc of shape \(0,\), without a number; copy it again",
    ),
    "garbage": (lambda root: raw_file(root, b"garbage, and no pickle"), PICKLE, r"is cut short, or no torch.save file(?! \(\d)"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_a_file_is_one_sentence_with_what_was_found_and_what_to_do(name, tmp_path):
    make_it, options, said = MISTAKES[name]
    with pytest.raises(SpecError) as error:
        opened(make_it(tmp_path), **options)
    sentence = str(error.value)
    assert re.search(said, sentence), sentence
    assert "\n" not in sentence and ", but " in sentence and "; " in sentence and not sentence.endswith(".")


class Wicked:
    """What a pickle does when it is opened by those who trust it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("data", [b"e", b"0.", b"2.", b"K", b"}K\x01s.", b"t.", b"R.", b"s.", b"\x80\x02Q.", b"(K\x01u.", b"\x8a\x05."])
def test_a_damaged_pickle_is_one_sentence_whatever_it_breaks(tmp_path, data, recwarn):
    with pytest.raises(SpecError, match="is cut short, or no torch.save file"):
        opened(raw_file(tmp_path, data), allow_pickle=True)
    assert not recwarn.list


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_names_code_is_called_so_without_a_warning(tmp_path, protocol, recwarn):
    path = raw_file(tmp_path, pickle.dumps({"b_pre": Wicked(tmp_path / "ran")}, protocol=protocol))
    with pytest.raises(SpecError, match="it holds more than tensors and plain values, and was not opened further"):
        opened(path, allow_pickle=True)
    assert not recwarn.list and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("bare", [True, False])
def test_a_pickle_that_would_run_something_is_refused_and_does_not_run(tmp_path, bare):
    ran = tmp_path / "ran"
    held = {"b_pre": Wicked(ran), "encoder.weight": torch.ones(3, 2), "decoder.weight": torch.ones(2, 3)}
    if bare:
        (tmp_path / "sae.pt").write_bytes(pickle.dumps(held))
    else:
        torch.save(held, tmp_path / "sae.pt")
    for options in ({}, {"allow_pickle": True}, {"allow_pickle": True, "format": "saint", "k": 2}):
        with pytest.raises(SpecError, match=r"pickle|more than tensors"):
            opened(tmp_path / "sae.pt", **options)
    assert not ran.exists()
    pickle.loads((tmp_path / "sae.pt").read_bytes()) if bare else torch.load(tmp_path / "sae.pt", weights_only=False)
    assert ran.exists(), "the pickle was harmless, and the test shows nothing"


# names


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        ("blocks.8.hook_resid_post", "layers.8"), ("blocks.8.hook_resid_pre", "layers.7"), ("blocks.0.hook_resid_pre", "embed"),
        ("blocks.3.hook_resid_mid", "layers.3.resid_mid"), ("blocks.3.hook_mlp_out", "layers.3.mlp"),
        ("blocks.3.hook_attn_out", "layers.3.attn"), ("blocks.3.attn.hook_z", "layers.3.z"), ("blocks.3.mlp.hook_in", "layers.3.mlp_in"),
        ("blocks.3.mlp.hook_post", "layers.3.mlp_act"), ("blocks.3.ln2.hook_normalized", "layers.3.mlp_in"),
        ("hook_embed", "embed"), ("model.layers.12", "layers.12"), ("layers.12.mlp", "layers.12.mlp"), ("h.5.attn", "layers.5.attn"),
        ("gpt_neox.layers.2.attention", "layers.2.attn"), ("model.layers.7.output", "layers.7"),
        ("model.layers.7.self_attn.o_proj.input", "layers.7.z"), ("model.embed_tokens", "embed"),
        ("blocks.3.attn.hook_q", None), ("somewhere", None), (None, None),
    ],
)  # fmt: skip
def test_other_tools_names_of_hookpoints_are_ours(theirs, expected):
    assert ours(theirs) == expected


def test_our_hookpoints_have_names_there_that_come_back():
    for name in ("embed", "layers.0", "layers.5", "layers.5.mlp", "layers.5.attn", "layers.5.z", "layers.5.mlp_in", "layers.5.mlp_act"):
        assert ours(lens(name)) == name


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("gpt2-small", "openai-community/gpt2", True), ("meta-llama/Llama-3.1-8B", "meta-llama/Meta-Llama-3.1-8B", True),
        ("google/gemma-2-2b", "gemma-2-2b", True), ("gemma-2-2b", "gemma-2-2b-it", False), ("pythia-70m", "pythia-160m", False),
    ],
)  # fmt: skip
def test_models_are_the_same_under_the_names_that_people_give_them(one, other, same):
    assert same_model(one, other) == same


# in a run


def test_a_run_with_a_loaded_sae_trains_none_and_stands_where_its_file_says(tmp_path, model):
    path = here(tmp_path / "sae")
    named = recipes(load(["sae=load", f"sae.path={path}", "lm=hf", f"lm.path={model}"])).named
    assert list(named) == ["layers.1"]
    names = named["layers.1"]
    assert names["train"].stage is adopt and "normalise" not in names
    assert names["evaluate"].inputs["sae"] == names["mine"].inputs["sae"] == names["report"].inputs["train"] == names["train"]
    assert {s.spec.hookpoint for s in names["evaluate"].inputs["shards"]} == {"layers.1"}


def test_hookpoints_that_are_typed_against_the_file_are_an_error(tmp_path, model):
    typed = ["sae=load", f"sae.path={here(tmp_path / 'sae')}", "lm=hf", f"lm.path={model}"]
    with pytest.raises(SpecError, match=r"capture.hookpoints = \['layers.0'\], but the SAE stands at 'layers.1' as its files say"):
        load([*typed, "capture.hookpoints=[layers.0]"])
    assert load([*typed, "capture.hookpoints=[layers.0]", "sae.hookpoint=layers.0"]).hookpoints == ("layers.0",)


def test_where_the_file_says_nothing_the_hookpoint_is_the_one_that_is_typed(tmp_path, model):
    typed = ["sae=load", f"sae.path={saint_file(tmp_path)}", "sae.allow_pickle=true", "sae.k=3", "lm=hf", f"lm.path={model}"]
    assert load([*typed, "capture.hookpoints=[layers.2]"]).hookpoints == ("layers.2",)
    with pytest.raises(SpecError, match="stands at one"):
        load([*typed, "capture.hookpoints=[layers.2,layers.1]"])


def test_where_nobody_says_it_the_hookpoint_is_no_default(tmp_path, model):
    typed = ["sae=load", f"sae.path={saint_file(tmp_path)}", "sae.allow_pickle=true", "sae.k=3", "lm=hf", f"lm.path={model}"]
    with pytest.raises(SpecError, match=r"sae.hookpoint is null, but the SAE's files do not say where it stands; set sae.hookpoint="):
        load(typed)
    p = load([*typed, "capture.hookpoints=[layers.1]"])
    assert p.hookpoints == ("layers.1",) == pipeline(p.plain).hookpoints
    assert load([*typed, "sae.hookpoint=layers.2"]).hookpoints == ("layers.2",)


def test_a_hookpoint_that_is_typed_counts_though_it_is_the_default(tmp_path, model):
    metadata = {"hook_name": "blocks.2.hook_resid_post", "model_name": "model"}
    typed = ["sae=load", f"sae.path={foreign.saelens(tmp_path / 'sae', metadata=metadata)}", "lm=hf", f"lm.path={model}"]
    with pytest.raises(SpecError, match=r"capture.hookpoints = \['layers.1'\], but the SAE stands at 'layers.2'"):
        load([*typed, "capture.hookpoints=[layers.1]"])
    p = load(typed)
    assert p.hookpoints == ("layers.2",) == pipeline(p.plain).hookpoints


def misnamed(root):
    return foreign.saelens(root / "sae", metadata={"hook_name": "blocks.1.hook_resid_post", "model_name": "gemma-2-2b"})


EARLY = {
    "model": (misnamed, [], "lm = 'model', but the SAE's files say that it is of 'gemma-2-2b'"),
    "any_model": (misnamed, ["sae.any_model=true"], None),
    "no_k": (without_k, [], "its cfg.json says no k; set sae.k="),
    "k_too_large": (without_k, ["sae.k=99"], "k = 99 .*; set sae.k="),
    "nan": (nan, ["sae.any_model=true"], "2 values in W_enc that are not finite"),
    "transposed": (lambda root: with_tensors(root, W_dec=W.dec.T), [], "W_dec of shape .16, 40., .*it is transposed"),
    "no_threshold": (llama_without_threshold, [], "says no jump_relu_threshold; set sae.threshold="),
    "no_latents": (
        lambda root: with_tensors(root, W_enc=W.enc.T[:, :0], W_dec=W.dec[:0], b_enc=W.b_enc[:0]), [],
        "sae_weights.safetensors has 0 latents of d_in 16; copy it again",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EARLY)
def test_what_is_wrong_with_a_loaded_sae_is_said_when_a_run_is_composed(name, tmp_path, model):
    make_it, more, said = EARLY[name]
    typed = ["sae=load", f"sae.path={make_it(tmp_path)}", "lm=hf", f"lm.path={model}", "sae.hookpoint=layers.1", *more]
    if said is None:
        assert load(typed).adopt
        return
    with pytest.raises(SpecError, match=said):
        load(typed)


@pytest.mark.parametrize("hook", ["hook_embed", "transformer.wte", "blocks.0.hook_resid_pre"])
def test_embeddings_are_the_stream_before_block_0_only_where_no_positions_are_added(tmp_path, model, hook):
    path = foreign.saelens(tmp_path / "sae", metadata={"hook_name": hook, "model_name": "model"})
    of = lambda folder: load(["sae=load", f"sae.path={path}", "lm=hf", f"lm.path={folder}"])  # noqa: E731
    assert of(model).hookpoints == ("embed",)
    learned = tmp_path / "model"
    shutil.copytree(model, learned)
    settings(learned / "config.json", model_type="gpt2")
    if hook == "blocks.0.hook_resid_pre":
        assert of(learned).hookpoints == ("embed",)
        return
    with pytest.raises(SpecError, match=rf"sae.hookpoint = 'embed', but the SAE's files say '{hook}'.*; use an SAE of blocks.0"):
        of(learned)


def test_a_width_that_is_not_the_models_is_said_before_any_work(tmp_path, model):
    wide = here(tmp_path / "wide", w=foreign.Weights(0, d=24))
    with pytest.raises(SpecError, match=r"sae.d_in = 24, but model has rows of 16 numbers"):
        load(["sae=load", f"sae.path={wide}", "lm=hf", f"lm.path={model}"])


def test_a_loaded_sae_needs_a_place_to_be_loaded_from(model):
    with pytest.raises(SpecError, match=r"sae.path and sae.repo are both null"):
        load(["sae=load", "lm=hf", f"lm.path={model}"])
