"""Hookpoints and models under the names that other tools have for them.

TransformerLens (``blocks.8.hook_resid_post``) is what SAELens, OpenAI's and Llama Scope's files speak; module paths of
Hugging Face models (``model.layers.8.mlp``) are what sparsify's and Gemma Scope 2's do.
"""

from __future__ import annotations

import re

_LENS = {
    "hook_resid_post": "", "hook_resid_mid": ".resid_mid", "hook_mlp_out": ".mlp", "hook_attn_out": ".attn", "attn.hook_z": ".z",
    "mlp.hook_in": ".mlp_in", "ln2.hook_normalized": ".mlp_in", "hook_mlp_in": ".mlp_in", "mlp.hook_post": ".mlp_act",
    "mlp.hook_out": ".mlp",
}  # fmt: skip
"""What follows ``blocks.N.``, to what follows our ``layers.N``. ``ln2.hook_normalized`` and ``hook_mlp_in`` are what files of
transcoders call what their MLP reads."""

_MODULES = (
    (r"(?:\.output)?", ""),
    (r"\.(?:mlp|feed_forward)(?:\.output|\.hook_out)?", ".mlp"),
    (r"\.post_feedforward_layernorm(?:\.output)?", ".mlp"),
    (r"\.(?:self_attn|attention|attn)(?:\.output)?", ".attn"),
    (r"\.(?:self_attn\.o_proj|attn\.c_proj|attention\.dense)\.input", ".z"),
    (r"\.(?:pre_feedforward_layernorm|post_attention_layernorm|ln_2)(?:\.output)?", ".mlp_in"),
    (r"\.mlp\.input", ".mlp_in"),
)
"""What follows a block's path in a Hugging Face model, to what follows our ``layers.N``."""

_BLOCK = r"(?:(?:model|transformer|gpt_neox|language_model)\.)*(?:layers|h|blocks)\.(\d+)"
_EMBEDDINGS = ("hook_embed", "embed_tokens", "model.embed_tokens", "transformer.wte", "wte", "embed_in", "gpt_neox.embed_in")


def ours(name: str | None, back: str | None = None) -> str | None:
    """Our hookpoint for another tool's name; ``back``: of what a transcoder writes. None where there is none of ours."""
    here = _one(name)
    if back is None or here is None:
        return here
    there = _one(back)
    return None if there is None else here if there == here else f"{here}:{there}"


def _one(name: str | None) -> str | None:
    if not name:
        return None
    if is_embedding(name) or name == "embed":
        return "embed"
    if found := re.fullmatch(r"blocks\.(\d+)\.(.+)", name):
        layer, site = int(found[1]), found[2]
        if site == "hook_resid_pre":
            return f"layers.{layer - 1}" if layer else "embed"
        if site in _LENS:
            return f"layers.{layer}{_LENS[site]}"
    if found := re.match(_BLOCK, name):
        for pattern, site in _MODULES:
            if re.fullmatch(pattern, name[found.end() :]):
                return f"layers.{int(found[1])}{site}"
    return None


def is_embedding(name: str | None) -> bool:
    """Whether it is a token's embedding alone: ``embed`` only of models that add nothing to it before block 0, such as positions."""
    return name in _EMBEDDINGS


def lens(hookpoint: str) -> str:
    """TransformerLens' name of one of our sites; itself where it has none."""
    if hookpoint == "embed":
        return "blocks.0.hook_resid_pre"
    found = re.fullmatch(r"layers\.(\d+)(\..+)?", hookpoint)
    site = next((theirs for theirs, ours in _LENS.items() if found and ours == (found[2] or "")), None)
    return f"blocks.{found[1]}.{site}" if found and site else hookpoint


def same_model(one: str, other: str) -> bool:
    """Whether two names may mean one model: owners, cases, dashes and the word meta do not count."""
    return _plain(one) == _plain(other)


def _plain(name: str) -> str:
    last = re.sub(r"[^a-z0-9]", "", name.rstrip("/").rsplit("/", 1)[-1].lower()).removeprefix("meta")
    return "gpt2" if last == "gpt2small" else last
