"""Any decoder whose blocks are its longest list of like modules: Llama, Qwen, Mistral, Gemma, GPT-2, GPT-NeoX, ..."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from tasks.families.base import Family
from tasks.spec import SpecError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

_ATTN = ("self_attn", "attn", "attention", "self_attention")
_MLP = ("mlp", "feed_forward", "ffn")
_NORM = ("norm", "ln_f", "final_layer_norm", "final_layernorm")
_AFTER = {"self_attn": "post_attention_layernorm", "mlp": "post_feedforward_layernorm"}
"""Norms that Gemma 2 and 3 put between a part's output and the residual stream (Llama uses the first name for the
norm *before* the MLP, so they count only where the second is there too)."""


class Generic(Family):
    """Finds parts by structure and by the few names that transformers gives them."""

    kind: Literal["generic"] = "generic"

    def matches(self, model: Module) -> bool:
        return True

    def blocks(self, model: Module) -> Any:
        import torch

        n_layers = getattr(model.config.get_text_config(), "num_hidden_layers", None)
        lists = [(name, m) for name, m in model.named_modules() if isinstance(m, torch.nn.ModuleList) and len(m)]
        found = [
            (name, m)
            for name, m in lists
            if len({type(block) for block in m}) == 1 and any(hasattr(m[0], part) for part in _ATTN)
        ]
        if not found or (n_layers is not None and len(found[0][1]) != n_layers):
            raise SpecError(
                f"lm = {type(model).__name__!r}, but none of its module lists ({', '.join(n for n, _ in lists)}) looks like "
                "blocks of attention and MLP; add a file to tasks/families/ that says where its blocks lie"
            )
        return found[0][1]

    def mlp(self, block: Module) -> Module:
        return self._part(block, _MLP, "MLP")

    def attn(self, block: Module) -> Module:
        return self._part(block, _ATTN, "attention")

    def final_norm(self, model: Module) -> Module:
        return self._part(model.base_model, _NORM, "final norm")

    def unembedding(self, model: Module) -> Tensor:
        head = model.get_output_embeddings()
        if head is None:
            raise SpecError(f"lm = {type(model).__name__!r}, but it has no unembedding; use a causal language model")
        return head.weight

    def _part(self, parent: Module, names: tuple[str, ...], what: str) -> Module:
        for name in names:
            part = getattr(parent, name, None)
            if part is not None:
                after = getattr(parent, _AFTER.get(name, ""), None) if hasattr(parent, _AFTER["mlp"]) else None
                return after if after is not None else part
        inner = [n for n, _ in parent.named_children()]
        raise SpecError(
            f"{type(parent).__name__} has {', '.join(inner)}, but none of them is known as its {what}; "
            "add a file to tasks/families/ that says which is"
        )
