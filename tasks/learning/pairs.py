"""Losses over the (token, latent) pairs that matter, in place of dense [B, N] latents. For kinds that train by autograd.

Of a token's N latents only those that fire (and, where a threshold learns, those next to it) enter a loss or its gradient.
``scored`` finds them with one dense product; what a kind makes of their scores is plain elementwise autograd; and ``rows`` adds
up decoder rows. The gradients of both weights are then sums over pairs: 2 P D each, not 2 B N D.

While very many latents fire, as in a run's first steps, plain dense products are faster. ``AllPairs`` takes them, and looks
to a kind's loss as ``ActivePairs`` does, with [B, N] for [P]. So a loss must be right whichever further pairs it is given.

Trap: importing this imports torch, whose classes ``Function``s are; so a kind imports it inside of its ``loss``.
Shapes: B tokens, D width, O d_out, N n_latents, P pairs.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from tasks.lazy import torch
from tasks.learning.sparse import fast_bf16
from tasks.sparse import Pairs, Search, Transposed, transposed

if TYPE_CHECKING:
    from torch import Tensor

CROWDED = 0.04
"""Share of all pairs from which dense products are the faster ones; on a CPU at d 512 and N 8192."""

_PROBE_ROWS = 32
"""Tokens, at even distances, that tell how many latents fire."""


class ActivePairs:
    """Some latents of each token."""

    def __init__(self, pairs: Pairs, n_latents: int) -> None:
        self._pairs, self.latent_P, self.n_latents = pairs, pairs.index_P, n_latents

    def of(self, value_N: Tensor) -> Tensor:
        """Each pair's latent's value, in a shape that goes with scores."""
        return value_N[self.latent_P]

    def rows(self, value_P: Tensor, W_NO: Tensor) -> Tensor:
        """For each token the sum of its latents' rows of W, each times its value: [B, O]. Differentiable in both."""
        return _Rows.apply(value_P, W_NO, self)

    def fired(self, which_P: Tensor) -> Tensor:
        """bool [N]: the latents of pairs of which ``which_P`` is true."""
        found = torch.zeros(self.n_latents, dtype=torch.bool, device=self.latent_P.device)
        found[self.latent_P[which_P]] = True
        return found

    @cached_property
    def _by_latent(self) -> Transposed:
        return transposed(self.latent_P, self.n_latents)

    @cached_property
    def _row_P(self) -> Tensor:
        return self._pairs.row_P()

    def summed(self, value_P: Tensor, W_NO: Tensor) -> Tensor:
        """``rows``, without autograd."""
        return self._pairs._replace(pre_P=value_P).sum_of(W_NO)

    def products(self, x_BD: Tensor, W_ND: Tensor) -> Tensor:
        """x[token] . W[latent] of each pair: [P]."""
        return self._pairs.product_of(x_BD, W_ND)

    def total(self, value_P: Tensor) -> Tensor:
        """For each latent the sum of its pairs' values: [N]."""
        return value_P.new_zeros(self.n_latents).index_add_(0, self.latent_P, value_P)

    def outer(self, value_P: Tensor, x_BD: Tensor) -> Tensor:
        """For each latent the sum of its tokens' rows of x, each times its value: [N, D]."""
        ((_, found),) = self._by_latent.rows_of(x_BD.contiguous(), self._row_P, value_P, self.n_latents)
        return found


class AllPairs:
    """All latents of each token; values are [B, N]."""

    def of(self, value_N: Tensor) -> Tensor:
        return value_N

    def rows(self, value_BN: Tensor, W_NO: Tensor) -> Tensor:
        return value_BN @ W_NO

    def fired(self, which_BN: Tensor) -> Tensor:
        return which_BN.any(0)

    def total(self, value_BN: Tensor) -> Tensor:
        return value_BN.sum(0)

    def outer(self, value_BN: Tensor, x_BD: Tensor) -> Tensor:
        return value_BN.T @ x_BD


def scored(
    x_BD: Tensor, b_dec_D: Tensor | None, W_ND: Tensor, b_N: Tensor, bound: float | Tensor = 0.0
) -> tuple[Tensor, ActivePairs | AllPairs]:
    """Pairs, among them all whose pre-activation W (x - b_dec) + b is above ``bound`` (one for all, or [N]); and of each the
    product W (x - b_dec), without b. Differentiable in W and b_dec; x is data.

    Where products in bfloat16 are wanted (autocast) or much faster, pairs are looked for in bfloat16, with a margin for its
    rounding, and scored in float32.
    """
    kind = x_BD.device.type
    rough = torch.is_autocast_enabled(kind) or (x_BD.dtype == torch.float32 and fast_bf16(x_BD.device))
    with torch.no_grad(), torch.autocast(kind, enabled=False):
        inner_BD = x_BD if b_dec_D is None else x_BD - b_dec_D
        bias_N = b_N - bound
        probe = torch.addmm(bias_N, inner_BD[:: max(1, len(x_BD) // _PROBE_ROWS)], W_ND.t()) > 0
        crowded = bool(probe.sum() > CROWDED * probe.numel())
        found = None if crowded else _above(inner_BD, W_ND, bias_N, rough)
    pairs = AllPairs() if found is None else ActivePairs(found, len(W_ND))
    with torch.no_grad():
        product_P = (inner_BD @ W_ND.T).to(x_BD.dtype) if found is None else found.pre_P - bias_N[found.index_P]
    return _Products.apply(product_P, W_ND, b_dec_D, inner_BD, pairs), pairs


def _above(inner_BD: Tensor, W_ND: Tensor, bias_N: Tensor, rough: bool) -> Pairs:
    """The pairs whose score W (x - b_dec) + bias is above 0, and with ``rough`` some that are just below, with their scores."""
    if not rough:
        return Search(W_ND, bias_N).above(inner_BD, 0.0)
    # A sum of products of bfloat16s is off by some 2^-9 of the rows' lengths, its bias and its own rounding by as much of theirs.
    margin_N = 2**-7 * (W_ND.norm(dim=-1) * inner_BD.square().mean().sqrt() + bias_N.abs())
    found = Search(W_ND, bias_N + margin_N, W_ND.to(torch.bfloat16)).above(inner_BD, 0.0)
    return found._replace(pre_P=found.pre_P - margin_N[found.index_P])


class _Products(torch.autograd.Function):
    """Gives products that are known already their gradients."""

    @staticmethod
    def forward(
        ctx: Any, product_P: Tensor, W_ND: Tensor, b_dec_D: Tensor | None, inner_BD: Tensor, pairs: ActivePairs | AllPairs
    ) -> Tensor:
        ctx.save_for_backward(W_ND, inner_BD)
        ctx.pairs = pairs
        return product_P.view_as(product_P)

    @staticmethod
    def backward(ctx: Any, grad_P: Tensor) -> tuple[Tensor | None, ...]:
        W_ND, inner_BD = ctx.saved_tensors
        pairs, d_W, d_b_dec = ctx.pairs, None, None
        if ctx.needs_input_grad[1]:
            d_W = pairs.outer(grad_P, inner_BD)
        if ctx.needs_input_grad[2]:  # b_dec is the same for all tokens, so that their sum will do: N D, not P D
            d_b_dec = -(pairs.total(grad_P) @ W_ND)
        return None, d_W, d_b_dec, None, None


class _Rows(torch.autograd.Function):
    """``ActivePairs.rows``."""

    @staticmethod
    def forward(ctx: Any, value_P: Tensor, W_NO: Tensor, pairs: ActivePairs) -> Tensor:
        ctx.save_for_backward(value_P, W_NO)
        ctx.pairs = pairs
        return pairs.summed(value_P, W_NO)

    @staticmethod
    def backward(ctx: Any, grad_BO: Tensor) -> tuple[Tensor | None, ...]:
        value_P, W_NO = ctx.saved_tensors
        d_value = ctx.pairs.products(grad_BO, W_NO) if ctx.needs_input_grad[0] else None
        d_W = ctx.pairs.outer(value_P, grad_BO) if ctx.needs_input_grad[1] else None
        return d_value, d_W, None
