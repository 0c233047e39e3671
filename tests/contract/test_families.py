"""The generic family finds the parts of every common architecture, and hooks see what the model itself reports."""

from __future__ import annotations

import pytest
import torch
import transformers

from tasks.lm.language_model import Edit, LanguageModel

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
}  # fmt: skip


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
