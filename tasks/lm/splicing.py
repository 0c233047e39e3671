"""What a language model loses when activations are replaced on their way. Shapes: B contexts, T tokens, V vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from tasks.lazy import F, torch
from tasks.lm.hooks import Edit

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.lm.buckets import Batch
    from tasks.lm.language_model import LanguageModel
    from tasks.trained import TrainedSAE

MAX_LOGITS = 2**26
"""Numbers in one batch of logits; a vocabulary of 128,000 makes a batch of 8,192 tokens 4 GB."""


class Run(NamedTuple):
    """One pass over a batch."""

    loss_BT: Tensor
    """Nats of each token given those before it: float64 on the CPU. The first, before which there is nothing, and padding
    have 0."""

    kl_BT: Tensor | None
    """KL(first run || this run) of the prediction of each token, aligned as ``loss_BT``; None for the first run itself."""

    next_Bn: tuple[Tensor, Tensor] | None
    """Log-probabilities and ids of the likeliest tokens after each context; None where none are asked for."""


def losses(
    lm: LanguageModel, batch: Batch, runs: Mapping[str, Sequence[Edit]], n_next: int = 0
) -> Iterator[tuple[str, Run]]:
    """Run the model once for each entry of ``runs``, a name and the edits of that run; the first is what others are held
    against in their KL divergence. Memory is two batches of logits."""
    first: Tensor | None = None
    length_B = batch.mask_BT.sum(1).tolist()
    with torch.inference_mode():
        for name, edits in runs.items():
            logits = lm.logits(batch.token_BT, batch.mask_BT, *edits)
            loss, kl = torch.zeros(batch.token_BT.shape, dtype=torch.float64), torch.zeros(batch.token_BT.shape, dtype=torch.float64)
            after = []
            for row, length in enumerate(length_B):  # one at a time: float32 copies of all logits are the largest thing here
                log_p = F.log_softmax(logits[row, :length].float(), -1)
                target = batch.token_BT[row, 1:length, None].to(log_p.device)
                loss[row, 1:length] = -log_p[:-1].gather(-1, target)[:, 0].cpu().double()
                if first is not None:
                    clean = F.log_softmax(first[row, : length - 1].float(), -1)
                    kl[row, 1:length] = (clean.exp() * (clean - log_p[:-1])).sum(-1).cpu().double()
                after.append(log_p[-1].topk(min(n_next, log_p.shape[1])))
            best = tuple(torch.stack([part[i].cpu() for part in after]) for i in (0, 1)) if n_next else None
            yield name, Run(loss, None if first is None else kl, best)  # type: ignore[arg-type]
            first = logits if first is None else first


def replaced(rows_nD: Tensor, keep_BT: Tensor) -> Callable[[Tensor], Tensor]:
    """The change that puts ``rows_nD`` at the wanted positions, in order, and leaves BOS and padding as they are."""

    def change(x_BTD: Tensor) -> Tensor:
        edited = x_BTD.clone()
        edited[keep_BT.to(x_BTD.device)] = rows_nD.to(x_BTD)
        return edited

    return change


class Splice:
    """The edits that put what an SAE gives for the hookpoints that it reads in the place of those that it writes.

    ``looks`` see what is read, ``puts`` replace. Both may go into one pass where all that is read comes before what is written: an
    SAE's and most transcoders'. A crosscoder gives at its first hookpoint what depends on its last, so that its looks go into a
    clean pass over the same tokens, and all of its hookpoints are replaced at once in the next: which will do for any SAE.
    """

    def __init__(self, sae: TrainedSAE, keep_BT: Tensor) -> None:
        """``keep_BT``: the positions that are replaced; BOS and padding are left as they are."""
        self._sae, self._keep_BT = sae, keep_BT
        self._seen: dict[str, Tensor] = {}
        self._made: dict[str, Tensor] = {}

    @property
    def looks(self) -> list[Edit]:
        """For the pass in which what is read is as the model computes it."""
        return [Edit(hookpoint, self._look(hookpoint)) for hookpoint in self._sae.sites.reads]

    @property
    def puts(self) -> list[Edit]:
        """For the pass in which the SAE's output stands in the model's place."""
        return [Edit(hookpoint, self._put(hookpoint)) for hookpoint in self._sae.sites.writes]

    def _look(self, hookpoint: str) -> Callable[[Tensor], None]:
        def look(x_BTD: Tensor) -> None:
            self._seen[hookpoint] = x_BTD[self._keep_BT.to(x_BTD.device)].float().to(self._sae.W_dec_ND.device)
            self._made = {}

        return look

    def _put(self, hookpoint: str) -> Callable[[Tensor], Tensor]:
        def put(x_BTD: Tensor) -> Tensor:
            if not self._made:
                self._made = self._sae.written(self._sae.reconstruct(self._sae.read(self._seen)))
            return replaced(self._made[hookpoint], self._keep_BT)(x_BTD)

        return put
