"""OpenAI's SAEs of GPT-2: a .pt with pre_bias and latent_bias.

Source: openai/sparse_autoencoder (v5: TopK of 32 on layer-normed activations; v1 and v4: ReLU on plain ones). encoder.weight
(m, d), decoder.weight (d, m). Path: ``{location}_v5_{32k|128k}/autoencoders/{layer}.pt``. Trap: the way back multiplies by the
deviation without the epsilon that the way there has. Keys ``activation.*`` are leftovers of saving with a later torch.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from tasks.formats._files import Files, Tensors, number
from tasks.formats.base import Format, Given, Portable, found_sae, portable
from tasks.norms.layer_norm import LayerNorm
from tasks.norms.none import NoNorm

_SITES = {
    "resid_delta_attn": ".attn", "resid_post_attn": ".resid_mid", "resid_delta_mlp": ".mlp", "resid_post_mlp": "",
    "mlp_post_act": ".mlp_act",
}  # fmt: skip


class OpenAI(Format):
    """A file of OpenAI's."""

    SAYS: ClassVar[str] = "a .pt with pre_bias, latent_bias, encoder.weight, decoder.weight; a pickle"
    WEIGHTS: ClassVar[tuple[str, ...]] = ("*.pt",)

    kind: Literal["openai"] = "openai"

    def matches(self, files: Files) -> bool:
        name = next((n for n in files.names if n.endswith(".pt")), None)
        return name is not None and {"pre_bias", "latent_bias", "encoder.weight"} <= files.keys(name)

    def hookpoint(self, files: Files) -> str | None:
        layer = re.search(r"/(\d+)\.pt$", f"{files.origin}" if files.only else f"{files.origin}/{self.weights(files)}")
        site = next((ours for theirs, ours in _SITES.items() if theirs in files.origin), None)
        return f"layers.{int(layer[1])}{site}" if layer and site is not None else None

    def read(self, files: Files, given: Given) -> Portable:
        name = self.weights(files)
        held = Tensors(files, name, "OpenAI's format")
        tensors = {
            "b_dec_D": held.take("pre_bias", shape="D"),
            "b_enc_N": held.take("latent_bias", shape="N"),
            "W_enc_ND": held.take("encoder.weight", shape="ND"),
            "W_dec_ND": held.take("decoder.weight", shape="DN", turn=True),
        }
        activation = given.architecture or str(held.found.get("activation", "TopK" if "activation.k" in held else ""))
        if activation.lower() == "relu":
            sae, norm = found_sae("standard", tensors), NoNorm()
            return portable(sae, self.hookpoint(files), {"architecture": "ReLU", "model": "gpt2"}, norm)
        if activation.lower() != "topk":
            raise files.wrong(name, f"says activation = {activation!r}", "set sae.architecture to TopK or ReLU")
        state: Any = held.found.get("activation_state_dict")
        k = given.k or number((state if isinstance(state, dict) else {}).get("k")) or number(held.found.get("activation.k"))
        if k is None:
            raise files.wrong(name, "says no k", "set sae.k=... to the active latents of a token (32 in v5)")
        about = {"architecture": "TopK", "model": "gpt2"}
        norm = LayerNorm(epsilon=1e-5, epsilon_back=False)
        return portable(found_sae("topk", tensors, k=int(k)), self.hookpoint(files), about, norm)
