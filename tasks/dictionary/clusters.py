"""A few latents of many, and in an order in which those alike stand side by side. Shapes: N latents, D width, S chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.dictionary.directions import Nearest, cosines, lengths
from tasks.lazy import np, torch

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


def mapped(W_ND: Tensor, nearest: Nearest, n: int) -> tuple[np.ndarray, np.ndarray]:
    """``n`` latents (half of them of the most similar pairs, the rest at even distances) and their cosines (S, S).

    In the order of the leaves of average-linkage clustering by cosine.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    value_NK, index_NK = nearest.value_NK.cpu(), nearest.index_NK.cpu()
    firsts = value_NK[:, 0].argsort(descending=True)[:n]
    near = torch.stack([firsts, index_NK[firsts, 0]], 1).flatten().tolist() if len(W_ND) > 1 else []
    even = np.linspace(0, len(W_ND) - 1, min(n, len(W_ND))).round().astype(int).tolist()
    some = list(dict.fromkeys(near))[: n // 2]
    chosen = np.array(sorted(list(dict.fromkeys([*some, *even]))[:n]))
    rows = W_ND[chosen]
    table = cosines(rows, rows, lengths(rows)).clamp(-1, 1).cpu().numpy()
    if len(chosen) > 2:
        apart = 1 - (table + table.T) / 2
        np.fill_diagonal(apart, 0)
        order = leaves_list(linkage(squareform(apart, checks=False), "average", optimal_ordering=True))
        chosen, table = chosen[order], table[np.ix_(order, order)]
    return chosen, table
