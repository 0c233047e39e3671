"""Training by autograd on ``SAE.loss``: what every kind has that brings no learner of its own. Shapes as in ``base``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.lazy import F, torch
from tasks.learning.base import fires_in, fvu
from tasks.spec import SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from tasks.saes.base import SAE


class AutogradLearner:
    """Adam on ``SAE.loss``. Where a kind's rows are to have length 1, they are brought back to it after each step."""

    def __init__(
        self,
        sae: SAE,
        dead_after_tokens: int,
        betas: tuple[float, float] = (0.9, 0.999),
        clip_norm: float | None = None,
        autocast: bool = False,
    ) -> None:
        self.sae, self._dead_after, self._clip_norm, self._autocast = sae, dead_after_tokens, clip_norm, autocast
        if sae.UNIT_ROWS:
            sae.with_unit_rows()
        self._silent = torch.zeros(sae.n_latents, dtype=torch.int64, device=sae.W_dec_ND.device)
        self._parameters = {name: tensor.requires_grad_(True) for name, tensor in sae.weights().items()}
        self._adam = torch.optim.Adam(self._parameters.values(), lr=0.0, betas=betas, fused=True)

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
        k: int | None = None,
        done: float = 1.0,
    ) -> dict[str, Tensor]:
        if k is not None:
            raise SpecError(f"k = {k} of a step, but SAEs of kind {self.sae.spec.kind} keep no number of latents; anneal no k")
        found = self._losses(x_BD, y_BO, sparsity, {"done": done} if self.sae.spec.AGES else {})
        fired_N = found.pop("fired_N")
        total = found.pop("total")
        self._adam.zero_grad(set_to_none=True)
        total.backward()
        with torch.no_grad():
            W = self.sae.W_dec_ND
            if self.sae.UNIT_ROWS and W.grad is not None:
                # what would only stretch the rows is undone below, so it should not enter Adam
                W.grad -= (W.grad * W).sum(-1, keepdim=True) * W
            if self._clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(self._parameters.values(), self._clip_norm)
            for group in self._adam.param_groups:
                group["lr"] = lr
            self._adam.step()
            if self.sae.UNIT_ROWS:
                F.normalize(W, dim=-1, out=W)
            self.sae.constrain()
            self._silent += len(x_BD)
            self._silent.masked_fill_(fired_N, 0)
        return {"loss": total.detach(), **{name: value.detach() for name, value in found.items()}}

    def _losses(self, x_BD: Tensor, y_BO: Tensor | None, sparsity: float, age: Mapping[str, float]) -> dict[str, Tensor]:
        """The kind's loss terms, with ``fvu``, ``l0`` and ``fired_N`` of the same weights."""
        sae = self.sae
        with torch.autocast(x_BD.device.type, torch.bfloat16, enabled=self._autocast):
            found = sae.loss(x_BD, self._silent >= self._dead_after, y_BO, sparsity, **age)
        if not {"fvu", "l0", "fired_N"} <= found.keys():
            with torch.no_grad():
                latents = sae.encode(x_BD)
                measured = {
                    "fvu": fvu(x_BD if y_BO is None else y_BO, sae.decode(latents, x_BD)),
                    "l0": (latents.value_BK > 0).sum() / len(x_BD),
                    "fired_N": fires_in(latents, sae.n_latents),
                }
            found = {**measured, **found}
        return found

    def revive(self, latent_n: Tensor, direction_nD: Tensor) -> None:
        with torch.no_grad():
            self.sae.restart(latent_n, direction_nD)
            for name, parameter in self._parameters.items():
                for moment in ("exp_avg", "exp_avg_sq") if "N" in name.rpartition("_")[2] else ():
                    if moment in self._adam.state[parameter]:
                        self._adam.state[parameter][moment][latent_n] = 0
            self._silent[latent_n] = 0

    def state(self) -> dict[str, Tensor]:
        found = {name: tensor.detach() for name, tensor in self._parameters.items()}
        for name, parameter in self._parameters.items():
            found |= {f"adam.{name}.{part}": value for part, value in self._adam.state.get(parameter, {}).items()}
        return {**found, "silent_N": self._silent}

    def load_state(self, state: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in self._parameters.items():
                tensor.copy_(state[name])
            self._silent.copy_(state["silent_N"])
        for name, parameter in self._parameters.items():
            begin = f"adam.{name}."
            held = {full.removeprefix(begin): v.clone() for full, v in state.items() if full.startswith(begin)}
            if held:
                self._adam.state[parameter] = held
