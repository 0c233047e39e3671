"""Training without autograd for kinds whose active latents are few, in work that grows with K and not with N.

A kind says which pairs of token and latent are active, as nested groups, and the weight of each group's loss; all else is
here. Shapes: B tokens, D d_in, O d_out, N n_latents, P pairs of a token and a latent.

The loss is the sum over groups j of weight[j] * FVU of what groups 0 to j give together (one group: a plain TopK; ranks
k and 4 k: Multi-TopK; prefixes of the dictionary: Matryoshka), plus AuxK (Gao et al. 2024, arXiv 2406.04093, A.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tasks.lazy import torch
from tasks.sparse import Pairs, Search, transposed
from tasks.sparse.encoding import fast_bf16
from tasks.sparse.peers import ALONE
from tasks.sparse.products import squared

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.learning.group import Group
    from tasks.saes._sparse import SparseSAE

_EPSILON = 1e-8
_BLOCK = 1024
"""Latents whose gradient is made and consumed at once, while it is in the cache."""


class SparseLearner:
    """Adam on the loss of a sparse kind, decoder rows brought back to length 1 where the kind wants it.

    Each weight's moments decay at every step, as ``torch.optim.Adam`` does it, so that the loss curve is that of the
    dense formulation. Gradients are made block by block over latents and used at once: none is ever held whole.
    """

    def __init__(
        self,
        sae: SparseSAE,
        dead_after_tokens: int = 500_000,
        betas: tuple[float, float] = (0.9, 0.999),
        clip_norm: float | None = None,
        autocast: bool = False,
        bf16: bool | None = None,
        group: Group | None = None,
    ) -> None:
        """``bf16``: search latents in bfloat16, score in float32; None asks the machine whether that is faster.

        ``autocast`` asks for the same. ``clip_norm`` makes every gradient twice, since all must be known before the first is used.
        ``group``: this process has a part of the rows, or of the latents. Raises ``SpecError`` for latents of which not every
        process can have as many.
        """
        self._whole, self._dead_after, self._betas, self._clip_norm = sae, dead_after_tokens, betas, clip_norm
        self._rows, self._latents = (ALONE, ALONE) if group is None else (group.rows, group.latents)
        self._peers = ALONE if group is None else group.all
        if sae.UNIT_ROWS:
            sae.with_unit_rows()
        n, size = sae.n_latents, self._latents.size
        sae.spec.check_shares(size, n)
        self._mine = slice(n // size * self._latents.rank, n // size * (self._latents.rank + 1))
        # views: what is learnt here is learnt by the whole
        self._part = sae if size == 1 else sae.spec.holding({name: self._cut(name, w) for name, w in sae.weights().items()})
        self._is_whole = True
        device = sae.W_enc_ND.device
        self._bf16 = (autocast or fast_bf16(device)) if bf16 is None else bf16
        self._silent = torch.zeros(n, dtype=torch.int64, device=device)
        trained = {name: w for name, w in self._part.weights().items() if name in sae.TRAINED}
        self._moments = {name: (torch.zeros_like(w), torch.zeros_like(w)) for name, w in trained.items()}
        self._n_steps = torch.zeros((), dtype=torch.float32, device=device)
        self._shadow = self._shadowed()

    def _cut(self, name: str, whole: Tensor) -> Tensor:
        """This process's part of a weight, or of what is shaped like it."""
        return whole[self._mine] if _by_latent(name) else whole

    def _joined(self, name: str, part: Tensor) -> Tensor:
        """The whole of what ``_cut`` cuts."""
        return self._latents.gathered(part).flatten(0, 1) if _by_latent(name) and self._latents.size > 1 else part

    def _shadowed(self) -> Tensor | None:
        return self._part.W_enc_ND.to(torch.bfloat16) if self._bf16 else None

    @property
    def sae(self) -> SparseSAE:
        """The SAE. Where each process has a part of it, all must ask together."""
        if not self._is_whole:
            for name, weight in self._whole.weights().items():
                weight.copy_(self._joined(name, getattr(self._part, name)))
            self._is_whole = True
        return self._whole

    @property
    def silent_N(self) -> Tensor:
        return self._silent

    def step(
        self,
        x_BD: Tensor,
        lr: float,
        y_BO: Tensor | None = None,
        *,
        sparsity: float = 1.0,
        k: float | None = None,
        done: float = 1.0,
    ) -> dict[str, Tensor]:
        """As ``Learner.step``; ``sparsity`` means nothing here, since k holds the number of active latents, nor does ``done``."""
        with torch.no_grad():
            y_BO = x_BD if y_BO is None else y_BO
            x_BD, y_BO = (part.tensor_split(self._rows.size)[self._rows.rank] for part in (x_BD, y_BO))
            return self._step(x_BD, lr, y_BO, k)

    def _step(self, x_BD: Tensor, lr: float, y_BO: Tensor, k: float | None) -> dict[str, Tensor]:
        sae, n_rows = self._part, self._rows.total(len(x_BD))
        inner_BD = sae.inner(x_BD)
        nest = sae.nest(inner_BD, self._search(), sae.spec.k if k is None else k)
        variance = self._variance(y_BO)
        hat_BO, errors, losses = sae.around(torch.zeros_like(y_BO), x_BD), [], []
        for pairs in nest.groups:
            hat_BO = hat_BO + self._latents.sum_(pairs.sum_of(sae.W_dec_ND))
            errors.append(hat_BO - y_BO)
            losses.append(self._rows.sum_(squared(errors[-1])) / variance)
        total = sum(weight * loss for weight, loss in zip(nest.weights, losses, strict=True))
        # a pair of group j is in the reconstructions of j and all after it
        found, grad_BO = [], torch.zeros_like(y_BO)
        for pairs, weight, error_BO in reversed(list(zip(nest.groups, nest.weights, errors, strict=True))):
            grad_BO = torch.add(grad_BO, error_BO, alpha=float(2 * weight / variance))
            found.append((pairs, grad_BO))
        bias_grads = {"b_dec_D": self._rows.sum_(grad_BO.sum(0))}
        if sae.spec.skip:
            bias_grads["W_skip_OD"] = self._rows.sum_(grad_BO.T @ x_BD)
        aux = self._aux(inner_BD, errors[nest.main])
        if aux is not None:
            found.append(aux[1:])
            total = total + sae.spec.aux_coefficient * aux[0]
        fired, n_active = torch.zeros_like(self._silent, dtype=torch.int32), torch.zeros((), device=x_BD.device)
        for pairs in nest.groups[: len(nest.groups) if nest.main < 0 else nest.main + 1]:
            active = pairs.pre_P > 0
            fired[pairs.index_P[active] + self._mine.start] = 1
            n_active += active.sum()
        self._update(lr, inner_BD, found, bias_grads)
        sae.learnt(nest, first=bool(self._n_steps == 1))
        self._silent += n_rows
        self._silent.masked_fill_(self._peers.sum_(fired) > 0, 0)
        aux_loss = torch.zeros_like(total) if aux is None else aux[0]
        l0 = self._peers.sum_(n_active) / n_rows
        return {"loss": total, "fvu": losses[nest.main], "l0": l0, "aux_loss": aux_loss}

    def _search(self) -> Search:
        sae = self._part
        return Search(
            sae.W_enc_ND, sae.b_enc_N, self._shadow, sae.scale_N(), self._mine.start, self._whole.n_latents, self._rows, self._latents
        )

    def _variance(self, y_BO: Tensor) -> Tensor:
        """Sum of squared deviations from the mean of all rows."""
        n_rows, sum_O = self._rows.total(len(y_BO)), self._rows.sum_(y_BO.sum(0))
        return (self._rows.sum_(squared(y_BO)) - squared(sum_O) / n_rows).clamp_(min=1e-12)

    def _aux(self, inner_BD: Tensor, error_BO: Tensor) -> tuple[Tensor, Pairs, Tensor] | None:
        """AuxK: the residual modelled by the k_aux strongest dead latents. The residual itself gets no gradient.

        Returns the loss (scaled by how many are dead), its pairs, and its gradient with respect to what they give.
        """
        sae, dead_N = self._part, self._silent >= self._dead_after
        n_dead = int(dead_N.sum())
        if not sae.spec.aux_coefficient or n_dead == 0:
            return None
        k_aux = sae.spec.k_aux or max(1, sae.d_in // 2)
        k, dead, scale_N = min(k_aux, n_dead), dead_N[self._mine].nonzero().squeeze(1), sae.scale_N()
        search = Search(sae.W_enc_ND[dead], sae.b_enc_N[dead], scale_N=None if scale_N is None else scale_N[dead])
        pre, place = search.topk(inner_BD, min(k, len(dead)))
        pairs = Pairs.of(dead[place], pre)
        if self._latents.size > 1:
            score = (pre if scale_N is None else pre * scale_N[dead][place]).view(pre.shape)
            pairs = pairs.where((score >= self._latents.kth_of_rows(score, k)).view(-1))
        off_BO = self._latents.sum_(pairs.sum_of(sae.W_dec_ND)).add_(error_BO)
        variance = self._variance(error_BO)
        scale = min(1.0, n_dead / k_aux)
        loss = scale * self._rows.sum_(squared(off_BO)) / variance
        return loss, pairs, off_BO * (2 * scale * sae.spec.aux_coefficient / variance)

    def _update(self, lr: float, inner_BD: Tensor, found: list[tuple[Pairs, Tensor]], grads: dict[str, Tensor]) -> None:
        """One Adam step. ``found``: pairs, and the gradient with respect to their sum; ``grads``: of weights without rows
        by latent, the encoder's part in ``b_dec_D`` not yet among them."""
        sae, n_rows = self._part, len(inner_BD)
        index_P = _concat([pairs.index_P for pairs, _ in found])
        # the gradient of a pair's sum is a row of all gradients, one below the other
        source_P = _concat([pairs.row_P() + i * n_rows for i, (pairs, _) in enumerate(found)])
        grad_SO = _concat([grad_BO for _, grad_BO in found])
        by_latent = transposed(index_P, sae.n_latents)
        index_P, source_P, pre_P = (
            part[by_latent.order_P] for part in (index_P, source_P, _concat([pairs.pre_P for pairs, _ in found]))
        )
        token_P = source_P if len(found) == 1 else source_P % n_rows
        value_P, d_pre_P = pre_P.relu(), by_latent.product_of(sae.W_dec_ND, grad_SO, source_P).mul_(pre_P > 0)
        zeros_N = torch.zeros_like(sae.b_enc_N)
        grads["b_enc_N"] = self._rows.sum_(zeros_N.index_add(0, index_P, d_pre_P))
        if sae.spec.subtract_b_dec:  # the bias also enters through x - b_dec
            grads["b_dec_D"] = grads["b_dec_D"] - self._latents.sum_(grads["b_enc_N"] @ sae.W_enc_ND)
        # along a row only its length would change: what the gradient has there is known from its pairs
        along_N = zeros_N.index_add(0, index_P, value_P * d_pre_P) if sae.UNIT_ROWS else None

        def blocks() -> Iterator[tuple[slice, Tensor, Tensor]]:
            decoder = by_latent.rows_of(grad_SO, source_P, value_P, _BLOCK, are_sorted=True)
            encoder = by_latent.rows_of(inner_BD, token_P, d_pre_P, _BLOCK, are_sorted=True)
            for (block, d_dec), (_, d_enc) in zip(decoder, encoder, strict=True):
                if along_N is not None:
                    d_dec.addcmul_(sae.W_dec_ND[block], along_N[block, None], value=-1)
                yield block, self._rows.sum_(d_dec), self._rows.sum_(d_enc)

        shrink = None
        if self._clip_norm is not None:
            whole = squared(grads["b_enc_N"]) + sum(squared(d_dec) + squared(d_enc) for _, d_dec, d_enc in blocks())
            whole = self._latents.sum_(whole) + sum(squared(grad) for name, grad in grads.items() if not _by_latent(name))
            shrink = (self._clip_norm / (whole.sqrt() + 1e-6)).clamp(max=1.0)  # as torch's clip_grad_norm_
        self._n_steps += 1
        for block, d_dec, d_enc in blocks():
            W = sae.W_dec_ND[block]
            self._adam("W_dec_ND", d_dec, lr, shrink, block)
            if sae.UNIT_ROWS:
                W.div_(W.norm(dim=-1, keepdim=True).clamp_(min=1e-12))
            self._adam("W_enc_ND", d_enc, lr, shrink, block)
            if self._shadow is not None:
                self._shadow[block] = sae.W_enc_ND[block]
        for name, grad in grads.items():
            self._adam(name, grad, lr, shrink)
        self._is_whole = self._latents.size == 1

    def _adam(self, name: str, grad: Tensor, lr: float, shrink: Tensor | None, block: slice = slice(None)) -> None:
        if shrink is not None:
            grad = grad.mul_(shrink)
        first, second = (moment[block] for moment in self._moments[name])
        torch._fused_adam_(
            [getattr(self._part, name)[block]], [grad], [first], [second], [], [self._n_steps],
            lr=lr, beta1=self._betas[0], beta2=self._betas[1], weight_decay=0.0, eps=_EPSILON, amsgrad=False, maximize=False,
        )  # fmt: skip

    def revive(self, latent_n: Tensor, direction_nD: Tensor) -> None:
        with torch.no_grad():
            self.sae.restart(latent_n, direction_nD)
            here_n = latent_n[(latent_n >= self._mine.start) & (latent_n < self._mine.stop)] - self._mine.start
            for name, moments in self._moments.items():
                for moment in moments if _by_latent(name) else ():
                    moment[here_n] = 0
            self._silent[latent_n] = 0
            self._shadow = self._shadowed()

    def state(self) -> dict[str, Tensor]:
        found = dict(self.sae.weights())
        for name, (first, second) in self._moments.items():
            found |= {f"first.{name}": self._joined(name, first), f"second.{name}": self._joined(name, second)}
        return {**found, "n_steps": self._n_steps, "silent_N": self._silent}

    def load_state(self, state: dict[str, Tensor]) -> None:
        for name, weight in self._whole.weights().items():
            weight.copy_(state[name])
        for name, (first, second) in self._moments.items():
            first.copy_(self._cut(name, state[f"first.{name}"]))
            second.copy_(self._cut(name, state[f"second.{name}"]))
        self._n_steps.copy_(state["n_steps"])
        self._silent.copy_(state["silent_N"])
        self._is_whole, self._shadow = True, self._shadowed()


def _by_latent(name: str) -> bool:
    """Whether a weight has a row, or a number, of each latent: its name's suffix says so."""
    return name.rpartition("_")[2].startswith("N")


def _concat(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
