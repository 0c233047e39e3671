"""The norms of an SAE that stands at several hookpoints: one for each. Shapes: B tokens, D all that is read, O all that is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from tasks.lazy import torch
from tasks.norms.base import FittedNorm
from tasks.spec import SpecError

if TYPE_CHECKING:
    from torch import Tensor


class SiteNorms:
    """Works as a ``FittedNorm`` does, but what ``apply`` takes is the rows of what is read, side by side, and what ``invert``
    gives the rows of what is written."""

    def __init__(
        self, reads: Sequence[str], writes: Sequence[str], norms: Mapping[str, FittedNorm], widths: Mapping[str, int]
    ) -> None:
        """``norms`` and ``widths`` are of each hookpoint. Raises ``SpecError`` for norms that cannot be undone."""
        self.reads, self.writes, self.norms, self.widths = tuple(reads), tuple(writes), dict(norms), dict(widths)
        unread = [h for h in self.writes if norms[h].norm.PER_TOKEN and self.reads != self.writes]
        if unread:
            raise SpecError(not_undone(norms[unread[0]].norm, unread[0]))
        self._hookpoints = tuple(dict.fromkeys((*self.reads, *self.writes)))
        ends = list(accumulate(widths[h] for h in self._hookpoints))
        self._columns = {h: slice(end - widths[h], end) for h, end in zip(self._hookpoints, ends, strict=True)}

    def apply(self, x_BD: Tensor) -> tuple[Tensor, Any]:
        """Normalised float32 rows of what is read, and what ``invert`` needs."""
        parts = x_BD.split([self.widths[h] for h in self.reads], -1)
        found = [self.norms[h].apply(part) for h, part in zip(self.reads, parts, strict=True)]
        return torch.cat([rows for rows, _ in found], -1), [undo for _, undo in found]

    def invert(self, y_BO: Tensor, undo: Any) -> Tensor:
        """Rows of what is written, in the units of the model."""
        undos = undo if undo is not None and self.reads == self.writes else [None] * len(self.writes)
        found = zip(self.writes, y_BO.split([self.widths[h] for h in self.writes], -1), undos, strict=True)
        return torch.cat([self.norms[h].invert(part, one) for h, part, one in found], -1)

    def pair(self, row_BR: Tensor) -> tuple[Tensor, Tensor | None]:
        """What an SAE reads of stored rows of all its hookpoints and what it is to give, both normalised; None where that is the same."""
        raw_BD, target_BO = self.sides(row_BR)
        if target_BO is None:
            return self.apply(raw_BD)[0], None
        parts = target_BO.split([self.widths[h] for h in self.writes], -1)
        return self.apply(raw_BD)[0], torch.cat([self.norms[h].apply(p)[0] for h, p in zip(self.writes, parts, strict=True)], -1)

    def sides(self, row_BR: Tensor) -> tuple[Tensor, Tensor | None]:
        """What is read and what is written of stored rows of all hookpoints, as they are; None where that is the same."""
        sides = [torch.cat([row_BR[:, self._columns[h]] for h in side], -1) for side in (self.reads, self.writes)]
        return sides[0], None if self.reads == self.writes else sides[1]

    def to(self, device: Any) -> SiteNorms:
        """Move the numbers; returns self."""
        for norm in self.norms.values():
            norm.to(device)
        return self


def not_undone(norm: Any, hookpoint: str) -> str:
    """The sentence about a norm of a place that is written and not read."""
    return (
        f"norm = {norm.kind!r}, but it takes out of each row what only that row tells, and {hookpoint} is written without being read; "
        "use norm=rms or norm=none for transcoders"
    )
