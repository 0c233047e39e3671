"""What belongs to an SAE in a store: its language model, the windows of its latents, what was said of them, and how well."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from artifacts.errors import ArtifactCorrupt
from artifacts.keys import Artifact, canonical_json
from artifacts.manifest import Manifest
from artifacts.store import Store
from flows.audit import find
from flows.lineage import addressed, manifest_of
from tasks.analysis.naming import titles
from tasks.explain import ORIGIN
from tasks.inspection.known import Known
from tasks.lazy import pa, pq
from tasks.spec import SpecError

if TYPE_CHECKING:
    from pyarrow import Table

FILE = "sae.json"
"""The file that an artifact with an SAE has, whichever stage made it."""


def sae_named(store: Store, name: str | None) -> Manifest:
    """The SAE that a name means, without one the newest. Raises ``SpecError`` for what is none, and where there is none."""
    if name is None:
        saes = [m for m in manifests(store, ("train", "adopt")) if any(file.path == FILE for file in m.files)]
        if not saes:
            raise SpecError(f"store = {store.backend.root}, but it has no SAE; make one with saint run, or saint import")
        return saes[-1]
    manifest = manifest_of(store, find(store, name))
    if not any(file.path == FILE for file in manifest.files):
        raise SpecError(f"{name}, but {manifest.artifact} is no SAE; name one (saint ls train, saint ls adopt)")
    return manifest


def lm_of(store: Store, sae: Manifest) -> Artifact:
    """The language model that an SAE belongs to. Raises ``SpecError`` where it is not in the store, or nobody knows which it was."""
    address = _input(sae, "lm") or next(
        (found for shard in _many(sae, "shards") if (found := _input_of(store, shard, "lm"))), None
    )
    if address is None:  # captures are the first to be cleared away; what was made of the SAE knows the model as well
        own = f"{sae.artifact.stage}/{sae.artifact.key}"
        later = (m for m in manifests(store, ("mine", "evaluate", "encode")) if m.inputs.get("sae") == own)
        address = next((found for m in later if (found := _input(m, "lm"))), None)
    if address is None:
        raise SpecError(
            f"{sae.artifact}, but the activations that it was trained on are gone, and with them which language model it is of; "
            "make them again with the command that made it"
        )
    artifact = addressed(address)
    if store.find(artifact) is None:
        raise SpecError(
            f"{sae.artifact}, but its language model ({artifact}) is not in this store; give the command that made it again"
        )
    return artifact


def manifests(store: Store, stages: Sequence[str]) -> list[Manifest]:
    """Those of some stages, the oldest first; damaged ones are left to ``saint verify``."""
    found = []
    for artifact in store.artifacts():
        if artifact.stage in stages:
            try:
                manifest = store.find(artifact)
            except ArtifactCorrupt:
                continue
            if manifest is not None:
                found.append(manifest)
    return sorted(found, key=lambda m: (m.made_by.get("when", ""), m.artifact))


def sae_of(store: Store, explain: Manifest) -> Artifact | None:
    """The SAE that explanations are of; None where their windows are gone."""
    windows = store.find(addressed(explain.inputs["mine"]))
    return None if windows is None else addressed(windows.inputs["sae"])


def scores_of(explain: Manifest, scores: Sequence[Manifest]) -> list[Manifest]:
    """Scores of some explanations; of several that measure the same, the last in the list."""
    address = f"{explain.artifact.stage}/{explain.artifact.key}"
    return list({measure(m): m for m in scores if m.inputs.get("explain") == address}.values())


def measure(score: Manifest) -> bytes:
    """What makes two scores comparable: scorer, judge and seed, whether with a control or without."""
    return canonical_json({name: value for name, value in score.spec.items() if name != "control"})


@dataclass(frozen=True)
class Said:
    """What a store has on the latents of one SAE."""

    table: Table
    """One row per latent: latent, label, status, confidence, explain (whose label it is), explainer, a column for each scorer,
    and from the newest windows largest (activation) and density. Null where nothing is known."""

    scorers: tuple[str, ...]
    """Names of the scorers' columns."""

    explain: tuple[str, ...] = ()
    """Addresses of the explanations that labels come from, the newest first."""

    def known(self, latents: Iterable[int] | None = None) -> dict[int, Known]:
        """The same by latent, of some or of all."""
        rows = self.table.to_pylist() if latents is None else self.table.take(sorted(set(latents))).to_pylist()
        return {
            row["latent"]: Known(
                row["status"] or "", row["label"] or "", {name: row[name] for name in self.scorers if row[name] is not None},
                row["largest"], row["density"],
            )
            for row in rows
        }  # fmt: skip


def said_of(store: Store, sae: Manifest, explain: str | None = None) -> Said:
    """What is said of the latents of an SAE: of each the newest explanation that the store has, with its scores.

    ``explain`` names explanations that alone are taken. Explanations that mean nothing, of the kinds ``none`` and ``random``,
    are taken only so. Raises ``SpecError`` for a name of something else.
    """
    own = f"{sae.artifact.stage}/{sae.artifact.key}"
    n = int(sae.summary["n_latents"])
    every = manifests(store, ("explain", "score", "mine"))
    if explain is not None:
        chosen = [_explanations_named(store, explain, sae)]
    else:
        mute = ("none", "random")
        chosen = [m for m in every if m.artifact.stage == "explain" and m.spec["explainer"]["kind"] not in mute]
        chosen = [m for m in reversed(chosen) if _sae_address(store, m) == own]
    rows: list[dict[str, Any]] = [
        dict.fromkeys(("label", "status", "confidence", "explain", "explainer", "largest", "density")) for _ in range(n)
    ]
    open_ = set(range(n))
    used: list[Manifest] = []
    for manifest in chosen:
        if not open_:
            break
        columns = ["latent", "status", "label", "confidence"]
        table = pq.read_table(store.open(manifest.artifact).path / "explanations.parquet", columns=columns)
        for row in table.to_pylist():
            latent = row.pop("latent")
            if latent in open_ and (row["status"] == "ok" or rows[latent]["status"] is None):
                rows[latent] |= {**row, "explain": str(manifest.artifact), "explainer": manifest.spec["explainer"]["kind"]}
                open_ -= {latent} if row["status"] == "ok" else set()
                used += [] if used and used[-1] is manifest else [manifest]
    scorers = _scored(store, used, [m for m in every if m.artifact.stage == "score"], rows)
    mined = [m for m in every if m.artifact.stage == "mine" and m.inputs.get("sae") == own]
    if mined:
        columns = ["latent", "max_value", "density"]
        for row in pq.read_table(store.open(mined[-1].artifact).path / "latents.parquet", columns=columns).to_pylist():
            rows[row["latent"]] |= {"largest": row["max_value"], "density": row["density"]}
    text = {name: pa.string() for name in ("label", "status", "explain", "explainer")}
    number = {name: pa.float64() for name in ("confidence", *scorers, "largest", "density")}
    columns = {name: pa.array([row.get(name) for row in rows], type) for name, type in {**text, **number}.items()}
    order = ("latent", "label", "status", "confidence", "explain", "explainer", *scorers, "largest", "density")
    columns["latent"] = pa.array(range(n), pa.int32())
    return Said(pa.table({name: columns[name] for name in order}), scorers, tuple(f"{m.artifact.stage}/{m.artifact.key}" for m in used))


def _scored(store: Store, used: Sequence[Manifest], scores: Sequence[Manifest], rows: list[dict[str, Any]]) -> tuple[str, ...]:
    """Put scores into the rows whose labels they are of, the newest of each scorer; returns the scorers' names."""
    found = [(manifest, score) for manifest in used for score in scores_of(manifest, scores)]
    alike = {measure(score): score for _, score in found}
    names = dict(zip(alike, titles([score.spec for score in alike.values()], "scorer"), strict=True))
    for manifest, score in found:
        table = pq.read_table(store.open(score.artifact).path / "scores.parquet", columns=["latent", "value"])
        for row in table.to_pylist():
            if row["value"] is not None and rows[row["latent"]]["explain"] == str(manifest.artifact):
                rows[row["latent"]][names[measure(score)]] = row["value"]
    return tuple(names.values())


def _explanations_named(store: Store, name: str, sae: Manifest) -> Manifest:
    manifest = manifest_of(store, find(store, name))
    if manifest.artifact.stage != "explain":
        raise SpecError(f"{name}, but {manifest.artifact} is no explanations; name some (saint ls explain)")
    if (of := _sae_address(store, manifest)) != f"{sae.artifact.stage}/{sae.artifact.key}":
        other = "an SAE that is gone" if of is None else str(addressed(of))
        raise SpecError(f"{name}, but {manifest.artifact} explains latents of {other}, not of {sae.artifact}; name some of its own")
    return manifest


def _sae_address(store: Store, explain: Manifest) -> str | None:
    """The SAE that explanations are of, by their windows; where those are gone, by what the explanations say themselves."""
    found = sae_of(store, explain)
    if found is not None:
        return f"{found.stage}/{found.key}"
    metadata = pq.read_schema(store.open(explain.artifact).path / "explanations.parquet").metadata or {}
    return json.loads(metadata.get(ORIGIN, b"{}")).get("sae")


def _many(manifest: Manifest, name: str) -> list[str]:
    value = manifest.inputs.get(name, ())
    return [value] if isinstance(value, str) else list(value)


def _input(manifest: Manifest, name: str) -> str | None:
    return next(iter(_many(manifest, name)), None)


def _input_of(store: Store, address: str, name: str) -> str | None:
    manifest = store.find(addressed(address))
    return None if manifest is None else _input(manifest, name)
