"""Gemma Scope 1 (params.npz) and 2 (params.safetensors, maybe config.json): JumpReLU with a threshold for each latent.

Sources: arXiv 2408.05147; google/gemma-scope-*, as sae-lens 6.54.12 reads them. W_enc (d, m), W_dec (m, o), in lower case in
version 2; b_dec is not subtracted first. Everything else comes from the path: ``<repository>/layer_<L>/width_16k/average_l0_71``
and ``<repository>/resid_post/layer_<L>_width_16k_l0_small``. The
fold of SAEs of embeddings, W_enc / sqrt(d) and W_dec * sqrt(d), says that they were trained on rows e of the embedding matrix,
which the model multiplies by sqrt(d) before block 0 reads them: z = e W_enc + b_enc of x = sqrt(d) e, and x^ = sqrt(d) e^. So
b_dec is times sqrt(d) as well, which SAELens leaves out. No real file of theirs was seen here.

Transcoders of version 2 may have affine_skip_connection (d, o). Cross-layer ones, with a third axis, are refused.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from tasks.formats._files import Files, Tensors
from tasks.formats._hooks import ours
from tasks.formats.base import Format, Given, Portable, found_sae, portable

_NAMES = {"W_enc": ("W_enc", "w_enc"), "W_dec": ("W_dec", "w_dec")}
_SITES = {
    "transcoder": ".mlp_in", "resid_post": "", "mlp_out": ".mlp", "attn_out": ".z", "-res": "", "-mlp": ".mlp", "-att": ".z"
}  # fmt: skip
"""Parts of a path, in the order they are looked for."""


class GemmaScope(Format):
    """A file of Gemma Scope's."""

    SAYS: ClassVar[str] = "params.npz with W_enc and threshold, or a .safetensors with w_enc and threshold"
    WEIGHTS: ClassVar[tuple[str, ...]] = ("params.npz", "params.safetensors", "*.npz", "layer_*.safetensors")

    kind: Literal["gemma_scope"] = "gemma_scope"

    def weights(self, files: Files) -> str:
        named = next((n for n in self.WEIGHTS[:2] if files.has(n)), None)
        return named or super().weights(files)

    def matches(self, files: Files) -> bool:
        for name in files.names:
            if name.endswith((".npz", ".safetensors")):
                keys = files.keys(name)
                lower = {"w_enc", "w_dec", "threshold"}
                if keys >= lower or (name.endswith(".npz") and keys >= {"W_enc", "W_dec", "threshold"}):
                    return True
        return False

    def hookpoint(self, files: Files) -> str | None:
        if files.has("config.json"):
            config = files.json("config.json")
            at = config.get("hf_hook_point_in"), config.get("hf_hook_point_out")
            if (found := ours(*at)) is not None:
                return found
        return _hookpoint(files.origin)

    def read(self, files: Files, given: Given) -> Portable:
        config: dict[str, Any] = files.json("config.json") if files.has("config.json") else {}
        if config.get("architecture", "jump_relu") != "jump_relu":
            raise files.wrong("config.json", f"says architecture = {config['architecture']!r}", "jump_relu is read")
        name = self.weights(files)
        shapes = files.shapes(name)
        if len(shapes.get("w_dec", ())) == 3:
            raise files.wrong(name, f"has w_dec of shape {shapes['w_dec']}: it writes to several layers", "cross-layer ones are not read")
        held = Tensors(files, name, "Gemma Scope")
        tensors = {
            "b_dec_D": held.take("b_dec", shape="O"),
            "b_enc_N": held.take("b_enc", shape="N"),
            "threshold_N": held.take("threshold", shape="N").clamp_min(0),
            "W_dec_ND": held.take(*_NAMES["W_dec"], shape="NO"),
            "W_enc_ND": held.take(*_NAMES["W_enc"], shape="DN", turn=True),
        }
        if skip := "affine_skip_connection" in held:
            tensors["W_skip_OD"] = held.take("affine_skip_connection", shape="DO", turn=True)
        notes = []
        if "embedding" in files.origin:
            root = tensors["W_enc_ND"].shape[1] ** 0.5
            tensors |= {"W_enc_ND": tensors["W_enc_ND"] / root} | {n: tensors[n] * root for n in ("W_dec_ND", "b_dec_D")}
            notes.append("the scale of embeddings, sqrt(d), is folded into the weights")
        at = self.hookpoint(files)
        about = {
            "architecture": "jumprelu", "model": config.get("model_name") or _model(files.origin), "notes": notes,
            "hook": config.get("hf_hook_point_in"), "hook_out": config.get("hf_hook_point_out"),
        }  # fmt: skip
        sae = found_sae("jumprelu", tensors, skip=skip, subtract_b_dec=False)
        return portable(sae, at, about)


def _hookpoint(origin: str) -> str | None:
    if "embedding" in origin:
        return "embed"
    layer = re.search(r"layer_(\d+)", origin)
    site = next((ours_ for part, ours_ in _SITES.items() if part in origin), None)
    if not layer or site is None:
        return None
    at = f"layers.{int(layer[1])}"
    return f"{at}.mlp_in:{at}.mlp" if site == ".mlp_in" else at + site


def _model(origin: str) -> str | None:
    """gemma-2-2b of gemma-scope-2b-pt-res; gemma-3-1b-pt of gemma-scope-2-1b-pt."""
    if found := re.search(r"gemma-scope-2-(\d+[bm])-(pt|it)", origin):
        return f"gemma-3-{found[1]}-{found[2]}"
    if found := re.search(r"gemma-scope-(\d+b)(?:-(pt|it))?", origin):
        return f"gemma-2-{found[1]}" + ("-it" if found[2] == "it" else "")
    return None
