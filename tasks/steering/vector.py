"""A steering vector for plain transformers: what some pushes add, in the model's own units, and the code that adds it.

A vector is one direction at each place, the same whatever the model reads there. That is all of the mode ``add``; the others
depend on what the SAE makes of each token, and need the SAE. Shapes: O d_out, D width of a hookpoint.
"""

from __future__ import annotations

import json
import keyword
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.lazy import torch
from tasks.lm.hookpoints import Hookpoint
from tasks.lm.hooks import reads_input
from tasks.spec import SpecError
from tasks.steering.push import Positions, Push, check_pushes

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.norms.base import FittedNorm
    from tasks.steering.subject import Subject

CODE = Path(__file__).with_name("standalone.py")
"""What is written beside a vector: a file that needs no SAINT."""

_SCALES = {
    "token": lambda norm: {"of": "population", "epsilon": 1e-6},
    "layer_norm": lambda norm: {"of": "sample", "epsilon": norm.epsilon if norm.epsilon_back else 0.0},
    "length": lambda norm: {"of": "length", "epsilon": 0.0},
}
"""Norms whose scale is each token's own, and what it is."""


def save_vector(subject: Subject, pushes: Sequence[Push], path: Path, positions: Positions = "all", **about: Any) -> Path:
    """Write a safetensors file: a float32 tensor for each place, and JSON under ``steering`` that says what to do with it.

    Raises ``SpecError`` for pushes that are no vector, and where two SAEs need different scales at one place.
    """
    from safetensors.torch import save

    check_pushes(subject.saes, pushes)
    on = [push for push in pushes if push.on]
    if other := next((push for push in on if push.mode != "add"), None):
        raise SpecError(
            f"latent = {other.latent} with mode {other.mode}, but a plain vector adds the same to every token, and what {other.mode} adds "
            "depends on the activation that the SAE sees there; use mode add, or share the recipe"
        )
    found: dict[str, tuple[Tensor, dict[str, Any] | None]] = {}
    for name, sae in subject.saes.items():
        own = [push for push in on if push.sae == name]
        if not own:
            continue
        W_ND = sae.W_dec_ND
        push_O = sum((p.amount * W_ND[p.latent].float() for p in own), W_ND.new_zeros(sae.d_out))
        for hookpoint, part in sae.written(push_O[None]).items():
            if hookpoint in sae.sites.pushed:
                direction_D, scale = _in_the_models_units(sae.norm_at(hookpoint), part, hookpoint)
                before, known = found.get(hookpoint, (0.0, scale))
                if known != scale:
                    raise SpecError(
                        f"hookpoint = {hookpoint!r}, but two SAEs there have norms of different scales, which one vector cannot carry; "
                        "write a vector for each"
                    )
                found[hookpoint] = (before + direction_D, scale)
    if not found:
        raise SpecError("pushes = [], but a vector of nothing steers nowhere; give a latent and a strength")
    modules = {id(module): name for name, module in subject.lm.model.named_modules()}
    entries = [
        {
            "tensor": hookpoint, "hookpoint": hookpoint, "layer": Hookpoint.parse(hookpoint).layer,
            "module": modules[id(subject.lm.place(hookpoint))], "at": _side(hookpoint), "scale": scale,
        }
        for hookpoint, (_, scale) in found.items()
    ]  # fmt: skip
    plan = {
        "format": "saint-steering-vector", "version": 1, "model": subject.lm.name, "positions": positions,
        "special_token_ids": sorted(subject.lm.tokenizer.all_special_ids), "entries": entries, **about,
    }  # fmt: skip
    # one entry of metadata: safetensors writes several in an order that changes from process to process
    tensors = {hookpoint: direction_D.cpu().contiguous() for hookpoint, (direction_D, _) in found.items()}
    path.write_bytes(save(tensors, metadata={"steering": json.dumps(plan)}))
    return path


def save_patch(subject: Subject, pushes: Sequence[Push], path: Path, positions: Positions = "all", **about: Any) -> list[Path]:
    """Write ``path``, a Python file that steers a model of plain transformers, and the vector beside it, which it reads.

    Raises ``SpecError`` for a name that cannot be imported, and what ``save_vector`` does.
    """
    _, beside = patch_files(path)
    vector = save_vector(subject, pushes, beside, positions, **about)
    path.write_text(CODE.read_text("utf-8").replace("from steer import", f"from {path.stem} import").replace("steer.py", path.name)
                    .replace("steer.safetensors", vector.name), "utf-8")  # fmt: skip
    return [path, vector]


def patch_files(path: Path) -> tuple[Path, Path]:
    """A patch and the vector beside it. Raises ``SpecError`` for a name that cannot be imported."""
    if path.suffix != ".py" or not path.stem.isidentifier() or keyword.iskeyword(path.stem):
        raise SpecError(f"patch = {str(path)!r}, but it is Python that others import; name it like my_patch.py")
    return path, path.with_suffix(".safetensors")


def _in_the_models_units(norm: FittedNorm, part_1D: Tensor, hookpoint: str) -> tuple[Tensor, dict[str, Any] | None]:
    """A push with the norm undone, and the scale that each token multiplies it by, where the norm has one per token."""
    if not norm.norm.PER_TOKEN:
        return (norm.invert(part_1D, None) - norm.invert(torch.zeros_like(part_1D), None))[0], None
    kind = norm.norm.payload()["kind"]
    if kind not in _SCALES:
        raise SpecError(
            f"hookpoint = {hookpoint!r}, where the norm {kind} has a scale for each token that no plain vector knows; share the recipe"
        )
    return part_1D[0], _SCALES[kind](norm.norm)


def _side(hookpoint: str) -> str:
    at = Hookpoint.parse(hookpoint)
    if not reads_input(at):
        return "output"
    return "input, in place" if at.site == "resid_mid" else "input"
