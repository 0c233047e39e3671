"""Families of architectures: where the parts of a model lie. Most models need no file of their own; see ``generic``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.spec import Spec, SpecError

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

    def mlp_reader(self, block: Module) -> Module:
        """The module whose input is what the MLP reads, after its norm. Raises ``SpecError`` where there is none."""
        raise SpecError(lacking(block, "MLP"))

    def mlp_output(self, block: Module) -> Module:
        """The projection that reads the MLP's hidden activations. Raises ``SpecError`` where there is none."""
        raise SpecError(lacking(block, "MLP's last projection"))

    def attn_output(self, block: Module) -> Module:
        """The projection that reads the heads' outputs side by side. Raises ``SpecError`` where there is none."""
        raise SpecError(lacking(block, "attention's last projection"))

    def mlp_norm(self, block: Module) -> Module:
        """The norm that reads the residual stream between attention and MLP. Raises ``SpecError`` where there is none."""
        raise SpecError(lacking(block, "norm between attention and MLP"))

    def final_norm(self, model: Module) -> Module:
        """The norm between the last block and the unembedding."""
        raise NotImplementedError

    def unembedding(self, model: Module) -> Tensor:
        """The weight [vocabulary, d_model] that turns the normed residual stream into logits."""
        raise NotImplementedError


def lacking(block: Module, what: str) -> str:
    inner = ", ".join(name for name, _ in block.named_children())
    return f"{type(block).__name__} has {inner}, but none of them is known as its {what}; add a file to tasks/families/ that says which is"
