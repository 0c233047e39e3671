"""SAEs of DeepSeek-R1-Distill-Llama-8B: one .pt with the state dicts of two linear layers, ``..-l<layer>.pt``.

Source: qresearch/DeepSeek-R1-Distill-Llama-8B-SAE-l19, as sae-lens 6.54.12 reads it: ReLU, encoder.weight (m, d),
decoder.weight (d, m), b_dec is not subtracted first.
"""

from __future__ import annotations

import re
from typing import ClassVar, Literal

from tasks.formats._files import Files, Tensors
from tasks.formats.base import Format, Given, Portable, found_sae, portable

_KEYS = {"encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"}


class DeepSeekR1(Format):
    """A file with two linear layers."""

    SAYS: ClassVar[str] = "a .pt with encoder and decoder (weight and bias each) and nothing else; a pickle"
    WEIGHTS: ClassVar[tuple[str, ...]] = ("*.pt", "*.pth")

    kind: Literal["deepseek_r1"] = "deepseek_r1"

    def matches(self, files: Files) -> bool:
        name = next((n for n in files.names if n.endswith((".pt", ".pth"))), None)
        of_another = files.has("config.json") and "trainer" in files.json("config.json")  # dictionary_learning's AutoEncoderNew
        return name is not None and not of_another and files.keys(name) == _KEYS

    def hookpoint(self, files: Files) -> str | None:
        found = re.search(r"[-_/]l(\d+)(?:\D|$)", f"{files.origin}/{self.weights(files)}")
        return f"layers.{int(found[1])}" if found else None

    def read(self, files: Files, given: Given) -> Portable:
        name = self.weights(files)
        held = Tensors(files, name, "this format")
        tensors = {
            "b_dec_D": held.take("decoder.bias", shape="D"),
            "b_enc_N": held.take("encoder.bias", shape="N"),
            "W_enc_ND": held.take("encoder.weight", shape="ND"),
            "W_dec_ND": held.take("decoder.weight", shape="DN", turn=True),
        }
        about = {"architecture": "relu"}
        if found := re.search(r"(DeepSeek-R1-[A-Za-z0-9.-]+?)-SAE", f"{files.origin}/{name}"):
            about["model"] = found[1]
        return portable(found_sae("standard", tensors, subtract_b_dec=False), self.hookpoint(files), about)
