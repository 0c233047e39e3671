"""Hooks: functions that see, and may replace, what modules of a language model read and give. Shapes: B contexts, T tokens, D width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from artifacts.errors import ArtifactError
from tasks.lazy import torch
from tasks.lm.hookpoints import Hookpoint

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.lm.language_model import LanguageModel


class Edit(NamedTuple):
    """A change of one activation on its way through the model, or a look at it."""

    hookpoint: str
    change: Callable[[Tensor], Tensor | None]
    """x_BTD to x_BTD; None leaves it as it is."""


_INPUTS = ("z", "resid_mid", "mlp_in", "mlp_act")
"""Sites that are the input of a module; the others are the output of one."""


def hooked(module: Any, edit: Edit) -> Any:
    """Put an edit where its hookpoint is: at the output of a module, or at its input. Returns what takes it away again."""
    at = Hookpoint.parse(edit.hookpoint)
    if reads_input(at):
        hook = _on_input(edit.change, in_place=at.site == "resid_mid")
        return module.register_forward_pre_hook(hook, with_kwargs=True)
    return module.register_forward_hook(_on_output(edit.change))


def reads_input(at: Hookpoint) -> bool:
    """Whether a hookpoint is the input of its module, not the output."""
    return at.layer < 0 or at.site in _INPUTS


def _on_output(change: Callable[[Tensor], Tensor | None]) -> Callable[..., Any]:
    def hook(_module: Any, _inputs: Any, output: Any) -> Any:
        # transformers 5 blocks return a tensor, attention a tuple; 4.x blocks a tuple
        found = change(output[0] if isinstance(output, tuple) else output)
        if found is None:
            return None
        return (found, *output[1:]) if isinstance(output, tuple) else found

    return hook


def _on_input(change: Callable[[Tensor], Tensor | None], in_place: bool) -> Callable[..., Any]:
    """The hook of a module's first argument. ``in_place``: the caller goes on with the same tensor (a block adds the MLP's output to
    what the norm before it has read), so that what replaces it is written into it."""

    def hook(_module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        x = arguments[0] if arguments else named["hidden_states"]
        found = change(x)
        if found is None:
            return None
        if in_place:
            x.copy_(found)
            return None
        return ((found, *arguments[1:]), named) if arguments else ((), {**named, "hidden_states": found})

    return hook


def check_hooks(lm: LanguageModel, hookpoints: Sequence[str] = ()) -> None:
    """See ``LanguageModel.check_hooks``."""
    n = len(lm.blocks)
    n_tokens = min(16, lm.model.config.get_text_config().max_position_embeddings or 16)
    draw = torch.Generator().manual_seed(0)
    token_BT = torch.randint(0, lm.model.config.get_text_config().vocab_size, (2, n_tokens), generator=draw)
    mask_BT = torch.ones_like(token_BT, dtype=torch.bool)
    between = [at.layer for at in map(Hookpoint.parse, hookpoints) if at.site == "resid_mid"]
    parts = [str(Hookpoint(layer, site)) for layer in between for site in ("attn", "resid_mid")]
    seen = lm.activations(token_BT, mask_BT, [*(f"layers.{i}" for i in range(n)), *parts])
    with torch.inference_mode():
        states = lm.model.base_model(
            input_ids=token_BT.to(lm.device), use_cache=False, output_hidden_states=True
        ).hidden_states
    for layer in range(n - 1):
        ours, theirs = seen[f"layers.{layer}"].float(), states[layer + 1].float()
        worst = (ours - theirs).abs().max().item() if ours.shape == theirs.shape else float("inf")
        scale = theirs.abs().max().item()
        if not worst <= 1e-2 * scale + 1e-6:
            raise ArtifactError(
                f"{lm.name}: the hook at layers.{layer} sees {tuple(ours.shape)} values that differ by up to "
                f"{worst:.3g} from hidden_states[{layer + 1}] {tuple(theirs.shape)}, but they must agree; "
                "add a file for this model to tasks/families/"
            )
    for layer in between:
        added, mid = (seen[str(Hookpoint(layer, site))].double() for site in ("attn", "resid_mid"))
        gap = mid - states[layer].double()
        share = (gap * added).sum() / added.square().sum().clamp_min(1e-30)
        worst, scale = (gap - share * added).abs().max().item(), mid.abs().max().item()
        if not (worst <= 1e-2 * scale + 1e-6 and share > 0):
            raise ArtifactError(
                f"{lm.name}: the hook at layers.{layer}.resid_mid sees values that differ by up to {worst:.3g} from the "
                "residual stream before the block with what attention adds, but they must agree; add a file for this model to "
                "tasks/families/"
            )


def gain_of(norm: Any) -> Tensor | None:
    """What a norm multiplies each number by, float32; None for what is no norm, or has none."""
    gain = getattr(norm, "weight", None)
    if gain is None or gain.dim() != 1:
        return None
    # Gemma's norms multiply by 1 + weight
    return gain.float() + 1 if "gemma" in type(norm).__name__.lower() else gain.float()


def widths_of(projection: Any) -> tuple[int, int]:
    """Numbers that a linear module reads, and gives. GPT-2's keep their weight the other way round."""
    if hasattr(projection, "in_features"):
        return projection.in_features, projection.out_features
    d_in, d_out = projection.weight.shape
    return d_in, d_out
