"""Training by autograd on ``SAE.loss``: what every kind has that brings no learner of its own. Shapes as in ``base``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.lazy import F, torch
from tasks.learning.base import fires_in, fvu

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.saes.base import SAE


class AutogradLearner:
    """Adam on ``SAE.loss``, decoder rows brought back to unit norm after each step."""

    def __init__(self, sae: SAE, dead_after_tokens: int, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self.sae, self._dead_after = sae, dead_after_tokens
        self._silent = torch.zeros(sae.n_latents, dtype=torch.int64, device=sae.W_dec_ND.device)
        self._parameters = [tensor.requires_grad_(True) for tensor in sae.weights().values()]
        self._adam = torch.optim.Adam(self._parameters, lr=0.0, betas=betas, fused=True)

    @property
    def silent_N(self) -> Tensor:
        return self._silent

    def step(self, x_BD: Tensor, lr: float) -> dict[str, Tensor]:
        for group in self._adam.param_groups:
            group["lr"] = lr
        losses = self.sae.loss(x_BD, self._silent >= self._dead_after)
        self._adam.zero_grad(set_to_none=True)
        losses["total"].backward()
        W = self.sae.W_dec_ND
        with torch.no_grad():
            if W.grad is not None:  # what would only stretch the rows is undone below, so it should not enter Adam
                W.grad -= (W.grad * W).sum(-1, keepdim=True) * W
        self._adam.step()
        with torch.no_grad():
            F.normalize(W, dim=-1, out=W)
            latents = self.sae.encode(x_BD)
            fired = fires_in(latents, self.sae.n_latents)
            self._silent += len(x_BD)
            self._silent[fired] = 0
            found = {name: value.detach() for name, value in losses.items() if name != "total"}
            return {
                "loss": losses["total"].detach(),
                "fvu": fvu(x_BD, self.sae.decode(latents)),
                "l0": (latents.value_BK > 0).sum() / len(x_BD),
                **found,
            }

    def state(self) -> dict[str, Tensor]:
        found = {name: tensor.detach() for name, tensor in self.sae.weights().items()}
        for i, parameter in enumerate(self._parameters):
            for name, value in self._adam.state.get(parameter, {}).items():
                found[f"adam.{i}.{name}"] = value
        return {**found, "silent_N": self._silent}

    def load_state(self, state: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in self.sae.weights().items():
                tensor.copy_(state[name])
            self._silent.copy_(state["silent_N"])
        for i, parameter in enumerate(self._parameters):
            held = {n.split(".", 2)[2]: v.clone() for n, v in state.items() if n.startswith(f"adam.{i}.")}
            if held:
                self._adam.state[parameter] = held
