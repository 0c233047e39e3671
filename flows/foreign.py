"""``sae=load``: an SAE that another tool made, in the place of one that is trained."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from tasks.adopt import AdoptSpec, check_sizes, fitting, looked_at
from tasks.kinds import validated
from tasks.lms.base import Facts
from tasks.saes.base import SAESpec
from tasks.spec import SpecError

READ_BYTES = 1 << 30
"""Size of files that are read when a run is composed, to find what is wrong with them before any work."""


def asked(sae: Mapping[str, Any]) -> AdoptSpec | None:
    """The foreign SAE that a configuration asks for, its files found and held fast. Raises ``SpecError``."""
    fields = dict(sae)
    if fields.pop("kind", None) != "load":
        return None
    return validated(AdoptSpec, fields, "sae").pinned()


def shape(adopt: AdoptSpec) -> SAESpec:
    """What is known of it before it is read. Raises ``SpecError`` for one without latents."""
    sizes = adopt.found.sizes(adopt.files)
    if sizes and 0 in sizes:
        raise adopt.files.wrong(adopt.found.weights(adopt.files), f"has {sizes[0]} latents of d_in {sizes[1]}", "copy it again")
    return SAESpec(n_latents=sizes[0] if sizes else None, expansion_factor=None if sizes else 8, subtract_b_dec=False)


def placed(adopt: AdoptSpec, typed: tuple[str, ...]) -> tuple[AdoptSpec, tuple[str, ...]]:
    """It and where it stands: as its files say, else as was typed. Raises ``SpecError`` where these differ, or are silent both.

    ``typed``: capture.hookpoints, empty where nobody typed any.
    """
    if adopt.hookpoint is None and not typed:
        raise SpecError("sae.hookpoint is null, but the SAE's files do not say where it stands; set sae.hookpoint=layers.N")
    if adopt.hookpoint is None and len(typed) == 1:
        return adopt.model_copy(update={"hookpoint": typed[0]}), typed
    if adopt.hookpoint is None:
        raise SpecError(f"capture.hookpoints = {list(typed)}, but an SAE that is loaded stands at one; name that")
    if typed not in ((), (adopt.hookpoint,)):
        raise SpecError(
            f"capture.hookpoints = {list(typed)}, but the SAE stands at {adopt.hookpoint!r} as its files say; leave it out, "
            f"or set sae.hookpoint={typed[0]} if they are wrong"
        )
    return adopt, (adopt.hookpoint,)


@lru_cache(maxsize=8)
def check(adopt: AdoptSpec, facts: Facts | None) -> None:
    """Raise ``SpecError`` for all that stage ``adopt`` would: an SAE of up to ``READ_BYTES`` is read and tried before any work.

    Of a larger one only its header is looked at. Of jobs that have one SAE, the first alone looks.
    """
    files = adopt.files
    if sum((files.top / name).stat().st_size for name in files.names) <= READ_BYTES:
        looked_at(fitting(adopt, adopt.read(), facts and facts._asdict()).trained)
    elif facts is not None and (sizes := adopt.found.sizes(files)):
        check_sizes(str(adopt.hookpoint), sizes[1], None, facts._asdict())
