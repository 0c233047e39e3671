"""What every learner is. Shapes: B tokens, D d_in, O d_out, N n_latents, n some of the latents.

A kind that defines ``SAE.loss`` trains by autograd with ``AutogradLearner``; a kind that knows a faster way brings a
learner of its own. Learners take the same options: ``dead_after_tokens`` (rows without firing after which a latent counts as
dead), ``betas`` of Adam, ``clip_norm`` (largest norm of all gradients together; None: no limit) and ``autocast`` (products in
bfloat16 where that keeps the meaning).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tasks.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.saes.base import SAE, Latents


class Learner(Protocol):
    """Trains an SAE in place."""

    sae: SAE

    def step(
        self,
        x_BD: Tensor,
        lr: float,
        y_BO: Tensor | None = None,
        *,
        sparsity: float = 1.0,
        k: int | None = None,
        done: float = 1.0,
    ) -> dict[str, Tensor]:
        """One optimiser step on normalised rows. Returns scalars, ``fvu`` and ``l0`` among them, not yet synchronised.

        ``y_BO``: targets of a transcoder; None: x itself. ``sparsity``: share of the sparsity coefficient reached in its
        warm-up. ``k``: active latents of a token now, while k is annealed; None: the kind's own. ``done``: share of the steps
        that are over, for kinds that ``AGES`` says it of.
        """

    def revive(self, latent_n: Tensor, direction_nD: Tensor) -> None:
        """Point silent latents along directions of the input, with fresh optimiser state, as if they had just begun."""

    def state(self) -> dict[str, Tensor]:
        """All that a resumed run needs to go on bit for bit, weights included."""

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take what ``state`` gave."""

    @property
    def silent_N(self) -> Tensor:
        """Tokens since each latent last fired, int64."""


def spread(x_BD: Tensor) -> Tensor:
    """Sum of squared deviations from the batch mean."""
    return (x_BD - x_BD.mean(0)).square().sum()


def fvu(x_BD: Tensor, x_hat_BD: Tensor) -> Tensor:
    """Fraction of variance unexplained: squared error over squared deviation from the batch mean."""
    return (x_hat_BD - x_BD).square().sum() / spread(x_BD)


def fires_in(latents: Latents, n_latents: int) -> Tensor:
    """bool [N]: which latents are active anywhere in a batch."""
    fired = torch.zeros(n_latents, dtype=torch.bool, device=latents.index_BK.device)
    fired[latents.index_BK[latents.value_BK > 0]] = True
    return fired
