"""Llama Scope and its successors: hyperparams.json and checkpoints/final.safetensors; config.json and sae_weights.safetensors.

Sources: arXiv 2410.20526; OpenMOSS/Language-Model-SAEs at f0058a5 (Llama Scope's own loader) and 95281ac (newer files).
Llama Scope: encoder.weight (m, d), decoder.weight (o, m), a scalar threshold. Activations were scaled by
s = sqrt(d) / dataset_average_activation_norm; folding it divides b_enc by s_in, b_dec by s_out, and multiplies decoder rows by
s_in / s_out. Then rows are brought to length 1, the encoder taking on their lengths, and the threshold is compared with what
that gives on raw activations. Trap: rows are not of length 1 in the files, and tools that skip this step get other latents.
Newer files have a logarithm of a threshold for each latent, compared with pre-activation times row length on *scaled*
activations, so it is divided by s_in; W_E (d, m) and W_D (m, o) in the newest. b_dec is never subtracted first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from tasks.formats._files import Files, Tensors, number
from tasks.formats._folding import rescaled
from tasks.formats._hooks import ours
from tasks.formats.base import Format, Given, Portable, found_sae, portable
from tasks.lazy import torch

_OLD, _OLD_NAME = "hyperparams.json", "checkpoints/final.safetensors"
_NEW, _NEW_NAME = "config.json", "sae_weights.safetensors"
_LOG = ("log_jumprelu_threshold", "activation_function.log_jumprelu_threshold")


class LlamaScope(Format):
    """A folder of Llama Scope's, or of Language-Model-SAEs since."""

    SAYS: ClassVar[str] = f"{_OLD} and {_OLD_NAME}, or {_NEW} and {_NEW_NAME} with encoder.weight or W_E"
    WEIGHTS: ClassVar[tuple[str, ...]] = (_OLD_NAME, "final.safetensors", _NEW_NAME)

    kind: Literal["llama_scope"] = "llama_scope"

    def matches(self, files: Files) -> bool:
        if files.has(_OLD, _OLD_NAME):
            return True
        return files.has(_NEW, _NEW_NAME) and bool({"encoder.weight", "W_E"} & files.keys(_NEW_NAME))

    def hookpoint(self, files: Files) -> str | None:
        config = _config(files)
        return ours(config.get("hook_point_in"), config.get("hook_point_out"))

    def read(self, files: Files, given: Given) -> Portable:
        config = _config(files)
        act = config.get("act_fn") or config.get("activation_fn") or "jumprelu"
        if act != "jumprelu":
            raise files.wrong(_OLD if files.has(_OLD) else _NEW, f"says act_fn = {act!r}", "jumprelu is read")
        if config.get("apply_decoder_bias_to_pre_encoder"):
            raise files.wrong(_OLD if files.has(_OLD) else _NEW, "says apply_decoder_bias_to_pre_encoder", "such SAEs are not read")
        name = _OLD_NAME if files.has(_OLD) else _NEW_NAME
        known = {"D": int(d)} if (d := number(config.get("d_model"))) else {}
        held = Tensors(files, name, "Llama Scope", **known)
        newest = "W_E" in held
        tensors = {"b_enc_N": held.take("encoder.bias", "b_E", shape="N")}
        at, to = config.get("hook_point_in"), config.get("hook_point_out")
        if any(bias in held for bias in ("decoder.bias", "b_D")):
            tensors["b_dec_D"] = held.take("decoder.bias", "b_D", shape="O")
        tensors["W_dec_ND"] = (
            held.take("W_D", shape="NO") if newest else held.take("decoder.weight", shape="ON", turn=True)
        )
        tensors["W_enc_ND"] = held.take("W_E", shape="DN", turn=True) if newest else held.take("encoder.weight", shape="ND")
        tensors.setdefault("b_dec_D", torch.zeros(held.size("O")))
        log = next((n for n in _LOG if n in held), None)
        into, out = _scales(files, config, held, given, (at, to))
        if log is not None:
            tensors["threshold_N"] = held.take(log, shape="N").exp() / into
        else:
            threshold = given.threshold if given.threshold is not None else number(config.get("jump_relu_threshold"))
            if threshold is None:
                where = _OLD if files.has(_OLD) else _NEW
                raise files.wrong(where, "says no jump_relu_threshold", "set sae.threshold=... above which latents are active")
            tensors["threshold_N"] = torch.full((held.size("N"),), max(0.0, threshold))
        tensors["b_enc_N"] = tensors["b_enc_N"] / into
        tensors["b_dec_D"] = tensors["b_dec_D"] / out
        tensors["W_dec_ND"] = tensors["W_dec_ND"] * (into / out)
        notes = [f"the scale of activations, {into:.6g}, is folded into the weights"] if into != 1 else []
        if config.get("sparsity_include_decoder_norm", True):
            if log is not None:
                tensors["threshold_N"] = tensors["threshold_N"] * (into / out)  # rows were stretched by it, above
            rescaled(tensors)
            notes.append("decoder rows are brought to length 1")
        about = {
            "architecture": "jumprelu", "model": config.get("model_name") or _model(files.origin), "hook": at, "hook_out": to,
            "notes": notes,
        }  # fmt: skip
        sae = found_sae("jumprelu", tensors, subtract_b_dec=False)
        return portable(sae, self.hookpoint(files), about)


def _config(files: Files) -> dict[str, Any]:
    if files.has(_OLD):
        return files.json(_OLD)
    found = files.json(_NEW)
    inner = found.get("sae") or found.get("sae_config")
    return {**found, **inner} if isinstance(inner, dict) else found


def _scales(
    files: Files, config: Mapping[str, Any], held: Tensors, given: Given, hooks: tuple[Any, Any]
) -> tuple[float, float]:
    """What activations were multiplied by before the encoder, and what the decoder's output is divided by."""
    if given.scale is not None:
        return given.scale, given.scale
    if config.get("norm_activation") in ("none", "inference"):  # inference: it is in the weights already
        return 1.0, 1.0
    norms = config.get("dataset_average_activation_norm")
    norms = norms if isinstance(norms, Mapping) else {}
    at, to = hooks
    into = number(norms.get("in")) or number(norms.get(at)) or number(held.found.get(f"dataset_average_activation_norm.{at}"))
    out = number(norms.get("out")) or number(norms.get(to)) or number(held.found.get(f"dataset_average_activation_norm.{to}"))
    if into is None:
        where = _OLD if files.has(_OLD) else _NEW
        raise files.wrong(
            where, "says no dataset_average_activation_norm, by which activations were scaled",
            "set sae.scale=... to sqrt(d_in) over their mean norm, or to 1 where the weights have it in them",
        )  # fmt: skip
    return held.size("D") ** 0.5 / into, held.size("O") ** 0.5 / (into if out is None or at == to else out)


def _model(origin: str) -> str | None:
    return "Llama-3.1-8B" if "Llama3_1-8B-Base" in origin else None
