"""The latents whose decoder rows point most nearly the same way. Shapes: N latents, D width."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.dictionary.directions import cosines, lengths
from tasks.lazy import torch

if TYPE_CHECKING:
    from artifacts.store import Opened

_BLOCK = 8192
"""Rows multiplied at once: memory is a block in float32, whatever the dictionary's size and type."""


class Near:
    """The decoder rows of an SAE, mapped from its file, and their lengths."""

    def __init__(self, sae: Opened) -> None:
        from safetensors import safe_open

        with safe_open(sae.path / "sae.safetensors", "pt") as file, torch.inference_mode():
            self._W_ND = file.get_tensor("W_dec_ND")
            self._length_N = torch.cat([lengths(rows) for rows in self._W_ND.split(_BLOCK)])

    def of(self, latent: int, n: int = 8) -> list[tuple[int, float]]:
        """At most ``n`` others, the nearest first, each with its cosine."""
        with torch.inference_mode():
            parts = zip(self._W_ND.split(_BLOCK), self._length_N.split(_BLOCK), strict=True)
            own_1D = self._W_ND[latent : latent + 1]
            cos_N = torch.cat([cosines(own_1D, rows, length)[0] for rows, length in parts])
            cos_N[latent] = -torch.inf
            value, index = cos_N.topk(min(n, len(cos_N) - 1))
        return list(zip(index.tolist(), value.tolist(), strict=True))
