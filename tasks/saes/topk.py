"""TopK SAE: the k largest pre-activations of each token are kept, all others are zero.

Source: Gao et al. 2024, arXiv 2406.04093, sections 2.3 (TopK), A.1 (initialisation) and A.2 (AuxK).
Shapes: B tokens, D d_in, N n_latents, K = k active latents of a token, P (token, latent) pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tasks.lazy import torch
from tasks.learning.base import fires_in, fvu
from tasks.saes.base import SAE, Latents, SAESpec
from tasks.sparse import encode_topk, sampled_product, topk_rows, transposed, weighted_rows
from tasks.spec import SpecError

if TYPE_CHECKING:
    from torch import Tensor

_EPSILON = 1e-8
_BLOCK = 1024
"""Latents whose gradient is made and consumed at once, while it is in the cache."""


class TopK(SAESpec):
    """A TopK SAE with unit-norm decoder rows."""

    MAKES: ClassVar[str] = "TopKSAE"

    kind: Literal["topk"] = "topk"

    k: int = Field(32, ge=1)
    """Active latents of each token."""

    aux_coefficient: float = Field(1 / 32, ge=0)
    """Weight of AuxK, which lets dead latents model what the live ones leave over; 0 turns it off."""

    k_aux: int | None = Field(None, ge=1)
    """Dead latents of each token that AuxK uses; null takes d_in / 2."""

    def check(self, d_in: int, d_out: int | None = None) -> None:
        super().check(d_in, d_out)
        if self.k > self.size(d_in):
            how = f"{self.expansion_factor:g} x d_in {d_in}" if self.n_latents is None else "sae.n_latents"
            raise SpecError(
                f"sae.k = {self.k}, but there are {self.size(d_in)} latents ({how}); "
                "use a smaller k or a larger sae.expansion_factor"
            )


class TopKSAE(SAE):
    """The dictionary of a ``TopK`` spec."""

    EQUATION: ClassVar[str] = "relu(topk(z @ W_enc.T + b_enc, k))"

    spec: TopK

    def encode(self, x_BD: Tensor) -> Latents:
        value, index = encode_topk(self.inner(x_BD), self.W_enc_ND, self.b_enc_N, self.spec.k)
        return Latents(index, value.relu())

    def loss(self, x_BD: Tensor, dead_N: Tensor, y_BD: Tensor | None = None, sparsity: float = 1.0) -> dict[str, Tensor]:
        """The dense definition, for autograd; the learner below is held against it."""
        pre_BN = (x_BD - self.b_dec_D) @ self.W_enc_ND.T + self.b_enc_N
        value, index = pre_BN.topk(self.spec.k, dim=-1)
        x_hat = weighted_rows(index, self.W_dec_ND, value.relu()) + self.b_dec_D
        error = (x_hat - x_BD).detach()
        main = fvu(x_BD, x_hat)
        n_dead, k_aux = int(dead_N.sum()), self.spec.k_aux or max(1, self.d_in // 2)
        aux = torch.zeros((), dtype=x_BD.dtype, device=x_BD.device)
        if self.spec.aux_coefficient and n_dead:
            which = dead_N.nonzero().squeeze(1)
            value, place = pre_BN[:, which].topk(min(k_aux, n_dead), dim=-1)
            aux = fvu(-error, weighted_rows(which[place], self.W_dec_ND, value.relu()))
        scale = min(1.0, n_dead / k_aux)
        return {"total": main + self.spec.aux_coefficient * scale * aux, "aux_loss": aux}

    def learner(self, **options: Any) -> TopKLearner:
        return TopKLearner(self, **options)


class TopKLearner:
    """Adam on the FVU of a TopK SAE, without autograd, in work that grows with K and not with N.

    Each weight's moments decay at every step, as ``torch.optim.Adam`` does it, so that the loss curve is that of the
    dense formulation. Gradients are made block by block over latents and used at once: none is ever held whole.
    """

    def __init__(
        self,
        sae: TopKSAE,
        dead_after_tokens: int = 500_000,
        betas: tuple[float, float] = (0.9, 0.999),
        bf16: bool | None = None,
    ) -> None:
        """``bf16``: search latents in bfloat16, score in float32; None asks the machine whether that is faster."""
        self.sae, self._dead_after, self._betas = sae, dead_after_tokens, betas
        device = sae.W_enc_ND.device
        self._bf16 = fast_bf16(device) if bf16 is None else bf16
        self._silent = torch.zeros(sae.n_latents, dtype=torch.int64, device=device)
        self._moments = {n: (torch.zeros_like(w), torch.zeros_like(w)) for n, w in sae.weights().items()}
        self._n_steps = torch.zeros((), dtype=torch.float32, device=device)
        self._shadow = self._shadowed()

    def _shadowed(self) -> Tensor | None:
        return self.sae.W_enc_ND.to(torch.bfloat16) if self._bf16 else None

    @property
    def silent_N(self) -> Tensor:
        return self._silent

    def step(self, x_BD: Tensor, lr: float) -> dict[str, Tensor]:
        with torch.no_grad():
            return self._step(x_BD, lr)

    def _step(self, x_BD: Tensor, lr: float) -> dict[str, Tensor]:
        sae, n_rows = self.sae, len(x_BD)
        inner_BD = x_BD - sae.b_dec_D
        pre, index = encode_topk(inner_BD, sae.W_enc_ND, sae.b_enc_N, sae.spec.k, self._shadow)
        value = pre.relu()
        error_BD = weighted_rows(index, sae.W_dec_ND, value).add_(sae.b_dec_D).sub_(x_BD)
        variance = squared(x_BD) - n_rows * squared(x_BD.mean(0))
        loss = squared(error_BD) / variance
        grad_BD = error_BD * (2 / variance)
        d_pre = sampled_product(grad_BD, sae.W_dec_ND, index).mul_(pre > 0)
        d_bias_D = grad_BD.sum(0)

        # Pairs: which latent, which token, its activation (for W_dec) and its gradient (for W_enc).
        rows = torch.arange(n_rows, device=x_BD.device).unsqueeze(1)
        pairs = [(index, rows.expand_as(index), value, d_pre)]
        aux, found = self._aux(inner_BD, error_BD)
        if found is not None:
            aux_index, aux_value, aux_d_pre, aux_grad_BD = found
            pairs.append((aux_index, (rows + n_rows).expand_as(aux_index), aux_value, aux_d_pre))
            grad_BD, inner_BD = torch.cat([grad_BD, aux_grad_BD]), torch.cat([inner_BD, inner_BD])
        index_P, row_P, value_P, d_pre_P = (torch.cat([part.reshape(-1) for part in column]) for column in zip(*pairs, strict=True))

        latents = Latents(index, value)
        fired = fires_in(latents, sae.n_latents)
        d_b_enc = torch.zeros_like(sae.b_enc_N).index_add_(0, index_P, d_pre_P)
        d_bias_D = d_bias_D - d_b_enc @ sae.W_enc_ND  # the bias also enters through x - b_dec
        sorted_pairs = transposed(index_P, row_P, sae.n_latents)
        self._n_steps += 1
        decoder = sorted_pairs.rows_of(grad_BD, value_P, _BLOCK)
        encoder = sorted_pairs.rows_of(inner_BD, d_pre_P, _BLOCK)
        for (block, d_dec), (_, d_enc) in zip(decoder, encoder, strict=True):
            W = sae.W_dec_ND[block]
            d_dec.sub_((d_dec * W).sum(-1, keepdim=True) * W)  # along the row only its length would change
            self._adam("W_dec_ND", W, d_dec, lr, block)
            W.div_(W.norm(dim=-1, keepdim=True).clamp_(min=1e-12))
            self._adam("W_enc_ND", sae.W_enc_ND[block], d_enc, lr, block)
            if self._shadow is not None:
                self._shadow[block] = sae.W_enc_ND[block]
        self._adam("b_enc_N", sae.b_enc_N, d_b_enc, lr)
        self._adam("b_dec_D", sae.b_dec_D, d_bias_D, lr)
        self._silent += n_rows
        self._silent.masked_fill_(fired, 0)
        total = loss if aux is None else loss + aux * self.sae.spec.aux_coefficient
        return {
            "loss": total,
            "fvu": loss,
            "l0": (value > 0).sum() / n_rows,
            "aux_loss": torch.zeros_like(loss) if aux is None else aux,
        }

    def _aux(self, inner_BD: Tensor, error_BD: Tensor) -> tuple[Tensor | None, tuple[Tensor, ...] | None]:
        """AuxK: the residual modelled by the k_aux strongest dead latents. The residual itself gets no gradient.

        Returns the loss (scaled by how many are dead) and index, value, gradients of pre-activations and output.
        """
        sae = self.sae
        if not sae.spec.aux_coefficient:
            return None, None
        dead = (self._silent >= self._dead_after).nonzero().squeeze(1)
        if len(dead) == 0:
            return None, None
        k_aux = sae.spec.k_aux or max(1, sae.d_in // 2)
        k = min(k_aux, len(dead))
        pre_Bn = torch.addmm(sae.b_enc_N[dead], inner_BD, sae.W_enc_ND[dead].t())
        pre, place = topk_rows(pre_Bn, k)
        index, value = dead[place], pre.relu()
        off_BD = weighted_rows(index, sae.W_dec_ND, value).add_(error_BD)
        variance = (squared(error_BD) - len(error_BD) * squared(error_BD.mean(0))).clamp_(min=1e-12)
        scale = min(1.0, len(dead) / k_aux)
        grad_BD = off_BD * (2 * scale * sae.spec.aux_coefficient / variance)
        d_pre = sampled_product(grad_BD, sae.W_dec_ND, index).mul_(pre > 0)
        return scale * squared(off_BD) / variance, (index, value, d_pre, grad_BD)

    def _adam(self, name: str, weight: Tensor, grad: Tensor, lr: float, block: slice = slice(None)) -> None:
        first, second = (moment[block] for moment in self._moments[name])
        torch._fused_adam_(
            [weight], [grad], [first], [second], [], [self._n_steps],
            lr=lr, beta1=self._betas[0], beta2=self._betas[1], weight_decay=0.0, eps=_EPSILON, amsgrad=False, maximize=False,
        )  # fmt: skip

    def state(self) -> dict[str, Tensor]:
        found = dict(self.sae.weights())
        for name, (first, second) in self._moments.items():
            found |= {f"first.{name}": first, f"second.{name}": second}
        return {**found, "n_steps": self._n_steps, "silent_N": self._silent}

    def load_state(self, state: dict[str, Tensor]) -> None:
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
        self._shadow = self._shadowed()


def squared(x: Tensor) -> Tensor:
    """Sum of squares, in one pass and without a temporary."""
    flat = x.reshape(-1)
    return flat @ flat


def fast_bf16(device: Any) -> bool:
    """Whether matrix products in bfloat16 are faster than in float32 here: CUDA, and CPUs with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, probe, bool)() for probe in probes)
