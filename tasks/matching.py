"""Which directions of two dictionaries belong together. Shapes: n rows of one dictionary, m of the other, D their width.

Two questions, and both are asked: what is the nearest row over there (many may share one: ``nearest``, ``mmcs``), and who
belongs to whom if each may be taken once (``one_to_one``, ``mcc``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tasks.lazy import F, torch

if TYPE_CHECKING:
    from torch import Tensor

_CELLS = 1 << 26
"""Cosines made at a time: 256 MB."""


class Nearest(NamedTuple):
    """For each row of one dictionary, the row of the other that is most like it."""

    index_n: Tensor
    """int64, row of the other dictionary."""

    cosine_n: Tensor
    """Their cosine, with its sign; 0 for rows of zeros."""


class Pairs(NamedTuple):
    """A one-to-one matching: the smaller dictionary's every row, with a row of the larger one that no other has."""

    one_P: Tensor
    """int64, rows of the first dictionary, ascending."""

    other_P: Tensor
    """int64, rows of the second."""

    cosine_P: Tensor
    """Their cosines, with sign."""


def nearest(one_nD: Tensor, other_mD: Tensor, absolute: bool = False) -> Nearest:
    """For each row of ``one`` the row of ``other`` of largest cosine (``absolute``: of largest magnitude of it). Never more
    than a block of the n x m cosines in memory."""
    one, other = _unit(one_nD), _unit(other_mD)
    step = max(1, _CELLS // max(1, len(other)))
    parts = []
    for rows in one.split(step):
        cosine = rows @ other.T
        index = (cosine.abs() if absolute else cosine).argmax(-1)
        parts.append((index, cosine.gather(1, index[:, None]).squeeze(1)))
    index, cosine = (torch.cat(part) for part in zip(*parts, strict=True))
    return Nearest(index, cosine)


def mmcs(one_nD: Tensor, other_mD: Tensor) -> float:
    """Mean over rows of ``one`` of the largest cosine with any row of ``other``. Not symmetric: many rows may share one.

    Source: Sharkey et al. 2022, "Taking features out of superposition with sparse autoencoders" (mean max cosine similarity).
    """
    return float(nearest(one_nD, other_mD).cosine_n.mean())


def one_to_one(one_nD: Tensor, other_mD: Tensor, absolute: bool = True) -> Pairs:
    """The matching with the largest sum of cosines (``absolute``: of magnitudes of cosines), by the Hungarian method.

    Time grows with the cube of the smaller dictionary's size in the worst case: seconds at 8,192 rows.
    """
    from scipy.optimize import linear_sum_assignment

    cosine = _unit(one_nD) @ _unit(other_mD).T
    rows, columns = linear_sum_assignment((cosine.abs() if absolute else cosine).cpu().numpy(), maximize=True)
    one, other = (torch.from_numpy(found).to(cosine.device) for found in (rows, columns))
    return Pairs(one, other, cosine[one, other])


def mcc(one_nD: Tensor, other_mD: Tensor) -> float:
    """Mean correlation coefficient: the mean magnitude of the cosines of ``one_to_one``. Symmetric; 1 when every row of the
    smaller dictionary has its like in the other."""
    return float(one_to_one(one_nD, other_mD).cosine_P.abs().mean())


def _unit(W_nD: Tensor) -> Tensor:
    return F.normalize(W_nD.detach().float(), dim=-1)
