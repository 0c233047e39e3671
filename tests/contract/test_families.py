"""The generic family finds the parts of every common architecture, and hooks see what the model itself reports."""

from __future__ import annotations

import pytest
import torch
import transformers

from tasks.lm.language_model import Edit, LanguageModel
from tasks.spec import SpecError

TINY = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**TINY),
    "qwen2": lambda: transformers.Qwen2Config(**TINY),
    "qwen3": lambda: transformers.Qwen3Config(**TINY, head_dim=8),
    "mistral": lambda: transformers.MistralConfig(**TINY),
    "gemma2": lambda: transformers.Gemma2Config(**TINY, head_dim=8),
    "gpt2": lambda: transformers.GPT2Config(vocab_size=97, n_embd=32, n_layer=3, n_head=4, n_positions=64),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=64,
    ),
    "gpt_neox in sequence": lambda: transformers.GPTNeoXConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=64, use_parallel_residual=False,
    ),
    "gemma3": lambda: transformers.Gemma3TextConfig(**TINY, head_dim=16),
    "olmo2": lambda: transformers.Olmo2Config(**TINY),
    "granite": lambda: transformers.GraniteConfig(**TINY, residual_multiplier=0.5),
}  # fmt: skip
D_HEADS = {"gemma3": 64}
D_MLP = {"gpt2": 128}
PARALLEL = {"gpt_neox"}
SCALED = {"granite"}
"""Architectures that add a multiple of what their parts give."""


@pytest.fixture(params=CONFIGS, scope="module")
def lm(request):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[request.param]()).eval()
    return LanguageModel(model, None, "cpu", 3, request.param)


def batch(lengths=(9, 5)):
    draw = torch.Generator().manual_seed(1)
    token = torch.randint(1, 97, (len(lengths), max(lengths)), generator=draw)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return token * mask, mask


def test_hooks_agree_with_the_models_own_hidden_states(lm):
    lm.check_hooks()


def test_stopping_early_changes_no_bit(lm):
    token, mask = batch((9, 9))
    one = lm.activations(token, mask, ["layers.0"])["layers.0"]
    three = lm.activations(token, mask, ["layers.2", "layers.0"])
    assert torch.equal(one, three["layers.0"])
    assert three["layers.2"].shape == (2, 9, 32)


def test_padding_on_the_right_does_not_reach_real_tokens(lm):
    token, mask = batch()
    padded = lm.activations(token, mask, ["layers.1"])["layers.1"][1, :5]
    alone = lm.activations(token[1:, :5], mask[1:, :5], ["layers.1"])["layers.1"][0]
    torch.testing.assert_close(padded, alone, atol=1e-5, rtol=1e-4)


def test_attention_and_mlp_are_what_a_block_adds(lm):
    if lm.name in SCALED:
        pytest.skip("adds a multiple of them")
    token, mask = batch((9, 9))
    found = lm.activations(token, mask, ["layers.0", "layers.1", "layers.1.attn", "layers.1.mlp"])
    rebuilt = found["layers.0"] + found["layers.1.attn"] + found["layers.1.mlp"]
    torch.testing.assert_close(rebuilt, found["layers.1"], atol=1e-5, rtol=1e-4)


def test_an_edit_replaces_the_activation_and_leaves_no_trace(lm):
    token, mask = batch((9, 9))
    clean = lm.logits(token, mask)
    same = lm.logits(token, mask, Edit("layers.1", lambda x: x.clone()))
    other = lm.logits(token, mask, Edit("layers.1", torch.zeros_like))
    assert torch.equal(clean, same) and not torch.allclose(clean, other)
    assert torch.equal(clean, lm.logits(token, mask))


def test_the_unembedding_folds_the_final_norm(lm):
    with torch.no_grad():
        norm = lm.family.final_norm(lm.model)
        norm.weight.add_(0.1 * torch.randn_like(norm.weight))
    W = lm.family.unembedding(lm.model).float()
    gain = norm.weight.float() + (1 if "gemma" in type(norm).__name__.lower() else 0)
    lm.token_strings = lambda: []
    torch.testing.assert_close(lm.unembedding()[0], W * gain)
    del lm.token_strings


def test_a_hook_that_sees_the_wrong_thing_is_found_at_the_start(lm, monkeypatch):
    from artifacts.errors import ArtifactError

    right = lm.activations

    def wrong(token, mask, hookpoints):
        return {name: x[:1] for name, x in right(token, mask, hookpoints).items()}  # what out[0] of a tensor would give

    monkeypatch.setattr(lm, "activations", wrong)
    with pytest.raises(ArtifactError, match="the hook at layers.0 sees .* but they must agree"):
        lm.check_hooks()


# sites within a block: held against what the model's own modules make of them


def inside(lm, *sites, layer=1):
    token, mask = batch((9, 9))
    found = lm.activations(token, mask, [f"layers.{layer}.{site}" for site in sites])
    return [found[f"layers.{layer}.{site}"] for site in sites]


def raw(part):
    """Parts of a block as the model calls them, norms after them left out."""
    names = {"mlp": ("mlp",), "attn": ("self_attn", "attn", "attention")}[part]
    return lambda block: next(getattr(block, name) for name in names if hasattr(block, name))


@torch.inference_mode()
def test_the_mlp_makes_of_what_it_reads_what_it_adds(lm):
    x, activation, y = inside(lm, "mlp_in", "mlp_act", "mlp")
    block = lm.blocks[1]
    after = lm.family.mlp(block)
    made = raw("mlp")(block)(x)
    torch.testing.assert_close(made if after is raw("mlp")(block) else after(made), y, atol=1e-5, rtol=1e-4)
    projected = lm.family.mlp_output(block)(activation)
    torch.testing.assert_close(projected, made, atol=1e-5, rtol=1e-4)
    assert x.shape[-1] == lm.d_at("layers.1.mlp_in") == 32
    assert activation.shape[-1] == lm.d_at("layers.1.mlp_act") == D_MLP.get(lm.name, 48)


@torch.inference_mode()
def test_heads_side_by_side_are_projected_to_what_attention_adds(lm):
    z, y = inside(lm, "z", "attn")
    block = lm.blocks[1]
    after, made = lm.family.attn(block), lm.family.attn_output(block)(z)
    torch.testing.assert_close(made if after is raw("attn")(block) else after(made), y, atol=1e-5, rtol=1e-4)
    assert z.shape[-1] == lm.d_at("layers.1.z") == D_HEADS.get(lm.name, 32)


def test_between_attention_and_mlp_the_stream_has_the_one_and_not_yet_the_other(lm):
    if lm.name in PARALLEL:
        with pytest.raises(SpecError, match=r"capture.hookpoint = 'layers.1.resid_mid', but in gpt_neox .* side by side"):
            inside(lm, "resid_mid")
        return
    token, mask = batch((9, 9))
    found = lm.activations(token, mask, ["layers.0", "layers.1.attn", "layers.1.resid_mid", "layers.1.mlp", "layers.1"])
    scale = 0.5 if lm.name in SCALED else 1.0
    torch.testing.assert_close(found["layers.0"] + scale * found["layers.1.attn"], found["layers.1.resid_mid"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found["layers.1.resid_mid"] + scale * found["layers.1.mlp"], found["layers.1"], atol=1e-5, rtol=1e-4)
    lm.check_hooks(["layers.1.resid_mid", "layers.0.resid_mid"])


@torch.inference_mode()
def test_embed_is_what_the_first_block_reads(lm):
    token, mask = batch((9, 9))
    states = lm.model.base_model(input_ids=token, output_hidden_states=True).hidden_states
    assert torch.equal(lm.activations(token, mask, ["embed"])["embed"], states[0])


@pytest.mark.parametrize("hookpoint", ["embed", *(f"layers.1.{s}" for s in ("z", "attn", "resid_mid", "mlp_in", "mlp_act", "mlp"))])
def test_an_edit_at_any_site_reaches_the_logits_and_the_same_value_changes_nothing(lm, hookpoint):
    if lm.name in PARALLEL and "mid" in hookpoint:
        pytest.skip("has no such place")
    token, mask = batch((9, 9))
    clean = lm.logits(token, mask)
    assert torch.equal(clean, lm.logits(token, mask, Edit(hookpoint, lambda x: x.clone())))
    draw = torch.Generator().manual_seed(0)
    other = lm.logits(token, mask, Edit(hookpoint, lambda x: x + torch.randn(x.shape, generator=draw)))
    assert (clean - other).abs().max() > 1e-3 and torch.equal(clean, lm.logits(token, mask))


def test_what_replaces_the_stream_between_the_parts_is_what_the_block_goes_on_with(lm):
    if lm.name in PARALLEL:
        pytest.skip("has no such place")
    token, mask = batch((9, 9))
    put = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(3))
    seen = {}
    looks = [Edit(h, lambda x, h=h: seen.update({h: x})) for h in ("layers.1.mlp", "layers.1")]
    lm.logits(token, mask, Edit("layers.1.resid_mid", lambda x: put), *looks)
    scale = 0.5 if lm.name in SCALED else 1.0
    torch.testing.assert_close(seen["layers.1"], put + scale * seen["layers.1.mlp"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("site", ["layers.1", *(f"layers.1.{s}" for s in ("z", "attn", "resid_mid", "mlp_in", "mlp_act", "mlp"))])
def test_derivatives_at_any_site_are_what_a_small_push_there_does(lm, site):
    if lm.name in PARALLEL and "mid" in site:
        pytest.skip("has no such place")
    token, mask = batch((9, 9))
    found = lm.gradients(token, mask, [site], lambda logits: logits[0, -1].log_softmax(-1)[5])[site]
    size = 0.005 * lm.activations(token, mask, [site])[site].norm()  # of these untrained models, norms bend larger ones
    push = torch.randn(found.shape, generator=torch.Generator().manual_seed(0))
    push = size * (found / found.norm() + push / push.norm())

    def at(step):
        return float(lm.logits(token, mask, Edit(site, lambda x: x + step * push))[0, -1].double().log_softmax(-1)[5])

    assert (at(1) - at(-1)) / 2 == pytest.approx(float((found * push).sum()), rel=0.05)


@torch.inference_mode()
def test_a_site_that_is_projected_has_the_matrix_to_the_stream(lm):
    for site, part in (("z", "attn"), ("mlp_act", "mlp")):
        W = lm.output_weight(f"layers.1.{site}")
        x, y = inside(lm, site, part)
        norm = (lm.family.attn if part == "attn" else lm.family.mlp)(lm.blocks[1])
        bias = getattr({"attn": lm.family.attn_output, "mlp": lm.family.mlp_output}[part](lm.blocks[1]), "bias", None)
        found = x @ W.T if bias is None else x @ W.T + bias
        if norm is not raw(part)(lm.blocks[1]):  # what the norm takes out is one scale for a row
            found, y = (torch.nn.functional.normalize(v, dim=-1) for v in (found, y))
        torch.testing.assert_close(found, y, atol=1e-5, rtol=1e-4)
    assert lm.output_weight("layers.1") is None and lm.output_weight("layers.1.mlp") is None
    with pytest.raises(SpecError, match="layers.1.mlp_in is what an MLP reads"):
        lm.output_weight("layers.1.mlp_in")


def test_a_norm_that_is_no_norm_between_the_parts_is_found_before_anything_is_captured(lm, monkeypatch):
    from artifacts.errors import ArtifactError

    if lm.name in PARALLEL:
        pytest.skip("has no such place")
    monkeypatch.setattr(type(lm.family), "mlp_norm", lambda self, block: block)  # its input is the stream before attention
    with pytest.raises(ArtifactError, match=r"the hook at layers.1.resid_mid sees .* tasks/families/"):
        lm.check_hooks(["layers.1.resid_mid"])
