"""From latents as typed to a steering recipe: which SAE is meant, how strong a latent has been seen, what it was said to mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from artifacts.manifest import Manifest
from artifacts.store import Store
from flows.belongings import Said, lm_of, manifests, sae_named, said_of
from flows.steered import WEIGHTS
from tasks.inspection.known import Known
from tasks.kinds import validated
from tasks.spec import SpecError
from tasks.steering.push import HOLDS, Mode
from tasks.steering.recipe import SteeringRecipe


@dataclass(frozen=True)
class Wish:
    """A latent that is to be turned."""

    latent: int
    strength: float
    """Multiple of its largest activation."""

    mode: Mode = "add"
    largest: float | None = None
    """Its largest activation; None: as this store has it."""

    sae: str | None = None
    """Its SAE as typed (``train/3f2a``); None: the first."""

    def __post_init__(self) -> None:
        if self.mode in HOLDS and not self.strength:
            raise SpecError(
                f"{self.latent}={self.strength:g}:{self.mode}, but a strength of 0 is off in every mode; use {self.latent}=ablate "
                "(in Python mode='ablate', strength 1) to take it out, or leave it out"
            )


def recipe_of(
    store: Store,
    saes: Sequence[str],
    wishes: Iterable[Wish],
    prompts: Sequence[Any],
    *,
    explain: str | None = None,
    **settings: Any,
) -> SteeringRecipe:
    """The recipe for some wishes. ``saes`` are names as typed, the first of them that of wishes that name none.

    ``settings`` are fields of ``SteeringRecipe``: seed, temperature, top_p, n_tokens, positions, dtype, name. Raises ``SpecError``.
    """
    wishes = list(wishes)
    names = list(dict.fromkeys([*saes, *(wish.sae for wish in wishes if wish.sae is not None)]))
    found = {name: sae_named(store, name) for name in names}
    lms = {lm_of(store, manifest): name for name, manifest in found.items()}
    if len(lms) > 1:
        said = ", ".join(f"{name} of {lm}" for lm, name in lms.items())
        raise SpecError(f"saes = {said}, but they are of different language models; steer one model")
    said: dict[str, Said] = {}
    pushes = []
    for wish in wishes:
        name = wish.sae or names[0]
        manifest = found[name]
        n = int(manifest.summary["n_latents"])
        if not 0 <= wish.latent < n:
            raise SpecError(f"latent = {wish.latent}, but {manifest.artifact} has latents 0 to {n - 1}; use one of them")
        if name not in said:
            said[name] = said_of(store, manifest, explain if name == names[0] else None)
        known = said[name].known([wish.latent])[wish.latent]
        pushes.append(
            {
                "sae": address_of(manifest), "latent": wish.latent, "strength": wish.strength, "mode": wish.mode,
                "largest": largest_of(store, manifest, wish, known), "label": known.label[:1000],
            }
        )  # fmt: skip
    (lm,) = lms
    about = store.find(lm)
    assert about is not None, "lm_of has seen it"
    body = {
        "lm": described_lm(about),
        "saes": list({address_of(m): described(m) for m in found.values()}.values()),
        "pushes": pushes,
        "prompts": list(prompts),
        **settings,
    }
    return validated(SteeringRecipe, body, "recipe")


def largest_of(store: Store, sae: Manifest, wish: Wish, known: Known) -> float:
    """The largest activation that a wish counts in. Raises ``SpecError`` where it needs one and nobody knows it."""
    largest = wish.largest
    if largest is None:
        largest = known.largest if known.largest is not None else _largest_seen(store, sae, wish.latent)
    if not largest and wish.strength and wish.mode != "ablate":
        none = f"this store has no windows of {sae.artifact} (saint explain makes them)"
        raise SpecError(
            f"latent = {wish.latent}, but its largest activation is not known: {none if largest is None else 'it was never active'}; "
            f"give it, as in {wish.latent}={wish.strength:g}x2.5, or in Python unit='activation'"
        )
    return largest or 0.0


def address_of(manifest: Manifest) -> str:
    """An artifact's address as recipes have it, with the whole key."""
    return f"{manifest.artifact.stage}/{manifest.artifact.key}"


def described_lm(manifest: Manifest) -> dict[str, str]:
    """A language model as a recipe names it: fields of ``RecipeLM``."""
    about = manifest.summary
    return {"artifact": address_of(manifest), "name": str(about.get("name") or about.get("hub_id") or manifest.artifact)[:200]}


def described(manifest: Manifest) -> dict[str, Any]:
    """An SAE as a recipe names it: fields of ``RecipeSAE``."""
    return {
        "artifact": address_of(manifest),
        "hookpoint": manifest.summary["hookpoint"],
        "n_latents": int(manifest.summary["n_latents"]),
        "digest": next(file.digest for file in manifest.files if file.path == WEIGHTS),
    }


def _largest_seen(store: Store, sae: Manifest, latent: int) -> float | None:
    """The largest activation in what was encoded with the SAE, where nothing was mined of it yet; None where nothing was."""
    from tasks.mining.cache import Encoded

    found = [m for m in manifests(store, ("encode",)) if m.inputs.get("sae") == address_of(sae)]
    largest = None
    for manifest in found:
        shard = Encoded.open(store.open(manifest.artifact))
        first, last = shard.offsets[latent : latent + 2]
        largest = max(largest or 0.0, float(shard.value[first:last].max()) if last > first else 0.0)
    return largest
