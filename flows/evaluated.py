"""The evaluated SAEs of a store, as rows of a table: what each costs in sparsity, and what it is good for. Plain data out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from artifacts.manifest import Manifest
from artifacts.store import Store
from flows.belongings import FILE, manifests, sae_named
from flows.lineage import addressed
from tasks.compare import fronted
from tasks.spec import SpecError

_FIGURES = ("l0", "fvu", "ce_loss_recovered", "dead_fraction")


def ranked(store: Store, names: Sequence[str] = ()) -> dict[str, Any]:
    """All SAEs of a store that were evaluated, or those that are named, each with whether it is on the Pareto front of its
    model and hookpoint; by hookpoint, then L0. Of several evaluations of one the newest counts.

    Raises ``SpecError`` for a named SAE without an evaluation.
    """
    wanted = [sae_named(store, name).artifact for name in names]
    newest = {m.inputs["sae"]: m for m in manifests(store, ("evaluate",))}
    found = []
    for address, evaluation in newest.items():
        artifact = addressed(address)
        if (not wanted or artifact in wanted) and (sae := store.find(artifact)) is not None:
            found.append(_row(store, sae, evaluation))
    known = {row["train"] for row in found}
    for name, artifact in zip(names, wanted, strict=True):
        if str(artifact) not in known:
            raise SpecError(f"{name}, but this store has no evaluation of {artifact}; saint score {artifact} --report makes one")
    others = [m for m in manifests(store, ("train", "adopt")) if any(file.path == FILE for file in m.files)]
    left = [] if wanted else sorted({str(m.artifact) for m in others} - known)
    models = {row["model"] for row in found}
    for row in found:
        row["settings"] = {"kind": row["kind"], **({"model": row["model"]} if len(models) > 1 else {})}
    rows = fronted(found, place=lambda row: (row["model"], row["hookpoint"]))
    rows.sort(key=lambda row: (row["model"], row["hookpoint"], row["l0"] is None, row["l0"] or 0.0, row["train"]))
    return {"of": "saes", "rows": rows, "not_evaluated": left, "apart": _apart(rows)}


def _row(store: Store, sae: Manifest, evaluation: Manifest) -> dict[str, Any]:
    lm = addressed(evaluation.inputs["lm"])
    model = store.find(lm)
    summary = {**sae.summary, **evaluation.summary}
    kind = sae.spec.get("sae", {}).get("kind") or summary.get("kind")
    if kind is None:
        kind = json.loads((store.open(sae.artifact).path / FILE).read_text())["spec"]["kind"]
    return {
        "job": f"{sae.artifact} ({kind})",
        "train": str(sae.artifact),
        "evaluate": str(evaluation.artifact),
        "kind": kind,
        "model": str(model.summary.get("name") if model is not None else lm),
        "hookpoint": summary.get("hookpoint", ""),
        "n_latents": summary.get("n_latents"),
        **{name: summary.get(name) for name in _FIGURES},
        "scores": {},
        "on": [evaluation.spec, evaluation.inputs["shards"]],
    }


def _apart(rows: list[dict[str, Any]]) -> list[str]:
    """Hookpoints of a model whose SAEs were not all measured on the same rows in the same way. Takes ``on`` out of the rows."""
    measured: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        on = json.dumps(row.pop("on"), sort_keys=True)
        measured.setdefault((row["model"], row["hookpoint"]), set()).add(on)
    return [f"{model} at {hookpoint}" for (model, hookpoint), ways in measured.items() if len(ways) > 1]
