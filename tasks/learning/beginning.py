"""Training that begins with the weights of an SAE that there is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tasks.spec import SpecError

if TYPE_CHECKING:
    from tasks.lm.sites import Sites
    from tasks.norms.base import Norm
    from tasks.saes.base import SAE, SAESpec
    from tasks.trained import TrainedSAE

_SHARED = ("skip", "subtract_b_dec")


def check(sae: SAESpec, norm: Norm, d_in: int | None, there: Mapping[str, Any]) -> None:
    """Raise ``SpecError`` where an SAE is not of the kind, shape and norm that are wanted.

    ``there``: what is known of it (kind, d_in, n_latents, skip, subtract_b_dec, and the norm's payload); ``d_in`` None where
    nobody knows it yet.
    """
    wanted: dict[str, Any] = {"kind": sae.kind}  # type: ignore[attr-defined]
    if d_in is not None:
        wanted |= {"d_in": d_in, "n_latents": sae.size(d_in)}
    wanted |= {name: getattr(sae, name) for name in _SHARED} | {"norm": norm.payload()}
    for name, here in wanted.items():
        if name in there and there[name] != here:
            raise SpecError(
                f"train.init_from names an SAE with {_said(name)} {_shown(there[name])}, but this run has {_shown(here)}; begin with "
                f"another SAE, or {'use that model' if name == 'd_in' else f'set {_typed(name)} to its own'}"
            )


def begun(sae: SAESpec, norm: Norm, d_in: int, sites: Sites, old: TrainedSAE) -> SAE:
    """An SAE of the kind ``sae`` with the weights of another, which works under the other's norm. Raises ``SpecError`` where it
    does not fit."""
    if old.sites.one != sites.one or (not sites.one and old.sites != sites):
        raise SpecError(
            f"train.init_from names an SAE of {old.sites}, but this run trains at {sites}; SAEs of several hookpoints are trained on "
            "where they stand"
        )
    spec = old.sae.spec
    there = {"kind": spec.kind, "d_in": old.sae.d_in, "n_latents": old.sae.n_latents}
    there |= {name: getattr(spec, name) for name in _SHARED}
    for one in {old.norm_at(hookpoint) for hookpoint in sites.hookpoints} if not sites.one else {old.norm}:
        check(sae, norm, d_in, {**there, "norm": one.norm.payload()})
    return sae.holding({name: tensor.clone() for name, tensor in old.sae.weights().items()})


def _typed(name: str) -> str:
    return "norm" if name == "norm" else f"sae.{name}"


def _said(name: str) -> str:
    return "rows of width" if name == "d_in" else _typed(name)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        more = ", ".join(f"{name} {number}" for name, number in value.items() if name != "kind")
        return f"{value['kind']!r}" + (f" ({more})" if more else "")
    return repr(value)
