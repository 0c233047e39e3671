"""Which latents make a next token likelier: value times derivative. Shapes: n kept tokens, D width, K active latents."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tasks.lazy import F, torch
from tasks.sparse import sampled_product

if TYPE_CHECKING:
    from torch import Tensor

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


def attributed(subject: Subject, token_T: Tensor, keep_T: Tensor, latents: Latents, x_nD: Tensor, target: int | None) -> Attribution:
    """What the kept tokens' latents do for a next token: the ``target``, or the likeliest where it is None.

    ``x_nD`` is what the SAE reads at the kept tokens. Latents push through the norm, which is undone for each token in its
    own scale. One pass forward and one back.
    """
    sae = subject.sae
    said: list[tuple[int, float]] = []

    def objective(logits_BTV: Tensor) -> Tensor:
        log_p_V = F.log_softmax(logits_BTV[0, -1].float(), -1)
        wanted = int(log_p_V.argmax()) if target is None else target
        said.append((wanted, log_p_V[wanted].item()))
        return log_p_V[wanted]

    mask_BT = torch.ones_like(token_T, dtype=torch.bool)[None]
    found = subject.lm.gradients(token_T[None], mask_BT, [sae.hookpoint], objective)[sae.hookpoint][0]
    gradient_nD = found[keep_T.to(found.device)].to(x_nD.device)
    with torch.no_grad():
        normed, undo = sae.norm.apply(x_nD)
        inside = sae.sae.decode(latents, normed)
    with torch.enable_grad():
        inside = inside.requires_grad_()
        outside = sae.norm.invert(inside, undo)
        (pull_nD,) = torch.autograd.grad((outside * gradient_nD).sum(), inside)
    rest_n = ((x_nD - outside.detach()) * gradient_nD).sum(-1)
    return Attribution(*said[0], latents.value_BK * sampled_product(pull_nD, sae.W_dec_ND, latents.index_BK), rest_n)
