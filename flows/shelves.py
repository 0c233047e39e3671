"""The artifacts of a store that the latents of an SAE are browsed from."""

from __future__ import annotations

from collections.abc import Sequence

from artifacts.manifest import Manifest
from artifacts.store import Opened, Store
from flows.belongings import FILE, manifests, measure, sae_named, scores_of
from flows.lineage import addressed
from tasks.analysis.naming import titles
from tasks.browsing.shelf import Explained, Shelf
from tasks.spec import SpecError

MUTE = ("none", "random")
"""Explainers whose labels mean nothing, and are no labels to browse by."""


def browsable(store: Store, names: Sequence[str] = ()) -> list[Manifest]:
    """SAEs of a store that there are windows of, the newest first; or those that are named, in that order.

    Raises ``SpecError`` for a name of none, and where there is no SAE to look at.
    """
    mined = {manifest.inputs.get("sae") for manifest in manifests(store, ("mine",))}
    if names:
        found = list({m.artifact: m for m in (sae_named(store, name) for name in names)}.values())
        for manifest in found:
            if _address(manifest) not in mined:
                raise SpecError(
                    f"{manifest.artifact}, but there are no windows of it to look at; make them with saint explain {manifest.artifact}"
                )
        return found
    found = [m for m in reversed(manifests(store, ("train", "adopt"))) if any(file.path == FILE for file in m.files)]
    found = [m for m in found if _address(m) in mined]
    if not found:
        raise SpecError(f"store = {store.backend.root}, but it has no SAE with windows to look at; make one with saint run")
    return found


def shelf_of(store: Store, sae: Manifest) -> Shelf:
    """All that the store has on an SAE: its newest windows, every explanation of it, each with its scores.

    Raises ``SpecError`` where there are no windows.
    """
    own = _address(sae)
    every = manifests(store, ("mine", "explain", "score"))
    mined = [m for m in every if m.artifact.stage == "mine" and m.inputs.get("sae") == own]
    if not mined:
        raise SpecError(f"{sae.artifact}, but there are no windows of it to look at; make them with saint explain {sae.artifact}")
    windows = {_address(m) for m in mined}
    said = [m for m in reversed(every) if m.artifact.stage == "explain" and m.inputs["mine"] in windows]
    said = [m for m in said if m.spec["explainer"]["kind"] not in MUTE]
    scores = [m for m in every if m.artifact.stage == "score"]
    scored = {m.artifact: scores_of(m, scores) for m in said}
    alike = {measure(score): score for m in said for score in scored[m.artifact]}
    names = dict(zip(alike, titles([score.spec for score in alike.values()], "scorer"), strict=True))
    explained = [
        Explained(store.open(m.artifact), name, {names[measure(s)]: store.open(s.artifact) for s in scored[m.artifact]})
        for m, name in zip(said, titles([m.spec for m in said], "explainer"), strict=True)
    ]
    return Shelf(store.open(mined[-1].artifact), tuple(explained), store.open(sae.artifact), _corpus(store, mined[-1]))


def _corpus(store: Store, mined: Manifest) -> Opened | None:
    """The corpus that windows were cut from, by what they were encoded of; None where that, or it, is gone."""
    encoded = mined.inputs.get("encoded", ())
    for address in [encoded] if isinstance(encoded, str) else encoded:
        found = store.find(addressed(address))
        shard = found and found.inputs.get("shard")
        first = shard[0] if isinstance(shard, list) and shard else shard
        capture = store.find(addressed(first)) if isinstance(first, str) else None
        corpus = capture and capture.inputs.get("corpus")
        if isinstance(corpus, str) and store.find(addressed(corpus)) is not None:
            return store.open(addressed(corpus))
    return None


def _address(manifest: Manifest) -> str:
    return f"{manifest.artifact.stage}/{manifest.artifact.key}"
