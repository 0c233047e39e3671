"""Goodfire: one .pt or .pth with encoder_linear and decoder_linear, named ``<model>-SAE-l<layer>``.

Source: the repositories Goodfire/Llama-3.3-70B-Instruct-SAE-l50 and Llama-3.1-8B-Instruct-SAE-l19, as sae-lens 6.54.12 reads
them: ReLU, encoder_linear.weight (m, d), decoder_linear.weight (d, m), b_dec is not subtracted first.
"""

from __future__ import annotations

import re
from typing import ClassVar, Literal

from tasks.formats._files import Files, Tensors
from tasks.formats.base import Format, Given, Portable, found_sae, portable


class Goodfire(Format):
    """A file of Goodfire's."""

    SAYS: ClassVar[str] = "a .pt or .pth with encoder_linear.weight and decoder_linear.weight; a pickle"
    WEIGHTS: ClassVar[tuple[str, ...]] = ("*.pt", "*.pth")

    kind: Literal["goodfire"] = "goodfire"

    def matches(self, files: Files) -> bool:
        name = next((n for n in files.names if n.endswith((".pt", ".pth"))), None)
        return name is not None and {"encoder_linear.weight", "decoder_linear.weight"} <= files.keys(name)

    def hookpoint(self, files: Files) -> str | None:
        found = re.search(r"-SAE-l(\d+)", f"{files.origin}/{self.weights(files)}")
        return f"layers.{int(found[1])}" if found else None

    def read(self, files: Files, given: Given) -> Portable:
        name = self.weights(files)
        held = Tensors(files, name, "Goodfire's format")
        tensors = {
            "b_dec_D": held.take("decoder_linear.bias", shape="D"),
            "b_enc_N": held.take("encoder_linear.bias", shape="N"),
            "W_enc_ND": held.take("encoder_linear.weight", shape="ND"),
            "W_dec_ND": held.take("decoder_linear.weight", shape="DN", turn=True),
        }
        model = re.search(r"([^/]+)-SAE-l\d+", f"{files.origin}/{name}")
        about = {"architecture": "relu", "model": model[1] if model else None}
        return portable(found_sae("standard", tensors, subtract_b_dec=False), self.hookpoint(files), about)
