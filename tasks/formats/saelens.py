"""SAELens: a folder with cfg.json and sae_weights.safetensors; of version 6 and before.

Source: sae-lens 6.54.12 (PyPI), files of ``save_inference_model`` (what is published) and of ``save_model`` (a training
checkpoint, whose scale is in activation_scaler.json or activation_whitening.safetensors beside it). W_enc is (d_in, d_sae),
W_dec (d_sae, d_out). Architectures whose latents are no sparse code of one token of values >= 0 are refused: abstopk keeps
signs, matching_pursuit searches step by step, temporal reads a whole sequence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from tasks.formats._files import Files, Tensors, number
from tasks.formats._folding import Affine, prefixes, raw, rescaled, single_site, unit_chosen
from tasks.formats._hooks import lens, ours
from tasks.formats.base import Format, Given, Portable, found_sae, portable
from tasks.lazy import torch
from tasks.norms.base import FittedNorm, Norm
from tasks.norms.layer_norm import LayerNorm
from tasks.norms.length import Length
from tasks.norms.none import NoNorm
from tasks.spec import SpecError

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.norms._sites import SiteNorms

CONFIG, NAME = "cfg.json", "sae_weights.safetensors"

_KINDS = {
    "standard": "standard", "gated": "gated", "jumprelu": "jumprelu", "topk": "topk", "batchtopk": "batchtopk",
    "matryoshka_batchtopk": "matryoshka", "transcoder": "standard", "skip_transcoder": "standard",
    "jumprelu_transcoder": "jumprelu", "jumprelu_skip_transcoder": "jumprelu",
}  # fmt: skip
"""Architecture to a kind of ours."""

_WRITTEN = {
    ("standard", False): "transcoder", ("standard", True): "skip_transcoder",
    ("jumprelu", False): "jumprelu_transcoder", ("jumprelu", True): "jumprelu_skip_transcoder",
}  # fmt: skip
"""Kind, and whether it has a skip connection, to the architecture of an SAE that writes elsewhere than it reads."""

_REFUSED = {
    "abstopk": "keeps the signs of its latents",
    "matching_pursuit": "finds its latents one after another",
    "temporal": "reads whole sequences",
}

_OLD = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "activation_fn_str": "activation_fn"}
"""Names of settings before version 6, to those since."""


class _Config(NamedTuple):
    """cfg.json, in the terms of version 6."""

    architecture: str
    settings: Mapping[str, Any]
    metadata: Mapping[str, Any]


class SAELens(Format):
    """A folder of SAELens."""

    SAYS: ClassVar[str] = f"{CONFIG} and {NAME}"
    WEIGHTS: ClassVar[tuple[str, ...]] = (NAME,)
    WRITES: ClassVar[tuple[str, ...]] = ("standard", "gated", "jumprelu", "topk", "batchtopk", "matryoshka")

    kind: Literal["saelens"] = "saelens"

    def matches(self, files: Files) -> bool:
        return files.has(CONFIG, NAME)

    def hookpoint(self, files: Files) -> str | None:
        metadata = _config(files).metadata
        return ours(metadata.get("hook_name"), metadata.get("hook_name_out"))

    def read(self, files: Files, given: Given) -> Portable:
        architecture, settings, metadata = config = _config(files)
        if architecture not in _KINDS:
            why = f", which {_REFUSED[architecture]}" if architecture in _REFUSED else ""
            raise files.wrong(
                CONFIG, f"says architecture = {architecture!r}{why}", f"no kind here is one; there are {', '.join(_KINDS)}"
            )
        if metadata.get("hook_head_index") is not None:
            raise files.wrong(
                CONFIG, f"says hook_head_index = {metadata['hook_head_index']}", "SAEs of one attention head are not read"
            )
        held = Tensors(files, NAME, "SAELens")
        if (factor := held.found.get("scaling_factor", held.found.get("finetuning_scaling_factor"))) is not None and not (
            isinstance(factor, torch.Tensor) and torch.allclose(factor.float(), torch.ones(()))
        ):
            raise files.wrong(NAME, "has a scaling_factor of finetuning that is not 1", "such SAEs are not read")
        kind, is_transcoder = _KINDS[architecture], "transcoder" in architecture
        out = "O" if is_transcoder else "D"
        tensors = {"b_dec_D": held.take("b_dec", shape=out)}
        for theirs, name in _latent_tensors(kind).items():
            tensors[name] = held.take(theirs, shape="N")
        tensors["W_dec_ND"] = held.take("W_dec", shape="N" + out)
        tensors["W_enc_ND"] = held.take("W_enc", shape="DN", turn=True)
        if skip := "skip" in architecture:
            tensors["W_skip_OD"] = held.take("W_skip", shape="OD")
        fields: dict[str, Any] = {
            "skip": skip, "subtract_b_dec": bool(settings.get("apply_b_dec_to_input", not is_transcoder))
        }  # fmt: skip
        if kind in ("batchtopk", "matryoshka"):
            tensors["threshold"] = _threshold(files, held, given)
            if kind == "matryoshka":
                widths = [int(w) for w in settings.get("matryoshka_widths") or ()]
                fields["prefixes"] = prefixes([b - a for a, b in zip([0, *widths], widths, strict=False)], held.size("N"))
        elif kind == "jumprelu":
            log = "threshold" not in held and "log_threshold" in held
            threshold = held.take("log_threshold" if log else "threshold", shape="N")
            tensors["threshold_N"] = (threshold.exp() if log else threshold).clamp_min(0)
        if kind in ("topk", "batchtopk", "matryoshka"):
            k = given.k or number(settings.get("k"))
            if k is None:
                raise files.wrong(CONFIG, f"says no k, and {architecture} needs it", "set sae.k=... to its active latents per token")
            fields["k"] = int(k) if kind == "topk" else k
        notes: list[str] = []
        tensors, norm = _unscaled(files, config, given, tensors, fields, notes)
        sae = found_sae(kind, tensors, **fields)
        about = {
            "architecture": architecture,
            "model": metadata.get("model_name"),
            "dataset": metadata.get("dataset_path"),
            "context_tokens": metadata.get("context_size"),
            "hook": metadata.get("hook_name"),
            "hook_out": metadata.get("hook_name_out"),
            "sae_lens_version": metadata.get("sae_lens_version"),
            "notes": notes,
        }
        return portable(sae, ours(metadata.get("hook_name"), metadata.get("hook_name_out")), about, norm)

    def write(self, it: Portable, folder: Path) -> list[str]:
        from safetensors.torch import save_file

        kind, lost = it.sae.spec.kind, []
        single_site(it, "SAELens")
        if getattr(it.sae.spec, "groupmax", False):
            raise SpecError("sae.groupmax = true, but SAELens has no groupmax; export to sparsify")
        normalize = _named_norm(it.norm)
        sae = unit_chosen(it.sae) if normalize != "none" else raw(it).sae
        at, _, to = (it.hookpoint or "").partition(":")
        is_transcoder = bool(to) or sae.d_in != sae.d_out or sae.spec.skip
        architecture = "jumprelu" if kind in ("batchtopk", "matryoshka") else kind
        if is_transcoder:
            if normalize != "none" or (architecture, sae.spec.skip) not in _WRITTEN:
                with_norm = f" with norm {normalize}" if normalize != "none" else ""
                raise SpecError(
                    f"sae.kind = {kind!r}, but SAELens has no transcoders of that kind{with_norm}; "
                    f"{'export to sparsify, or ' if kind == 'topk' else ''}train it with sae=standard or sae=jumprelu and norm=rms"
                )
            architecture = _WRITTEN[architecture, sae.spec.skip]
            sae = raw(it, subtract=False).sae
        weights = sae.weights()
        found = {"W_enc": weights["W_enc_ND"].T, "W_dec": weights["W_dec_ND"], "b_dec": weights["b_dec_D"]}
        found |= {theirs: weights[name] for theirs, name in _latent_tensors(kind).items()}
        if sae.spec.skip:
            found["W_skip"] = weights["W_skip_OD"]
        if kind == "jumprelu":
            found["threshold"] = weights["threshold_N"]
        if kind in ("batchtopk", "matryoshka"):
            found["threshold"] = weights["threshold"].expand(sae.n_latents)
            lost.append(f"SAELens uses a {kind} SAE as jumprelu with one threshold for all; its k is not kept")
        config = {
            "architecture": architecture, "d_in": sae.d_in, "d_sae": sae.n_latents, "dtype": "float32", "device": "cpu",
            "apply_b_dec_to_input": sae.spec.subtract_b_dec, "normalize_activations": normalize,
            "reshape_activations": "hook_z" if at.endswith(".z") else "none",
            "metadata": {
                "sae_lens_version": "6.0.0", "sae_lens_training_version": None,
                "model_name": it.about.get("model"), "dataset_path": it.about.get("dataset"),
                "context_size": it.about.get("context_tokens"), "hook_name": lens(at) if at else None, "hook_head_index": None,
                "prepend_bos": True,
            },
        }  # fmt: skip
        if is_transcoder:
            config["d_out"] = sae.d_out
            config["metadata"]["hook_name_out"] = lens(to) if to else None  # type: ignore[index]
        if kind == "topk":
            config |= {"k": sae.spec.k, "rescale_acts_by_decoder_norm": False}
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.detach().float().contiguous().clone() for name, tensor in found.items()}, folder / NAME)
        (folder / CONFIG).write_text(json.dumps(config, indent=1))
        return lost


def _latent_tensors(kind: str) -> dict[str, str]:
    """Their names to ours of what has a number for each latent."""
    if kind == "gated":
        return {"b_gate": "b_gate_N", "b_mag": "b_mag_N", "r_mag": "r_mag_N"}
    return {"b_enc": "b_enc_N"}


def _config(files: Files) -> _Config:
    found = {_OLD.get(name, name): value for name, value in files.json(CONFIG).items()}
    for name in ("metadata", "activation_fn_kwargs"):
        if not isinstance(found.get(name) or {}, Mapping):
            raise files.wrong(CONFIG, f"says {name} = {str(found[name])[:80]}, which is no object with settings", "copy it again")
    metadata = {**found, **(found.get("metadata") or {})}
    architecture = str(found.get("architecture") or "standard")
    kwargs = found.get("activation_fn_kwargs") or {}
    if found.get("activation_fn") == "topk" and kwargs.get("k") is not None:  # so before version 6, beside standard
        architecture, found = "topk", {**found, "k": kwargs["k"]}
    if isinstance(found.get("normalize_activations"), bool):
        found["normalize_activations"] = "expected_average_only_in" if found["normalize_activations"] else "none"
    return _Config(architecture, found, metadata)


def _threshold(files: Files, held: Tensors, given: Given) -> Tensor:
    """The one threshold of a BatchTopK training checkpoint."""
    if given.threshold is not None:
        return torch.tensor(given.threshold)
    if "topk_threshold" not in held:
        raise files.wrong(NAME, "has no topk_threshold, above which latents are active", "set sae.threshold=... to it")
    return held.take("topk_threshold").clamp_min(0)


def _unscaled(
    files: Files, config: _Config, given: Given, tensors: dict[str, Tensor], fields: Mapping[str, Any], notes: list[str]
) -> tuple[dict[str, Tensor], Norm]:
    """The weights for activations as the model makes them, and the norm that is left."""
    wanted = config.settings.get("normalize_activations") or "none"
    by_length = "topk" in config.architecture and bool(config.settings.get("rescale_acts_by_decoder_norm"))
    scaler = files.json("activation_scaler.json") if files.has("activation_scaler.json") else {}
    scale = given.scale or number(scaler.get("scaling_factor"))
    if wanted == "covariance_whitening" and (scaler.get("has_whitening") or files.has("activation_whitening.safetensors")):
        found = Tensors(files, "activation_whitening.safetensors", "SAELens", D=tensors["W_enc_ND"].shape[1])
        mean, there, back = (found.take(n, shape=s) for n, s in (("mean", "D"), ("matrix", "DD"), ("inverse_matrix", "DD")))
        affine = Affine(there.T.double(), -(mean.double() @ there.double()), back.T.double(), mean.double())
        if by_length:
            rescaled(tensors)  # before, as SAELens does it: whitening turns rows, and their lengths would be others
        notes.append("the whitening of activations is folded into the weights")
        return affine.folded(tensors, bool(fields["subtract_b_dec"])), NoNorm()
    norm: Norm = NoNorm()
    if wanted == "layer_norm":
        norm = LayerNorm(epsilon=1e-5, epsilon_back=False)
    elif wanted == "constant_norm_rescale":
        norm = Length()
    elif wanted not in ("none", "expected_average_only_in"):
        raise files.wrong(CONFIG, f"says normalize_activations = {wanted!r}", "none, layer_norm and constant_norm_rescale are read")
    else:
        if scale is None and wanted != "none":
            raise files.wrong(
                CONFIG, f"says normalize_activations = {wanted!r}, and no file says by what activations were multiplied",
                "set sae.scale=... to it (sqrt(d_in) over their mean norm), or to 1 where the weights have it in them",
            )  # fmt: skip
        if scale not in (None, 1.0):
            notes.append(f"the scale of activations, {scale:.6g}, is folded into the weights")
            tensors = {**tensors, "W_enc_ND": tensors["W_enc_ND"] * scale}
            tensors |= {name: tensors[name] / scale for name in ("W_dec_ND", "b_dec_D")}
            if "threshold" in tensors and by_length:
                tensors["threshold"] = tensors["threshold"] / scale  # in units of rows, which got shorter
    if by_length:
        rescaled(tensors)
    return tensors, norm


def _named_norm(fitted: FittedNorm | SiteNorms) -> str:
    """Their name of a norm that each token has for itself; ``none`` for all others, which fold."""
    norm = fitted.norm if isinstance(fitted, FittedNorm) else None
    if isinstance(norm, LayerNorm) and norm.epsilon == 1e-5 and not norm.epsilon_back:
        return "layer_norm"
    return "constant_norm_rescale" if isinstance(norm, Length) else "none"
