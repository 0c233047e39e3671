"""A trained SAE with its norm: raw activations in, latents and reconstructions out. Shapes: B tokens, D d_in, O d_out, N latents.

On disk an SAE is ``sae.safetensors`` (weights, and the norm's numbers as ``norm.<name>``) and ``sae.json``, which says
all that is needed to use it: kind and spec, the equation, the hookpoint, the model and the normalisation. An SAE of several
hookpoints (``tasks.lm.sites``) has a norm for each, ``norm.<hookpoint>.<name>``, and their widths in ``sae.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.kinds import decode
from tasks.lazy import torch
from tasks.lm.sites import Sites
from tasks.norms._sites import SiteNorms
from tasks.norms.base import FittedNorm
from tasks.saes.base import SAE, Latents
from tasks.spec import SpecError

if TYPE_CHECKING:
    from torch import Tensor

    from artifacts.store import Opened

FORMAT = "saint-sae"
VERSION = 1


class TrainedSAE:
    """An SAE as it is used: on the model's own activations."""

    def __init__(
        self, sae: SAE, norm: FittedNorm | SiteNorms, hookpoint: str, about: dict[str, Any] | None = None
    ) -> None:
        """``hookpoint`` names all sites, as typed. One norm for several of them is each one's, and they are of one width on a side.

        Raises ``SpecError`` for what does not fit together.
        """
        self.sae, self.about = sae, about or {}
        self.sites = Sites.parse(hookpoint, "sae.hookpoint")
        self.hookpoint = str(self.sites)
        if isinstance(norm, FittedNorm) and not self.sites.one:
            norm = SiteNorms(self.sites.reads, self.sites.writes, dict.fromkeys(self.sites.hookpoints, norm), self._even())
        self.norm = norm
        """``apply`` takes rows of what is read, ``invert`` gives rows of what is written; several hookpoints side by side."""
        widths = (sum(self.widths[h] for h in side) for side in (self.sites.reads, self.sites.writes))
        if (found := tuple(widths)) != (sae.d_in, sae.d_out):
            raise SpecError(
                f"sae.hookpoint = {hookpoint!r}, where rows of {found[0]} numbers are read and of {found[1]} written, but the SAE reads "
                f"{sae.d_in} and writes {sae.d_out}; name the hookpoints that it stands at"
            )

    def _even(self) -> dict[str, int]:
        """Widths where all hookpoints of a side have the same."""
        found = {h: self.sae.d_out // len(self.sites.writes) for h in self.sites.writes}
        return found | {h: self.sae.d_in // len(self.sites.reads) for h in self.sites.reads}

    @property
    def widths(self) -> dict[str, int]:
        """Numbers in a row at each hookpoint."""
        return self.norm.widths if isinstance(self.norm, SiteNorms) else {self.hookpoint: self.sae.d_in}

    def norm_at(self, hookpoint: str) -> FittedNorm:
        """The norm of one of the hookpoints."""
        return self.norm.norms[hookpoint] if isinstance(self.norm, SiteNorms) else self.norm

    def read(self, found: Mapping[str, Tensor]) -> Tensor:
        """What is read, of activations by hookpoint: side by side along the last dimension."""
        return torch.cat([found[h] for h in self.sites.reads], -1) if len(self.sites.reads) > 1 else found[self.sites.reads[0]]

    def written(self, rows_BO: Tensor) -> dict[str, Tensor]:
        """Rows of what is written (reconstructions, decoder rows), by hookpoint."""
        return dict(zip(self.sites.writes, rows_BO.split([self.widths[h] for h in self.sites.writes], -1), strict=True))

    @property
    def n_latents(self) -> int:
        return self.sae.n_latents

    @property
    def d_in(self) -> int:
        return self.sae.d_in

    @property
    def d_out(self) -> int:
        return self.sae.d_out

    @property
    def W_dec_ND(self) -> Tensor:
        """Decoder rows, unit norm where the kind keeps them so. A norm with one scale for all does not turn them. Of several
        hookpoints that are written, side by side: ``written`` takes them apart."""
        return self.sae.W_dec_ND

    def encode(self, x_BD: Tensor) -> Latents:
        """Latents of raw activations of what is read; values are in units of the normalised input."""
        with torch.inference_mode():
            return self.sae.encode(self.norm.apply(x_BD)[0])

    def reconstruct(self, x_BD: Tensor) -> Tensor:
        """Raw activations of what is written as the SAE gives them for those of what is read, float32."""
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
        several = self.norm if isinstance(self.norm, SiteNorms) else None
        for hookpoint in self.sites.hookpoints:
            stem = "norm" if several is None else f"norm.{hookpoint}"
            tensors |= {f"{stem}.{n}": value.cpu().contiguous() for n, value in self.norm_at(hookpoint).state.items()}
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
            **(
                {"norm": self.norm_at(self.hookpoint).norm.payload()}
                if several is None
                else {"d_out": self.d_out, "widths": self.widths, "norms": {h: n.norm.payload() for h, n in several.norms.items()}}
            ),
            **self.about,
        }
        (folder / "sae.json").write_text(json.dumps(body, indent=1))

    @staticmethod
    def open(opened: Opened) -> TrainedSAE:
        """The SAE of a ``train`` artifact, on the CPU."""
        return TrainedSAE.in_folder(opened.path)

    @staticmethod
    def in_folder(folder: Path) -> TrainedSAE:
        """The SAE that ``save`` wrote into a folder, on the CPU."""
        from safetensors.torch import load_file

        body = json.loads((folder / "sae.json").read_text())
        held = load_file(folder / "sae.safetensors")
        weights = {name: tensor for name, tensor in held.items() if not name.startswith("norm.")}
        sae = decode("tasks.saes", body["spec"], "sae").holding(weights)

        def norm(fields: dict[str, Any], stem: str) -> FittedNorm:
            state = {name.removeprefix(stem): value for name, value in held.items() if name.startswith(stem)}
            return FittedNorm(decode("tasks.norms", fields, "norm"), state)

        if "norms" not in body:
            return TrainedSAE(sae, norm(body["norm"], "norm."), body["hookpoint"], body)
        sites = Sites.parse(body["hookpoint"], "sae.hookpoint")
        norms = {hookpoint: norm(fields, f"norm.{hookpoint}.") for hookpoint, fields in body["norms"].items()}
        return TrainedSAE(sae, SiteNorms(sites.reads, sites.writes, norms, body["widths"]), body["hookpoint"], body)
