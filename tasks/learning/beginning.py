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


_ONE_LENGTH = 1e-4
"""By what share of their mean decoder rows may differ that count as of one length."""


def check(sae: SAESpec, norm: Norm, d_in: int | None, there: Mapping[str, Any], name: str) -> None:
    """Raise ``SpecError`` where the SAE called ``name`` is not of the kind, shape and norm that are wanted.

    ``there``: what is known of it (kind, d_in, n_latents, skip, subtract_b_dec, and the norm's payload); ``d_in`` None where
    nobody knows it yet.
    """
    wanted: dict[str, Any] = {"kind": sae.kind}  # type: ignore[attr-defined]
    if d_in is not None:
        wanted |= {"d_in": d_in, "n_latents": sae.size(d_in)}
    wanted |= {name: getattr(sae, name) for name in _SHARED} | {"norm": norm.payload()}
    for what, here in wanted.items():
        if what in there and there[what] != here:
            raise SpecError(
                f"train.init_from = {name!r}, but that SAE has {_said(what)} {_shown(there[what])} and this run has {_shown(here)}; "
                f"{_use(what, there[what])}, or begin with another SAE"
            )


def begun(sae: SAESpec, norm: Norm, d_in: int, sites: Sites, old: TrainedSAE, name: str) -> SAE:
    """An SAE of the kind ``sae`` with the weights of another, called ``name``, which works under the other's norm. Raises
    ``SpecError`` where it does not fit, and where training could not begin with what it does."""
    if old.sites.one != sites.one or (not sites.one and old.sites != sites):
        raise SpecError(
            f"train.init_from = {name!r}, but that SAE is of {old.sites} and this run trains at {sites}; SAEs of several hookpoints "
            "are trained on where they stand"
        )
    spec = old.sae.spec
    there = {"kind": spec.kind, "d_in": old.sae.d_in, "n_latents": old.sae.n_latents}
    there |= {name: getattr(spec, name) for name in _SHARED}
    for one in {old.norm_at(hookpoint) for hookpoint in sites.hookpoints} if not sites.one else {old.norm}:
        check(sae, norm, d_in, {**there, "norm": one.norm.payload()}, name)
    held = spec.holding({what: tensor.clone() for what, tensor in old.sae.weights().items()})
    _even(sae, held, name)
    return sae.holding(held.weights())


def _even(sae: SAESpec, held: SAE, name: str) -> None:
    """Bring decoder rows to length 1 where that changes nothing that ``held`` does, and training would do it. Raises ``SpecError``
    where it would change which latents are chosen: kinds whose latents compete by pre-activation."""
    free, were_free = (getattr(one, "rescale_by_row_norm", None) for one in (sae, held.spec))
    if free is None or (free and were_free):
        return
    length_N = held.W_dec_ND.norm(dim=-1)
    length_n = length_N[length_N > 0]
    if were_free or len(length_n) == 0 or float(length_n.max() - length_n.min()) <= _ONE_LENGTH * float(length_n.mean()):
        held.with_unit_rows()
    elif not free:
        raise SpecError(
            f"train.init_from = {name!r}, but that SAE has decoder rows of lengths from {length_n.min():.4g} to {length_n.max():.4g}, "
            "and to bring them to one would change which latents are active; use sae.rescale_by_row_norm=true"
        )


def _said(what: str) -> str:
    return {"d_in": "rows of width", "norm": "norm"}.get(what, f"sae.{what}")


def _use(what: str, there: Any) -> str:
    if what == "d_in":
        return "use that model"
    if what == "norm":
        return f"use norm={there['kind']}" + (" with its numbers" if len(there) > 1 else "")
    return f"use sae={there}" if what == "kind" else f"use sae.{what}={str(there).lower()}"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        more = ", ".join(f"{name} {number}" for name, number in value.items() if name != "kind")
        return f"{value['kind']!r}" + (f" ({more})" if more else "")
    return repr(value)
