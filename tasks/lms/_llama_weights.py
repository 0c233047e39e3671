"""A Llama's weights from Meta's names, layout and parts to Hugging Face's. D dim, H a matrix's output, h heads, R half a head."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.lazy import torch, transformers
from tasks.progress import Progress
from tasks.spec import SpecError

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.lms.llama_checkpoint import Params

_OUTER = {"tok_embeddings.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}
_BLOCK = {
    "attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj", "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj", "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj", "attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}  # fmt: skip
_TURNED = ("attention.wq", "attention.wk")
_SHARD_BYTES = "5GB"


def converted(
    params: Params, files: Sequence[Path], out: Path, rope_factor: float | None, context_length: int | None, progress: Progress
) -> Any:
    """Write safetensors to ``out``; returns the ``LlamaConfig``. Raises ``SpecError`` for weights that ``params`` do not fit."""
    from huggingface_hub import save_torch_state_dict

    parts = [opened(file) for file in files]
    shapes = _shapes(params, parts)
    tied = _tied(parts, shapes)
    state: dict[str, Tensor] = {}
    dtypes = set()
    with progress.bar("weights", len(shapes), "tensors") as bar:
        for name, shape in shapes.items():
            if not (tied and name == "output.weight"):
                tensor = _whole(name, [part[name] for part in parts], shape, files)
                if not bool(tensor.isfinite().all()):
                    raise SpecError(f"{files[0]}: {name} has values that are not finite; take an undamaged copy of the checkpoint")
                stem = name.split(".", 2)[2].removesuffix(".weight") if name.startswith("layers.") else ""
                state[_renamed(name)] = halves(tensor, shape[0] // params.d_head) if stem in _TURNED else tensor
                dtypes.add(tensor.dtype)
            bar.advance(1)
    out.mkdir(parents=True)
    save_torch_state_dict({name: tensor.contiguous() for name, tensor in state.items()}, out, max_shard_size=_SHARD_BYTES)
    return transformers.LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=shapes["tok_embeddings.weight"][0],
        hidden_size=params.dim,
        intermediate_size=params.d_mlp,
        num_hidden_layers=params.n_layers,
        num_attention_heads=params.n_heads,
        num_key_value_heads=params.n_kv_heads,
        max_position_embeddings=params._replace(vocab_size=shapes["tok_embeddings.weight"][0]).length(context_length),
        rms_norm_eps=params.norm_eps,
        rope_parameters=_rope(params, rope_factor, tied),
        tie_word_embeddings=tied,
        dtype=dtypes.pop() if len(dtypes) == 1 else torch.float32,
    )


def opened(file: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, left on disk until they are read. Runs no code of it. Raises ``SpecError``."""
    try:
        held = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        first = next((line.strip() for line in str(error).splitlines() if "Unsupported" in line or "GLOBAL" in line), "")
        raise SpecError(
            f"{file} is a pickle that holds more than tensors ({first or 'it cannot be read as tensors alone'}), and opening that could "
            "run code; take the checkpoint that Meta published"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        first = next(iter(str(error).splitlines()), "")
        raise SpecError(
            f"{file} ({file.stat().st_size:,} bytes) cannot be read as a checkpoint ({first}); it may be truncated: take another copy"
        ) from None
    if not isinstance(held, dict) or not all(isinstance(value, torch.Tensor) for value in held.values()):
        raise SpecError(f"{file} holds {type(held).__name__} and not tensors by name; take the checkpoint that Meta published")
    return {name: tensor for name, tensor in held.items() if name != "rope.freqs"}  # computed anew


def halves(weight_HD: Tensor, n_heads: int) -> Tensor:
    """Rows of a query or key matrix from pairs that rotate together, side by side, to one half of a head and then the other."""
    n_out, d_in = weight_HD.shape
    return weight_HD.view(n_heads, n_out // n_heads // 2, 2, d_in).transpose(1, 2).reshape(n_out, d_in)


def _shapes(params: Params, parts: Sequence[dict[str, Tensor]]) -> dict[str, tuple[int, ...]]:
    """Name to shape of the whole tensors that ``params`` want. Raises ``SpecError`` where the checkpoint has other names."""
    d, kv = params.dim, params.n_kv_heads * params.d_head
    block = {
        "attention.wq": (d, d), "attention.wk": (kv, d), "attention.wv": (kv, d), "attention.wo": (d, d),
        "feed_forward.w1": (params.d_mlp, d), "feed_forward.w2": (d, params.d_mlp), "feed_forward.w3": (params.d_mlp, d),
        "attention_norm": (d,), "ffn_norm": (d,),
    }  # fmt: skip
    outer = {"tok_embeddings.weight": (_n_tokens(params, parts), d), "norm.weight": (d,)}
    wanted = {**outer, **{f"layers.{i}.{n}.weight": shape for i in range(params.n_layers) for n, shape in block.items()}}
    for i, part in enumerate(parts):
        if absent := [name for name in wanted if name not in part]:
            raise SpecError(
                f"consolidated.{i:02}.pth has no {absent[0]}, but params.json tells of {params.n_layers} layers that have it; take the "
                "params.json that came with the weights"
            )
        if odd := [name for name in part if name not in wanted and name != "output.weight"]:
            raise SpecError(
                f"consolidated.{i:02}.pth has {odd[0]}, which a Llama of {params.n_layers} layers has not; take the params.json that "
                "came with the weights (only text models are known)"
            )
    return {**wanted, "output.weight": wanted["tok_embeddings.weight"]}


def _n_tokens(params: Params, parts: Sequence[dict[str, Tensor]]) -> int:
    if params.vocab_size > 0:
        return params.vocab_size
    held = [part["tok_embeddings.weight"] for part in parts if "tok_embeddings.weight" in part]
    if not held:
        return -1  # told as a missing tensor
    return held[0].shape[0] * (len(parts) if held[0].shape[1] == params.dim else 1)


def _tied(parts: Sequence[dict[str, Tensor]], shapes: dict[str, tuple[int, ...]]) -> bool:
    """Whether embedding and unembedding are one: the checkpoint has no other, or has it twice."""
    if "output.weight" not in parts[0]:
        return True
    return all(part["output.weight"].shape == part["tok_embeddings.weight"].shape for part in parts) and all(
        torch.equal(part["output.weight"], part["tok_embeddings.weight"]) for part in parts
    )


def _whole(name: str, held: Sequence[Tensor], shape: tuple[int, ...], files: Sequence[Path]) -> Tensor:
    """A tensor of its parts: each holds all of it, or an equal share of its rows or its columns."""
    first = tuple(held[0].shape)
    if all(tuple(part.shape) == first for part in held):
        if first == shape:
            return held[0]
        for axis in range(len(shape)):
            if len(first) == len(shape) and first[axis] * len(held) == shape[axis] and _but(first, axis) == _but(shape, axis):
                return torch.cat(list(held), axis)
    where = "" if len(held) == 1 else f" in {len(held)} parts"
    raise SpecError(
        f"{files[0].parent}: {name} has shape {first}{where}, but params.json makes it {shape}; take the params.json that came "
        "with the weights"
    )


def _but(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


def _renamed(name: str) -> str:
    if name in _OUTER:
        return _OUTER[name]
    _, layer, stem = name.removesuffix(".weight").split(".", 2)
    return f"model.layers.{layer}.{_BLOCK[stem]}.weight"


def _rope(params: Params, rope_factor: float | None, tied: bool) -> dict[str, Any]:
    """Rotary embedding; the constants of Llama 3.1 are those of llama-models' ``apply_scaling``."""
    if not params.use_scaled_rope:
        return {"rope_type": "default", "rope_theta": params.rope_theta}
    return {
        "rope_type": "llama3", "rope_theta": params.rope_theta,
        "factor": rope_factor or params.rope_scaling_factor or (32.0 if tied else 8.0),
        "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    }  # fmt: skip
