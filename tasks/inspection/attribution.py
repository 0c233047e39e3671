"""Which latents make a next token likelier: value times derivative. Shapes: n kept tokens, D d_in, O d_out, K active latents."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tasks.lazy import F, torch
from tasks.sparse import sampled_product

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.lm.buckets import Batch
    from tasks.saes.base import Latents
    from tasks.steering.subject import Subject


class Attribution(NamedTuple):
    """What moves the log-probability of one next token, to first order, in nats."""

    target: int
    log_p: float
    """Of the target, untouched."""

    latent_nK: Tensor
    rest_n: Tensor
    """Of what the SAE leaves over."""


def attributed(
    subject: Subject, batch: Batch, latents: Latents, x_nD: Tensor, y_nO: Tensor, target: int | None
) -> Attribution:
    """What the kept tokens' latents do for the next token of one prompt: the ``target``, or the likeliest where it is None.

    ``x_nD`` is what the SAE reads at the kept tokens, ``y_nO`` what it is to give. Latents push where steering pushes
    (``Sites.pushed``), through the norm, which is undone for each token in its own scale. One pass forward and one back.
    """
    sae = subject.sae
    said: list[tuple[int, float]] = []

    def objective(logits_BTV: Tensor) -> Tensor:
        log_p_V = F.log_softmax(logits_BTV[0, -1].float(), -1)
        wanted = int(log_p_V.argmax()) if target is None else target
        said.append((wanted, log_p_V[wanted].item()))
        return log_p_V[wanted]

    found = subject.lm.gradients(batch.token_BT, batch.mask_BT, sae.sites.pushed, objective)
    gradient_nO = torch.zeros_like(y_nO)
    for hookpoint, part in sae.written(gradient_nO).items():  # views of it
        if hookpoint in found:
            part.copy_(found[hookpoint][batch.keep_BT.to(found[hookpoint].device)])
    with torch.no_grad():
        normed, undo = sae.norm.apply(x_nD)
        inside = sae.sae.decode(latents, normed)
    with torch.enable_grad():
        inside = inside.requires_grad_()
        outside = sae.norm.invert(inside, undo)
        (pull_nO,) = torch.autograd.grad((outside * gradient_nO).sum(), inside)
    rest_n = ((y_nO - outside.detach()) * gradient_nO).sum(-1)
    return Attribution(*said[0], latents.value_BK * sampled_product(pull_nO, sae.W_dec_ND, latents.index_BK), rest_n)
