"""A trained SAE with its norm: raw activations in, latents and reconstructions out. Shapes: B tokens, D d_in, N latents.

On disk an SAE is ``sae.safetensors`` (weights, and the norm's numbers as ``norm.<name>``) and ``sae.json``, which says
all that is needed to use it: kind and spec, the equation, the hookpoint, the model and the normalisation.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.kinds import decode
from tasks.lazy import torch
from tasks.norms.base import FittedNorm
from tasks.saes.base import SAE, Latents

if TYPE_CHECKING:
    from torch import Tensor

    from artifacts.store import Opened

FORMAT = "saint-sae"
VERSION = 1


class TrainedSAE:
    """An SAE as it is used: on the model's own activations."""

    def __init__(self, sae: SAE, norm: FittedNorm, hookpoint: str, about: dict[str, Any] | None = None) -> None:
        self.sae, self.norm, self.hookpoint, self.about = sae, norm, hookpoint, about or {}

    @property
    def n_latents(self) -> int:
        return self.sae.n_latents

    @property
    def d_in(self) -> int:
        return self.sae.d_in

    @property
    def W_dec_ND(self) -> Tensor:
        """Decoder rows, unit norm where the kind keeps them so. A norm with one scale for all does not turn them."""
        return self.sae.W_dec_ND

    def encode(self, x_BD: Tensor) -> Latents:
        """Latents of raw activations; values are in units of the normalised input."""
        with torch.inference_mode():
            return self.sae.encode(self.norm.apply(x_BD)[0])

    def reconstruct(self, x_BD: Tensor) -> Tensor:
        """Raw activations as the SAE gives them back, float32."""
        with torch.inference_mode():
            y_BD, undo = self.norm.apply(x_BD)
            return self.norm.invert(self.sae.decode(self.sae.encode(y_BD), y_BD), undo)

    def to(self, device: Any) -> TrainedSAE:
        """Move to a device; returns self."""
        self.sae.to(device=device)
        self.norm.to(device)
        return self

    def save(self, folder: Path) -> None:
        """Write ``sae.safetensors`` and ``sae.json``."""
        from safetensors.torch import save_file

        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.sae.weights().items()}
        tensors |= {f"norm.{name}": value.cpu().contiguous() for name, value in self.norm.state.items()}
        # One entry: safetensors writes several in an order that changes from process to process.
        save_file(tensors, folder / "sae.safetensors", metadata={"format": f"{FORMAT} {VERSION}"})
        body = {
            "format": FORMAT,
            "version": VERSION,
            "equation": self.sae.equation,
            "spec": self.sae.spec.payload(),
            "d_in": self.d_in,
            "n_latents": self.n_latents,
            "hookpoint": self.hookpoint,
            "norm": self.norm.norm.payload(),
            **self.about,
        }
        (folder / "sae.json").write_text(json.dumps(body, indent=1))

    @staticmethod
    def open(opened: Opened) -> TrainedSAE:
        """The SAE of a ``train`` artifact, on the CPU."""
        from safetensors.torch import load_file

        body = json.loads((opened.path / "sae.json").read_text())
        held = load_file(opened.path / "sae.safetensors")
        weights = {name: tensor for name, tensor in held.items() if not name.startswith("norm.")}
        sae = decode("tasks.saes", body["spec"], "sae").holding(weights)
        state = {name.removeprefix("norm."): value for name, value in held.items() if name.startswith("norm.")}
        norm = FittedNorm(decode("tasks.norms", body["norm"], "norm"), state)
        return TrainedSAE(sae, norm, body["hookpoint"], body)
