"""Hookpoints: the places in a model where activations are read and put back.

``layers.8`` is the residual stream after block 8 (0-based), and ``embed`` the one before block 0. In block 8:

* ``layers.8.z``: the heads' outputs side by side, which attention's last projection reads (TransformerLens: hook_z)
* ``layers.8.attn``: what attention adds to the residual stream
* ``layers.8.resid_mid``: the residual stream between attention and MLP
* ``layers.8.mlp_in``: what the MLP reads, after its norm
* ``layers.8.mlp_act``: the MLP's hidden activations, which its last projection reads (hook_post)
* ``layers.8.mlp``: what the MLP adds to the residual stream

``layers.8.resid_pre`` is another name of ``layers.7``, and ``layers.0.resid_pre`` of ``embed``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from tasks.spec import SpecError

Site = Literal["z", "attn", "resid_mid", "mlp_in", "mlp_act", "mlp", "resid"]
"""In the order in which a block computes them."""

_ORDER = {site: i for i, site in enumerate(get_args(Site))}
_FORM = re.compile(rf"layers\.(\d+)(?:\.({'|'.join(site for site in _ORDER if site != 'resid')}|resid_pre))?", re.ASCII)


@dataclass(frozen=True, order=True)
class Hookpoint:
    """A layer and a site in it."""

    layer: int
    """0-based; -1 is before all blocks, at ``embed``."""

    site: Site = "resid"

    def __str__(self) -> str:
        if self.layer < 0:
            return "embed"
        return f"layers.{self.layer}" + ("" if self.site == "resid" else f".{self.site}")

    @property
    def place(self) -> tuple[int, int]:
        """Sorts hookpoints as a pass comes by them."""
        return self.layer, _ORDER[self.site]

    @property
    def of_stream(self) -> bool:
        """Whether it is the residual stream itself, which carries on what was added to it before."""
        return self.site in ("resid", "resid_mid")

    def width(self, facts: Any) -> int | None:
        """Numbers in a row there, from the ``Facts`` of a model; None where they do not tell."""
        return getattr(facts, {"z": "d_heads", "mlp_act": "d_mlp"}.get(self.site, "d_model"))

    @staticmethod
    def parse(text: str, where: str = "capture.hookpoint") -> Hookpoint:
        """Read ``embed``, ``layers.N`` or ``layers.N.<site>``. Raises ``SpecError``."""
        if text == "embed":
            return Hookpoint(-1)
        found = _FORM.fullmatch(text)
        if not found:
            sites = ", ".join(site for site in _ORDER if site != "resid")
            raise SpecError(f"{where} = {text!r}, but a hookpoint is layers.N, layers.N.<one of {sites}> or embed; write it so")
        if found[2] == "resid_pre":
            return Hookpoint(int(found[1]) - 1)
        return Hookpoint(int(found[1]), cast(Site, found[2] or "resid"))

    def check(self, n_layers: int, model: str, where: str = "capture.hookpoint") -> None:
        """Raise ``SpecError`` when the model has no such layer."""
        if self.layer >= n_layers:
            last = Hookpoint(n_layers - 1, self.site)
            raise SpecError(
                f"{where} = {str(self)!r}, but {model} has layers 0 to {n_layers - 1}; use {str(last)!r} for the last one"
            )
