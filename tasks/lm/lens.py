"""The logit lens: which tokens a direction of the residual stream pushes up and down.

Shapes: N directions, D d_model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from tasks.lazy import torch
from tasks.spec import SpecError

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.lm.language_model import LanguageModel
    from tasks.trained import TrainedSAE

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


def to_stream(lm: LanguageModel, sae: TrainedSAE) -> Callable[[Tensor], Tensor]:
    """What takes decoder rows of an SAE, N of them by d_out, to the directions of the residual stream that they add to it.

    Rows at ``z`` or ``mlp_act`` go through the projection that reads them. Where a latent is added at several hookpoints
    (``Sites.pushed``), the direction is their sum, each in the model's units. Raises ``SpecError`` where none has such a way.
    """
    through: dict[str, Tensor | None] = {}
    for hookpoint in sae.sites.pushed:
        try:
            through[hookpoint] = lm.output_weight(hookpoint)
        except SpecError as error:
            reason = str(error)
    if not through:
        raise SpecError(f"sae.hookpoint = {sae.hookpoint!r}, but {reason}; look at what the latents read instead")

    def directions(rows_NO: Tensor) -> Tensor:
        parts = []
        for hookpoint, rows in sae.written(rows_NO).items():
            if hookpoint not in through:
                continue
            rows, weight = rows.float(), through[hookpoint]
            norm = sae.norm_at(hookpoint)
            if (len(through) > 1 or norm.norm.TURNS) and not norm.norm.PER_TOKEN:
                rows = norm.invert(rows, None) - norm.invert(torch.zeros_like(rows), None)
            parts.append(rows if weight is None else rows.to(weight.device) @ weight.T)
        return torch.stack([part.to(parts[0].device) for part in parts]).sum(0) if len(parts) > 1 else parts[0]

    return directions
