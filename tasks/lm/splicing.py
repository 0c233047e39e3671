"""An SAE's output in the place of what a language model computes. Shapes: B contexts, T tokens, R tokens that are replaced."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tasks.lm.hooks import Edit

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.trained import TrainedSAE


class Splice:
    """The edits that replace every hookpoint that an SAE writes by what it gives for those that it reads.

    ``looks`` see what is read, ``puts`` replace. Both go into one pass where all that is read comes before what is written: an SAE
    and most transcoders. A crosscoder's do not: what it gives at its first hookpoint depends on its last, so that its ``looks`` go
    into a clean pass over the same tokens, and all of its hookpoints are replaced at once in a second. That will do for every SAE.
    """

    def __init__(self, sae: TrainedSAE, keep_BT: Tensor) -> None:
        """``keep_BT``: the positions that are replaced; BOS and padding are left as they are."""
        self._sae, self._keep_BT = sae, keep_BT
        self._seen: dict[str, Tensor] = {}
        self._made: dict[str, Tensor] = {}

    def looks(self) -> list[Edit]:
        """For the pass in which everything is as the model computes it."""
        return [Edit(hookpoint, self._look(hookpoint)) for hookpoint in self._sae.sites.reads]

    def puts(self) -> list[Edit]:
        """For the pass in which the SAE's output stands in the model's place."""
        return [Edit(hookpoint, self._put(hookpoint)) for hookpoint in self._sae.sites.writes]

    def _look(self, hookpoint: str) -> Callable[[Tensor], None]:
        def look(x_BTD: Tensor) -> None:
            keep = self._keep_BT.to(x_BTD.device)
            self._seen[hookpoint] = x_BTD[keep]
            self._made = {}

        return look

    def _put(self, hookpoint: str) -> Callable[[Tensor], Tensor]:
        def put(x_BTD: Tensor) -> Tensor:
            if not self._made:
                read_RD = self._sae.read(self._seen).float().to(self._sae.W_dec_ND.device)
                self._made = self._sae.written(self._sae.reconstruct(read_RD))
            return replaced(x_BTD, self._keep_BT, self._made[hookpoint])

        return put


def replaced(x_BTD: Tensor, keep_BT: Tensor, rows_RD: Tensor) -> Tensor:
    """Activations with other rows, one for each position that is True in ``keep_BT``, row after row."""
    edited = x_BTD.clone()
    edited[keep_BT.to(x_BTD.device)] = rows_RD.to(x_BTD)
    return edited
