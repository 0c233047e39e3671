"""What a language model loses when activations are replaced on their way. Shapes: B contexts, T tokens, V vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from tasks.lazy import F, torch

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.lm.buckets import Batch
    from tasks.lm.language_model import Edit, LanguageModel

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
