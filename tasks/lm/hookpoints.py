"""Hookpoints: the places in a model where activations are read and put back.

``layers.8`` is the residual stream after block 8 (0-based), ``layers.8.mlp`` and ``layers.8.attn`` are what the MLP and
the attention of block 8 add to it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast

from tasks.spec import SpecError

Site = Literal["resid", "mlp", "attn"]


@dataclass(frozen=True, order=True)
class Hookpoint:
    """A layer and a site in it."""

    layer: int
    site: Site = "resid"

    def __str__(self) -> str:
        return f"layers.{self.layer}" + ("" if self.site == "resid" else f".{self.site}")

    @staticmethod
    def parse(text: str, where: str = "capture.hookpoint") -> Hookpoint:
        """Read ``layers.N``, ``layers.N.mlp`` or ``layers.N.attn``. Raises ``SpecError``."""
        found = re.fullmatch(r"layers\.(\d+)(?:\.(mlp|attn))?", text)
        if not found:
            raise SpecError(
                f"{where} = {text!r}, but a hookpoint is layers.N, layers.N.mlp or layers.N.attn; write it so"
            )
        return Hookpoint(int(found[1]), cast(Site, found[2] or "resid"))

    def check(self, n_layers: int, model: str, where: str = "capture.hookpoint") -> None:
        """Raise ``SpecError`` when the model has no such layer."""
        if self.layer >= n_layers:
            last = Hookpoint(n_layers - 1, self.site)
            raise SpecError(
                f"{where} = {str(self)!r}, but {model} has layers 0 to {n_layers - 1}; use {str(last)!r} for the last one"
            )
