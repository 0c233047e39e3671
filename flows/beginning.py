"""``train.init_from``: training that begins with the weights of an SAE that the store has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from artifacts.store import Store
from flows.lineage import addressed, manifest_of, recipe_of
from tasks.lm.sites import Sites
from tasks.spec import SpecError

if TYPE_CHECKING:
    from flows.config import Pipeline
    from tasks.stage import Recipe

_TAKES = ("train", "adopt")


def named(store: Store, name: str) -> str:
    """``stage/key``, the whole key, of the SAE that somebody typed. Raises ``SpecError`` for what there is not, and for no SAE."""
    from flows.audit import find

    try:
        artifact = find(store, name)
    except SpecError as error:
        raise SpecError(f"train.init_from = {error}") from None
    if artifact.stage not in _TAKES:
        raise SpecError(f"train.init_from = {name!r}, but {artifact} is no SAE; name one of {' or '.join(_TAKES)} (saint ls train)")
    return f"{artifact.stage}/{artifact.key}"


def check(p: Pipeline) -> None:
    """Raise ``SpecError`` where the SAE to begin with does not fit, as far as the store tells without reading weights."""
    from tasks.learning.beginning import check

    store, artifact = p.store, addressed(p.init_from or "")
    manifest = manifest_of(store, artifact)
    facts = p.lm.facts()
    one = Sites.parse(p.hookpoints[0])
    d_in = one.widths(facts)[0] if one.one and facts is not None else None
    there: dict[str, Any] = {name: manifest.summary[name] for name in ("n_latents", "d_in") if name in manifest.summary}
    if artifact.stage == "train":
        there |= {name: manifest.spec["sae"].get(name, p.sae.KEEPS_KEY.get(name)) for name in ("kind", "skip", "subtract_b_dec")}
        norms = manifest.inputs["norm"]
        if isinstance(norms, str) and (norm := store.find(addressed(norms))) is not None:
            there["norm"] = norm.spec
    check(p.sae, p.norm, d_in, there, str(artifact))


def recipe(p: Pipeline) -> Recipe:
    """The recipe of the SAE to begin with."""
    return recipe_of(p.store, addressed(p.init_from or ""))
