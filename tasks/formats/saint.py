"""SAINT's own first SAEs: a .pt with b_pre, encoder.weight, encoder.bias and decoder.weight.

Source: yym68686/saint, sae.py, sae_batchtopk.py, sae_jumprelu.py and sae_relu.py: encoder.weight (m, d), decoder.weight (d, m),
activations less their mean over their standard deviation (that of a sample, plus 1e-6) token by token, both ways. k is not
in the file. Trap: training normalised decoder.weight along the wrong axis, so rows are not of length 1. BatchTopK files have
``threshold`` as well (-1 where it was never set), JumpReLU files ``log_threshold``; TopK and ReLU files look alike.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from tasks.formats._files import Files, Tensors, number
from tasks.formats.base import Format, Given, Portable, found_sae, portable
from tasks.lazy import torch
from tasks.norms.layer_norm import LayerNorm

_ARCHITECTURES = ("topk", "relu", "batchtopk", "jumprelu")


class Saint(Format):
    """A file of SAINT before it was this."""

    SAYS: ClassVar[str] = "a .pt with b_pre, encoder.weight, encoder.bias, decoder.weight; a pickle"
    WEIGHTS: ClassVar[tuple[str, ...]] = ("*.pt", "*.pth")

    kind: Literal["saint"] = "saint"

    def matches(self, files: Files) -> bool:
        name = next((n for n in files.names if n.endswith((".pt", ".pth"))), None)
        return name is not None and {"b_pre", "encoder.weight", "decoder.weight"} <= files.keys(name)

    def read(self, files: Files, given: Given) -> Portable:
        name = self.weights(files)
        held = Tensors(files, name, "SAINT's format")
        tensors = {
            "b_dec_D": held.take("b_pre", shape="D"),
            "b_enc_N": held.take("encoder.bias", shape="N"),
            "W_enc_ND": held.take("encoder.weight", shape="ND"),
            "W_dec_ND": held.take("decoder.weight", shape="DN", turn=True),
        }
        architecture = given.architecture or (
            "jumprelu" if "log_threshold" in held else "batchtopk" if "threshold" in held else "topk"
        )
        if architecture not in _ARCHITECTURES:
            raise files.wrong(name, f"cannot be of sae.architecture = {architecture!r}", f"there are {', '.join(_ARCHITECTURES)}")
        if architecture in ("topk", "batchtopk") and given.k is None:
            raise files.wrong(
                name, "says no k, as no file of SAINT does",
                "set sae.k=... to what it was trained with (64 unless it was changed)"
                + (", or sae.architecture=relu if it was trained without" if architecture == "topk" else ""),
            )  # fmt: skip
        about = {"architecture": architecture}
        norm = LayerNorm(epsilon=1e-6, epsilon_back=True)
        if architecture == "relu":
            return portable(found_sae("standard", tensors), None, about, norm)
        if architecture == "topk":
            return portable(found_sae("topk", tensors, k=given.k), None, about, norm)
        if architecture == "jumprelu":
            tensors["threshold_N"] = held.take("log_threshold", shape="N").exp()
            return portable(found_sae("jumprelu", tensors), None, about, norm)
        threshold = given.threshold if given.threshold is not None else number(held.found.get("threshold"))
        if threshold is None or threshold < 0:
            raise files.wrong(
                name, f"has threshold = {threshold}: it was never set", "set sae.threshold=... above which latents are active"
            )
        tensors["threshold"] = torch.tensor(threshold)
        return portable(found_sae("batchtopk", tensors, k=given.k), None, about, norm)
