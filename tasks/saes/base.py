"""What every SAE is. Shapes: B tokens, D d_in, N n_latents, K active latents of a token.

A kind is one file: a spec (``TopK``: the numbers that shape it) that builds the dictionary itself (``TopKSAE``).
``SAE`` is a plain object with named tensors rather than an ``nn.Module``: the fast learners update weights in
place, block by block, without autograd, and specs must be readable without importing torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pydantic import Field

from tasks.lazy import torch
from tasks.spec import Spec, SpecError

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.learning import Learner


class Latents(NamedTuple):
    """The K active latents of each token. Sparse, because N is ~10^5 and K ~10^1."""

    index_BK: Tensor
    """int64; distinct within a row, in no particular order. Entries with value 0 are not active."""

    value_BK: Tensor
    """Activation in units of the normalised input; >= 0."""


class SAESpec(Spec):
    """What all kinds of SAE share; each kind adds a field ``kind`` and its own numbers."""

    expansion_factor: float | None = Field(8, gt=0)
    """n_latents / d_in; null when ``n_latents`` is given."""

    n_latents: int | None = Field(None, gt=0)
    """Number of latents; null takes expansion_factor x d_in."""

    def size(self, d_in: int) -> int:
        """The number of latents for inputs of width ``d_in``."""
        return self.n_latents if self.n_latents is not None else round((self.expansion_factor or 1) * d_in)

    def check(self, d_in: int) -> None:
        """Raise ``SpecError`` when the numbers do not fit inputs of width ``d_in``."""

    def build(self, d_in: int, seed: int = 0) -> SAE:
        """A freshly initialised SAE of this kind, float32 on the CPU."""
        raise NotImplementedError


class SAE(ABC):
    """A dictionary and its encoder. Works on normalised inputs; see ``tasks.trained`` for raw ones."""

    TENSORS: ClassVar[tuple[str, ...]] = ("W_enc_ND", "b_enc_N", "W_dec_ND", "b_dec_D")
    """Names of the attributes that hold weights, in the order they are saved."""

    EQUATION: ClassVar[str] = ""
    """The forward pass in one line, written into the saved file so that it explains itself."""

    spec: SAESpec
    d_in: int
    n_latents: int
    W_enc_ND: Tensor
    b_enc_N: Tensor
    W_dec_ND: Tensor
    b_dec_D: Tensor

    @abstractmethod
    def encode(self, x_BD: Tensor) -> Latents:
        """The active latents of some inputs."""

    def decode(self, latents: Latents) -> Tensor:
        """The reconstruction x_BD."""
        rows = torch.nn.functional.embedding_bag(
            latents.index_BK, self.W_dec_ND, per_sample_weights=latents.value_BK.to(self.W_dec_ND.dtype), mode="sum"
        )
        return rows + self.b_dec_D

    def loss(self, x_BD: Tensor, dead_N: Tensor) -> dict[str, Tensor]:
        """Differentiable loss terms, ``total`` among them. For kinds that train by autograd.

        ``dead_N`` is a bool mask of the latents that have been silent for long.
        """
        raise NotImplementedError

    def weights(self) -> dict[str, Tensor]:
        """The weights by name."""
        return {name: getattr(self, name) for name in self.TENSORS}

    def load(self, tensors: dict[str, Tensor]) -> SAE:
        """Take weights by name; returns self. Raises ``SpecError`` for a missing or misshapen one."""
        for name in self.TENSORS:
            if name not in tensors:
                raise SpecError(f"weights have no {name}, but a {type(self).__name__} needs it; load another file")
            setattr(self, name, tensors[name])
        return self

    def to(self, device: Any = None, dtype: Any = None) -> SAE:
        """Move or convert all weights in place; returns self."""
        for name, tensor in self.weights().items():
            setattr(self, name, tensor.to(device=device, dtype=dtype))
        return self

    def learner(self, dead_after_tokens: int) -> Learner:
        """What trains this SAE: by autograd on ``loss``, unless a kind knows a faster way."""
        from tasks.learning import AutogradLearner

        return AutogradLearner(self, dead_after_tokens)
