"""Which latents point the same way, as the report shows it. Shapes: N latents, D width, B latents looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tasks.dictionary.directions import BINS, cosines, lengths, nearest
from tasks.lazy import np, torch

if TYPE_CHECKING:
    from artifacts.store import Opened

_SAMPLED = 1024
"""Latents whose cosines with all others are counted: about a second of 65,536 on two cores."""

_BLOCK = 256


def alike(sae: Opened, latents: Sequence[int], n: int = 5) -> tuple[dict[int, list[list[Any]]], dict[str, Any]]:
    """Of some latents the ``n`` nearest by decoder rows, each with its cosine; and for two plots, of latents at even distances,
    ``edges`` and ``counts`` of all their cosines and ``largest`` of each."""
    from safetensors import safe_open

    with safe_open(sae.path / "sae.safetensors", "pt") as file:
        W_ND = file.get_tensor("W_dec_ND").float()
    N, length_N = len(W_ND), lengths(W_ND)
    counts, largest = torch.zeros(BINS, dtype=torch.int64), []
    found: dict[int, list[list[Any]]] = {}
    with torch.inference_mode():
        sample = torch.from_numpy(np.linspace(0, N - 1, min(N, _SAMPLED)).round().astype(np.int64))
        for own_B in sample.split(_BLOCK):
            cos_BN = cosines(W_ND[own_B], W_ND, length_N).clamp_(-1, 1)
            first = nearest(cos_BN, 1, own_B).value_NK[:, 0]  # which leaves out what each has with itself
            counts += torch.histc(cos_BN.masked_fill_(cos_BN.isneginf(), 2.0), BINS, -1.0, 1.0).long()
            largest += first[first.isfinite()].tolist()
        for own_B in torch.tensor(list(latents), dtype=torch.int64).split(_BLOCK):
            near = nearest(cosines(W_ND[own_B], W_ND, length_N), n, own_B)
            for latent, index, value in zip(own_B.tolist(), near.index_NK.tolist(), near.value_NK.tolist(), strict=True):
                there = [[i, round(v, 3)] for i, v in zip(index, value, strict=True) if v > -1.5]
                found[latent] = there
    edges = [round(-1 + 2 * i / BINS, 4) for i in range(BINS + 1)]
    return found, {"edges": edges, "counts": counts.tolist(), "largest": largest, "n": len(sample)}
