"""``sae=load``: an SAE that another tool made, in the place of one that is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.adopt import AdoptSpec
from tasks.kinds import validated
from tasks.saes.base import SAESpec
from tasks.spec import SpecError


def asked(sae: Mapping[str, Any]) -> AdoptSpec | None:
    """The foreign SAE that a configuration asks for, its files found and held fast. Raises ``SpecError``."""
    fields = dict(sae)
    if fields.pop("kind", None) != "load":
        return None
    return validated(AdoptSpec, fields, "sae").pinned()


def shape(adopt: AdoptSpec) -> SAESpec:
    """What is known of it before it is read."""
    sizes = adopt.found.sizes(adopt.files)
    return SAESpec(n_latents=sizes[0] if sizes else None, expansion_factor=None if sizes else 8, subtract_b_dec=False)


def placed(adopt: AdoptSpec, typed: tuple[str, ...], usual: tuple[str, ...]) -> tuple[AdoptSpec, tuple[str, ...]]:
    """It and where it stands: as its files say, else as was typed. Raises ``SpecError`` where these differ.

    ``usual``: what capture.hookpoints are when nobody types any.
    """
    if adopt.hookpoint is None and len(typed) == 1:
        return adopt.model_copy(update={"hookpoint": typed[0]}), typed
    if adopt.hookpoint is None:
        raise SpecError(f"capture.hookpoints = {list(typed)}, but an SAE that is loaded stands at one; name that")
    if typed not in (usual, (adopt.hookpoint,)):
        raise SpecError(
            f"capture.hookpoints = {list(typed)}, but the SAE stands at {adopt.hookpoint!r} as its files say; leave it out, "
            f"or set sae.hookpoint={typed[0]} if they are wrong"
        )
    return adopt, (adopt.hookpoint,)
