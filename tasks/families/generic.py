"""Any decoder whose blocks are its longest list of like modules: Llama, Qwen, Mistral, Gemma, GPT-2, GPT-NeoX, ..."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from tasks.families.base import Family, lacking
from tasks.spec import SpecError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

_ATTN = ("self_attn", "attn", "attention", "self_attention")
_MLP = ("mlp", "feed_forward", "ffn")
_NORM = ("norm", "ln_f", "final_layer_norm", "final_layernorm")
_LAST = ("o_proj", "down_proj", "c_proj", "dense", "dense_4h_to_h", "out_proj", "fc_out", "fc2", "wo", "w2")
"""Projections that attention and MLPs end with; no module has two of these."""

_BETWEEN = ("pre_feedforward_layernorm", "ln_2", "post_attention_layernorm", "ffn_norm")
"""Norms before the MLP, where attention comes first. Gemma 2 and 3 have the first and the third, of which the first it is."""

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

    def mlp_reader(self, block: Module) -> Module:
        return self._named(block, _MLP, "MLP")

    def mlp_output(self, block: Module) -> Module:
        return self._named(self.mlp_reader(block), _LAST, "last projection")

    def attn_output(self, block: Module) -> Module:
        attn = self._named(block, _ATTN, "attention")
        return self._named(getattr(attn, "attention", attn), _LAST, "last projection")  # GPT-Neo has one in another

    def mlp_norm(self, block: Module) -> Module:
        if getattr(block, "use_parallel_residual", False):
            raise SpecError(
                f"{type(block).__name__} computes attention and MLP side by side, but resid_mid is between them; use the residual "
                "stream before or after the block"
            )
        if hasattr(block, _AFTER["mlp"]) and not hasattr(block, _BETWEEN[0]):
            return self.mlp_reader(block)  # OLMo 2 has norms after its parts alone, so that the MLP reads the stream itself
        return self._named(block, _BETWEEN, "norm between attention and MLP")

    def final_norm(self, model: Module) -> Module:
        return self._named(model.base_model, _NORM, "final norm")

    def unembedding(self, model: Module) -> Tensor:
        head = model.get_output_embeddings()
        if head is None:
            raise SpecError(f"lm = {type(model).__name__!r}, but it has no unembedding; use a causal language model")
        return head.weight

    def _part(self, block: Module, names: tuple[str, ...], what: str) -> Module:
        """The module that ends a part: the part itself, or a norm after it."""
        part = self._named(block, names, what)
        name = next(n for n, inner in block.named_children() if inner is part)
        after = getattr(block, _AFTER.get(name, ""), None) if hasattr(block, _AFTER["mlp"]) else None
        return part if after is None else after

    def _named(self, parent: Module, names: tuple[str, ...], what: str) -> Module:
        found = next((part for name in names if (part := getattr(parent, name, None)) is not None), None)
        if found is None:
            raise SpecError(lacking(parent, what))
        return found
