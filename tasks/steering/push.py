"""A latent turned up or down: what is added to the activations of which rows of a batch, at which positions.

In the SAE's own units, x becomes x + strength x (the latent's largest activation) x (its decoder row). The model's
activations are the SAE's inputs with the norm undone, so what is added to them is that sum with the norm undone, less
the input with the norm undone: the decoder row in the model's units, at each token in that token's own scale where a
norm has one per token. What is pushed is what the SAE writes: a transcoder's output; of a crosscoder every hookpoint, each by
its own part of the row, but of those in the residual stream the last alone (``Sites.pushed`` says why).
Shapes: B rows, T tokens, D width of a hookpoint, O d_out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from tasks.lazy import np, torch
from tasks.lm.contexts import Context
from tasks.lm.hooks import Edit
from tasks.spec import SpecError

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.trained import TrainedSAE

Positions = Literal["all", "last"]
"""``all``: every token; ``last``: from the last token of the prompt on. BOS and other special tokens are left as they
are: what stands there is an attention sink that no SAE was trained on."""


class Push(NamedTuple):
    """One latent, and how far it is turned."""

    latent: int
    strength: float
    """Multiple of ``largest``; negative turns it down, 0 changes nothing, not a bit."""

    largest: float = 1.0
    """The latent's largest observed activation (``LatentExamples.max_value``), in units of the SAE's values."""

    @property
    def amount(self) -> float:
        return self.strength * self.largest


class Row(NamedTuple):
    """One row of a batch."""

    prompt: Context
    pushes: tuple[Push, ...] = ()
    """Empty for the model as it is."""

    sample: int = 0
    """Tells draws of one prompt apart: equal prompt, seed and sample, equal draws, whatever is pushed."""


def check_latents(sae: TrainedSAE, latents: Sequence[int]) -> None:
    """Raise ``SpecError`` for a latent that the SAE does not have."""
    for latent in latents:
        if not 0 <= latent < sae.n_latents:
            raise SpecError(f"latent = {latent}, but the SAE has latents 0 to {sae.n_latents - 1}; use one of them")


class Steering:
    """The edits of a batch of rows whose prompts are of one length."""

    def __init__(self, sae: TrainedSAE, rows: Sequence[Row], positions: Positions = "all") -> None:
        check_latents(sae, [push.latent for row in rows for push in row.pushes])
        self.sae = sae
        W_ND = sae.W_dec_ND
        turned = [i for i, row in enumerate(rows) if any(push.amount for push in row.pushes)]
        self._rows = torch.tensor(turned, dtype=torch.int64, device=W_ND.device)
        push_BO = torch.stack([
            sum((push.amount * W_ND[push.latent].float() for push in rows[i].pushes), W_ND.new_zeros(sae.d_out))
            for i in turned
        ]) if turned else W_ND.new_zeros(0, sae.d_out)  # fmt: skip
        self._push_BD = {h: part for h, part in sae.written(push_BO).items() if h in sae.sites.pushed}
        where = np.stack([row.prompt.keep for row in rows])
        if positions == "last":
            where = where & (np.arange(where.shape[1]) == where.shape[1] - 1)
        self._where_BT = torch.from_numpy(where).to(W_ND.device)[self._rows]

    def at(self, first: int) -> tuple[Edit, ...]:
        """The edits of a pass over positions ``first`` and following; none where nothing is pushed.

        Positions past the prompts are generated tokens, and all pushed.
        """
        if not len(self._rows):
            return ()
        return tuple(Edit(h, lambda x_BTD, h=h: self._pushed(h, x_BTD, first)) for h in self._push_BD)

    def _pushed(self, hookpoint: str, x_BTD: Tensor, first: int) -> Tensor:
        x = x_BTD[self._rows]
        n, n_tokens, d = x.shape
        push = self._push_BD[hookpoint][:, None].expand(n, n_tokens, d).reshape(-1, d)
        norm = self.sae.norm_at(hookpoint)
        with torch.inference_mode():
            y, undo = norm.apply(x.reshape(-1, d))
            more = (norm.invert(y + push, undo) - norm.invert(y, undo)).reshape(x.shape)
        generated = self._where_BT.new_ones(n, max(0, first + n_tokens - self._where_BT.shape[1]))
        where = torch.cat([self._where_BT, generated], 1)[:, first : first + n_tokens, None]
        edited = x_BTD.clone()
        edited[self._rows] = torch.where(where, (x.float() + more).to(x.dtype), x)
        return edited
