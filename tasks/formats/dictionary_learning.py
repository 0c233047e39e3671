"""dictionary_learning: ae.pt (a pickled state dict) and config.json; also checkpoints/ae_<step>.pt of such a folder.

Source: dictionary-learning 0.1.0 (PyPI) and its repository of August 2025. Linear classes keep encoder.weight (m, d) and
decoder.weight (d, m); Matryoshka and JumpReLU keep W_enc (d, m) and W_dec (m, d). Trap: AutoEncoderTopK has a threshold that
its encoder does not use. Trap: a threshold of -1 was never set, and then every positive value is active.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tasks.formats._files import Files, Tensors, number
from tasks.formats._folding import prefixes, raw, rescaled, single_site
from tasks.formats._hooks import ours
from tasks.formats.base import Format, Given, Portable, found_sae, portable
from tasks.lazy import torch
from tasks.spec import SpecError

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, NAME = "config.json", "ae.pt"

_KINDS = {
    "AutoEncoder": "standard", "AutoEncoderNew": "standard", "GatedAutoEncoder": "gated", "JumpReluAutoEncoder": "jumprelu",
    "AutoEncoderTopK": "topk", "BatchTopKSAE": "batchtopk", "MatryoshkaBatchTopKSAE": "matryoshka",
}  # fmt: skip
"""Its class to our kind."""

_MODULE, _MATRIX = {"W_enc_ND": "encoder.weight", "W_dec_ND": "decoder.weight"}, {"W_enc_ND": "W_enc", "W_dec_ND": "W_dec"}
_NAMES = {
    "AutoEncoder": {**_MODULE, "b_dec_D": "bias", "b_enc_N": "encoder.bias"},
    "AutoEncoderNew": {**_MODULE, "b_dec_D": "decoder.bias", "b_enc_N": "encoder.bias"},
    "GatedAutoEncoder": {
        **_MODULE, "b_dec_D": "decoder_bias", "b_gate_N": "gate_bias", "b_mag_N": "mag_bias", "r_mag_N": "r_mag",
    },
    "JumpReluAutoEncoder": {**_MATRIX, "b_dec_D": "b_dec", "b_enc_N": "b_enc", "threshold_N": "threshold"},
    "AutoEncoderTopK": {**_MODULE, "b_dec_D": "b_dec", "b_enc_N": "encoder.bias"},
    "BatchTopKSAE": {**_MODULE, "b_dec_D": "b_dec", "b_enc_N": "encoder.bias", "threshold": "threshold"},
    "MatryoshkaBatchTopKSAE": {**_MATRIX, "b_dec_D": "b_dec", "b_enc_N": "b_enc", "threshold": "threshold"},
}  # fmt: skip
"""Our names of its tensors."""

_WITHOUT = ("AutoEncoderNew", "JumpReluAutoEncoder")
"""Classes whose encoder reads x and not x - b_dec."""


class DictionaryLearning(Format):
    """A folder, or a file of weights, of dictionary_learning."""

    SAYS: ClassVar[str] = f"{NAME} with {CONFIG} (trainer.dict_class), or the keys of one of its classes; a pickle"
    WEIGHTS: ClassVar[tuple[str, ...]] = (NAME, "ae_*.pt", "*.pt")
    WRITES: ClassVar[tuple[str, ...]] = ("standard", "gated", "jumprelu", "topk", "batchtopk", "matryoshka")

    kind: Literal["dictionary_learning"] = "dictionary_learning"

    def matches(self, files: Files) -> bool:
        if files.has(CONFIG) and isinstance(files.json(CONFIG).get("trainer"), dict):
            return files.has(NAME) or files.one("*.pt") is not None
        name = next((n for n in files.names if n.endswith(".pt")), None)
        return name is not None and (_class(files.keys(name)) is not None or {"ae", "norm_factor"} <= files.keys(name))

    def weights(self, files: Files) -> str:
        return NAME if files.has(NAME) else super().weights(files)

    def hookpoint(self, files: Files) -> str | None:
        return _hookpoint(_trainer(files))

    def read(self, files: Files, given: Given) -> Portable:
        name, trainer = self.weights(files), _trainer(files)
        found, notes = files.tensors(name), []
        factor = None
        if (inner := _nested(files, name)) is not None:  # of its backup_steps: weights unfolded, and how they are to be folded
            found, factor = inner, number(found.get("norm_factor"))
        architecture = given.architecture or trainer.get("dict_class") or _class(found)
        if architecture == "ambiguous":
            raise files.wrong(
                name, "has the keys of AutoEncoderTopK and of BatchTopKSAE alike, and there is no config.json",
                "set sae.architecture to one of them",
            )  # fmt: skip
        if architecture not in _KINDS:
            raise files.wrong(CONFIG, f"says dict_class = {architecture!r}", f"there are {', '.join(_KINDS)}")
        kind, held, names = _KINDS[architecture], Tensors(files, name, architecture, found), _NAMES[architecture]
        tensors = {"b_dec_D": held.take(names["b_dec_D"], shape="D")}
        tensors |= {ours: held.take(theirs, shape="N") for ours, theirs in names.items() if ours.endswith("_N")}
        linear = names["W_enc_ND"] == "encoder.weight"
        tensors["W_enc_ND"] = held.take(names["W_enc_ND"], shape="ND" if linear else "DN", turn=not linear)
        tensors["W_dec_ND"] = held.take(names["W_dec_ND"], shape="DN" if linear else "ND", turn=linear)
        fields: dict[str, Any] = {"subtract_b_dec": architecture not in _WITHOUT}
        if "threshold" in names:
            tensors["threshold"] = _threshold(files, held, given, notes)
        if "threshold_N" in tensors:
            tensors["threshold_N"] = tensors["threshold_N"].clamp_min(0)
        if kind in ("topk", "batchtopk", "matryoshka"):
            k = given.k or number(found.get("k")) or number(trainer.get("k"))
            if k is None:
                raise files.wrong(name, f"has no k, and neither has {CONFIG}", "set sae.k=... to the active latents of a token")
            fields["k"] = int(k)
        if kind == "matryoshka":
            fields["prefixes"] = prefixes([int(n) for n in found.get("group_sizes", ())], held.size("N"))
        if factor is not None:
            for ours_ in set(tensors) - {"W_enc_ND", "W_dec_ND", "r_mag_N"}:
                tensors[ours_] = tensors[ours_] * factor
            notes.append(f"the scale of activations, {factor:.6g}, is folded into biases and threshold")
        if architecture == "AutoEncoder":
            rescaled(tensors)  # as its from_pretrained does
            notes.append("decoder rows are brought to length 1")
        about = {
            "architecture": architecture, "model": trainer.get("lm_name"), "layer": trainer.get("layer"),
            "hook": trainer.get("submodule_name"), "steps": trainer.get("steps"), "notes": notes,
        }  # fmt: skip
        return portable(found_sae(kind, tensors, **fields), _hookpoint(trainer), about)

    def write(self, it: Portable, folder: Path) -> list[str]:
        kind, lost = it.sae.spec.kind, []
        single_site(it, "dictionary_learning")
        if getattr(it.sae.spec, "groupmax", False):
            raise SpecError("sae.groupmax = true, but dictionary_learning has no groupmax; export to sparsify")
        if it.sae.spec.skip or it.sae.d_in != it.sae.d_out or ":" in (it.hookpoint or ""):
            raise SpecError("the SAE is a transcoder, but dictionary_learning has none; export to saelens or sparsify")
        architecture = next((cls for cls, ours_ in _KINDS.items() if ours_ == kind), None)
        if architecture is None:
            raise SpecError(f"sae.kind = {kind!r}, but dictionary_learning has {', '.join(sorted(set(_KINDS.values())))}")
        length_N = raw(it).sae.W_dec_ND.norm(dim=-1)
        if kind == "standard" and not torch.allclose(length_N, torch.ones_like(length_N), atol=1e-5):
            architecture = "JumpReluAutoEncoder"
            lost.append("written as JumpReluAutoEncoder with threshold 0: of an AutoEncoder, loading would bring rows to length 1")
        sae = raw(it, subtract=architecture not in _WITHOUT).sae
        weights = {name: tensor.detach().float() for name, tensor in sae.weights().items()}
        if architecture == "JumpReluAutoEncoder":
            weights.setdefault("threshold_N", torch.zeros(sae.n_latents))
        names = _NAMES[architecture]
        linear = names["W_enc_ND"] == "encoder.weight"
        turned = "W_dec_ND" if linear else "W_enc_ND"
        found = {theirs: (weights[n].T if n == turned else weights[n]).contiguous().clone() for n, theirs in names.items()}
        trainer: dict[str, Any] = {
            "trainer_class": "", "dict_class": architecture, "activation_dim": sae.d_in, "dict_size": sae.n_latents,
            "lm_name": it.about.get("model"), "layer": _layer(it.hookpoint), "submodule_name": it.hookpoint, "device": "cpu",
        }  # fmt: skip
        if kind in ("topk", "batchtopk", "matryoshka"):
            trainer["k"] = max(1, round(sae.spec.k))
            found |= {"k": torch.tensor(trainer["k"], dtype=torch.int32)}
            found.setdefault("threshold", torch.tensor(-1.0))
            if trainer["k"] != sae.spec.k:
                lost.append(f"k = {sae.spec.k:g}, which is whole there: {trainer['k']}")
        if kind == "matryoshka":
            found["group_sizes"] = torch.tensor(sae.spec.widths(sae.n_latents)).diff(prepend=torch.zeros(1, dtype=torch.int64))
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(found, folder / NAME)
        (folder / CONFIG).write_text(json.dumps({"trainer": trainer}, indent=1))
        return lost


def _class(held: Collection[str]) -> str | None:
    """The class whose keys these are; ``ambiguous`` for the two that look alike; None for those of no class of its own."""
    for name in ("GatedAutoEncoder", "MatryoshkaBatchTopKSAE", "AutoEncoder"):
        more = {"group_sizes"} if name == "MatryoshkaBatchTopKSAE" else set()
        if set(_NAMES[name].values()) | more <= set(held):
            return name
    if set(_NAMES["AutoEncoderTopK"].values()) | {"threshold"} <= set(held):
        return "ambiguous"
    return "JumpReluAutoEncoder" if set(_NAMES["JumpReluAutoEncoder"].values()) <= set(held) else None


def _nested(files: Files, name: str) -> dict[str, Any] | None:
    """The state dict inside what ``backup_steps`` writes, which has step, ae, optimizer, config and norm_factor."""
    found = files.tensors(name).get("ae")
    return found if isinstance(found, dict) else None


def _trainer(files: Files) -> dict[str, Any]:
    """The trainer's settings; of a checkpoint, those in the folder above."""
    for folder in (files.top, files.top.parent):
        if (folder / CONFIG).is_file():
            found = Files(folder).json(CONFIG).get("trainer")
            return found if isinstance(found, dict) else {}
    return {}


def _hookpoint(trainer: Mapping[str, Any]) -> str | None:
    layer = trainer.get("layer")
    named = str(trainer.get("submodule_name") or "")
    if found := ours(named):
        return found
    if isinstance(layer, bool) or not isinstance(layer, int):
        return None
    sites = {"mlp": ".mlp", "mlp_out": ".mlp", "attn": ".attn", "attn_out": ".attn"}
    return f"layers.{layer}" + sites.get(named.split("_layer")[0], "")


def _layer(hookpoint: str | None) -> int | None:
    parts = (hookpoint or "").split(".")
    return int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else None


def _threshold(files: Files, held: Tensors, given: Given, notes: list[str]) -> Tensor:
    if given.threshold is not None:
        return torch.tensor(given.threshold)
    found = held.take("threshold")
    if found < 0:
        notes.append("its threshold was never set, so that every positive value is active; set sae.threshold=... to change it")
    return found.clamp_min(0)
