"""Families of architectures: where the parts of a model lie. Most models need no file of their own; see ``generic``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


class Family(Spec):
    """Finds the parts of a causal language model of transformers 5."""

    def matches(self, model: Module) -> bool:
        """Whether this family knows where the parts of the model lie."""
        raise NotImplementedError

    def blocks(self, model: Module) -> Any:
        """The ``ModuleList`` of blocks."""
        raise NotImplementedError

    def mlp(self, block: Module) -> Module:
        """The module whose output the MLP adds to the residual stream."""
        raise NotImplementedError

    def attn(self, block: Module) -> Module:
        """The module whose output attention adds to the residual stream."""
        raise NotImplementedError

    def final_norm(self, model: Module) -> Module:
        """The norm between the last block and the unembedding."""
        raise NotImplementedError

    def unembedding(self, model: Module) -> Tensor:
        """The weight [vocabulary, d_model] that turns the normed residual stream into logits."""
        raise NotImplementedError
