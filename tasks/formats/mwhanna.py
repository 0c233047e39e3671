"""Transcoders of mwhanna and their like: ``layer_<n>.safetensors`` for each layer, wandb-config.yaml and config.yaml beside.

Source: mwhanna/qwen3-*-transcoders, as sae-lens 6.54.12 reads them: ReLU, what the MLP reads to what it adds. Trap: W_enc is
(m, d) here and W_dec (m, o), so at m = d no shape tells a mistake. Some have W_skip (o, d).
"""

from __future__ import annotations

import re
from typing import ClassVar, Literal

from tasks.formats._files import Files, Tensors
from tasks.formats.base import Format, Given, Portable, found_sae, portable

_KEYS = {"W_enc", "b_enc", "W_dec", "b_dec"}


class Mwhanna(Format):
    """A file of such transcoders."""

    SAYS: ClassVar[str] = "layer_<n>.safetensors with W_enc, b_enc, W_dec, b_dec (and W_skip)"
    WEIGHTS: ClassVar[tuple[str, ...]] = ("layer_*.safetensors",)

    kind: Literal["mwhanna"] = "mwhanna"

    def matches(self, files: Files) -> bool:
        name = next((n for n in files.names if re.fullmatch(r"layer_\d+\.safetensors", n)), None)
        return name is not None and files.keys(name) - {"W_skip"} == _KEYS

    def hookpoint(self, files: Files) -> str | None:
        found = re.search(r"layer_(\d+)", self.weights(files))
        return f"layers.{int(found[1])}.mlp_in:layers.{int(found[1])}.mlp" if found else None

    def read(self, files: Files, given: Given) -> Portable:
        name = self.weights(files)
        held = Tensors(files, name, "this format")
        tensors = {
            "b_dec_D": held.take("b_dec", shape="O"),
            "b_enc_N": held.take("b_enc", shape="N"),
            "W_dec_ND": held.take("W_dec", shape="NO"),
            "W_enc_ND": held.take("W_enc", shape="ND"),
        }
        if skip := "W_skip" in held:
            tensors["W_skip_OD"] = held.take("W_skip", shape="OD")
        sae = found_sae("standard", tensors, skip=skip, subtract_b_dec=False)
        model = files.yaml("config.yaml").get("model_name") if files.has("config.yaml") else None
        about = {"architecture": "transcoder", "model": model, "hook": "mlp.hook_in", "hook_out": "hook_mlp_out"}
        return portable(sae, self.hookpoint(files), about)
