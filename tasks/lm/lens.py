"""The logit lens: which tokens a direction of the residual stream pushes up and down.

Shapes: N directions, D d_model, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tasks.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.lm.language_model import LanguageModel

Pushed = tuple[str, float]
"""Text of a token, and its logit."""


class Lens:
    """The unembedding, with the final norm's gain folded in. nostalgebraist 2020, on decoder rows instead of activations."""

    def __init__(self, lm: LanguageModel) -> None:
        W_VD, self.texts = lm.unembedding()
        self.W_VD = W_VD - W_VD.mean(0)  # a push on all tokens alike changes no probability

    def logits(self, rows_ND: Tensor) -> Tensor:
        """Logits_NV of some directions, float32, but for the scale that the final norm takes out."""
        return rows_ND.to(self.W_VD.device).float() @ self.W_VD.T

    def most(self, rows_ND: Tensor, n: int) -> Most:
        """The ``n`` tokens that each direction pushes up most, and down."""
        logits = self.logits(rows_ND)
        up, down = (torch.topk(logits, min(n, logits.shape[1]), dim=-1, largest=largest) for largest in (True, False))
        return Most(up.indices.cpu(), up.values.cpu(), down.indices.cpu(), down.values.cpu())

    def told(self, rows_ND: Tensor, n: int) -> list[tuple[tuple[Pushed, ...], tuple[Pushed, ...]]]:
        """The same for people: of each direction the tokens up, and down, with their logits."""
        most = self.most(rows_ND, n)

        def side(id_Nn: Tensor, logit_Nn: Tensor) -> list[tuple[Pushed, ...]]:
            rows = zip(id_Nn.tolist(), logit_Nn.tolist(), strict=True)
            return [tuple((self.texts[i], logit) for i, logit in zip(*row, strict=True)) for row in rows]

        return list(zip(side(most.up_Nn, most.up_logit_Nn), side(most.down_Nn, most.down_logit_Nn), strict=True))


class Most(NamedTuple):
    """Ids and logits, most extreme first, on the CPU."""

    up_Nn: Tensor
    up_logit_Nn: Tensor
    down_Nn: Tensor
    down_logit_Nn: Tensor
