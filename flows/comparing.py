"""What is to be compared, found in a store: explanations of one SAE, or scores of the same explanations. Plain data out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, TypeVar

from artifacts.keys import Artifact
from artifacts.manifest import Manifest
from artifacts.store import Store
from flows.audit import find
from flows.belongings import manifests, measure, sae_of, scores_of
from flows.lineage import addressed, manifest_of
from flows.runs import recorded
from tasks.analysis import contrast
from tasks.analysis.estimates import mean
from tasks.analysis.naming import titles
from tasks.choosing import chosen
from tasks.explain import explanations
from tasks.lazy import pa, pc, pq
from tasks.spec import SpecError

T = TypeVar("T")

_NAMES = "explanations (explain/...), scores (score/...), an analysis (analyse/...), an SAE (train/...), or a run"


@dataclass
class Side:
    """One of those compared."""

    name: str
    """As typed."""

    explain: Manifest
    scores: list[Manifest] = field(default_factory=list)
    single: bool = False
    """Whether a score was named, and not explanations with all their scores."""

    title: str = ""


def compared(store: Store, names: Sequence[str], latents: str | tuple[int, ...] = "all") -> dict[str, Any]:
    """The comparison of two or more artifacts or runs, on all their latents or some. Raises ``SpecError`` for what does not
    compare."""
    if len(names) < 2:
        raise SpecError(f"saint compare {' '.join(names)}, but it takes two or more; name {_NAMES}")
    catalogue = manifests(store, ("explain", "score"))
    sides = [_side(store, name, catalogue) for name in names]
    saes = [_sae(store, side) for side in sides]
    for side, sae in zip(sides, saes, strict=True):
        if sae != saes[0]:
            raise SpecError(
                f"{sides[0].name} and {side.name}, but they are of two SAEs ({saes[0]} and {sae}), whose latents have nothing "
                "to do with one another; name explanations or scores of one SAE, or nothing but SAEs"
            )
    for one, other in combinations(sides, 2):
        same = one.explain.artifact == other.explain.artifact
        if same and not (one.single and other.single):
            raise SpecError(
                f"{one.name} and {other.name}, but both mean {one.explain.artifact}; name others, or two scores of it"
            )
        if same and one.scores[0].artifact == other.scores[0].artifact:
            raise SpecError(f"{one.name} and {other.name}, but both are {one.scores[0].artifact}; name two different ones")
    mined = store.open(addressed(sides[0].explain.inputs["mine"]))
    some = None if latents == "all" else frozenset(chosen(latents, mined, "latents"))
    if all(side.explain.artifact == sides[0].explain.artifact for side in sides):
        return {"of": "judges", "sae": str(saes[0]), **_judges(store, sides, some)}
    return {"of": "explainers", "sae": str(saes[0]), **_explainers(store, sides, some)}


def _only(found: dict[int, T], some: frozenset[int] | None) -> dict[int, T]:
    return found if some is None else {latent: value for latent, value in found.items() if latent in some}


# explainers


def _explainers(store: Store, sides: Sequence[Side], some: frozenset[int] | None) -> dict[str, Any]:
    _entitle(sides, [side.explain.spec for side in sides], "explainer")
    said = [_only(explanations(store.open(side.explain.artifact)), some) for side in sides]
    every = list({measure(m): m for side in sides for m in side.scores}.values())
    scorers = dict(zip(map(measure, every), titles([m.spec for m in every], "scorer"), strict=True))
    values = [{scorers[measure(m)]: _only(_values(store, m), some) for m in side.scores} for side in sides]
    density = _density(store, sides[0])
    pairs = []
    for i, j in combinations(range(len(sides)), 2):
        common = [name for name in scorers.values() if name in values[i] and name in values[j]]
        found = {name: contrast.scores(values[i][name], values[j][name], density) for name in common}
        for figures in found.values():
            for row in figures["largest"]:
                row["first_label"], row["second_label"] = (said[k][row["latent"]].label for k in (i, j))
        labels = contrast.labels(said[i], said[j])
        pairs.append({"first": sides[i].title, "second": sides[j].title, "labels": labels, "scores": found})
    return {"sides": [_told(side, value) for side, value in zip(sides, values, strict=True)], "pairs": pairs,
            "metrics": {scorers[measure(m)]: m.summary.get("metric", "balanced accuracy") for m in every}}  # fmt: skip


def _told(side: Side, values: dict[str, dict[int, float]]) -> dict[str, Any]:
    """What a table says of one side by itself."""
    summary = side.explain.summary
    own = [mean(list(found.values())).json for found in values.values()]
    return {
        "name": side.title, "artifact": str(side.explain.artifact), "model": (side.explain.spec.get("client") or {}).get("model"),
        "n": summary.get("n"), "n_ok": summary.get("n_ok"), "statuses": summary.get("statuses"), "usd": summary.get("usd"),
        "scores": dict(zip(values, own, strict=True)),
    }  # fmt: skip


# judges


def _judges(store: Store, sides: Sequence[Side], some: frozenset[int] | None) -> dict[str, Any]:
    _entitle(sides, [side.scores[0].spec for side in sides], "scorer")
    opened = [store.open(side.scores[0].artifact) for side in sides]
    values = [_only(_values(store, side.scores[0]), some) for side in sides]
    answers = [pq.read_table(one.path / "answers.parquet") for one in opened]
    if some is not None:
        answers = [table.filter(pc.is_in(table["latent"], pa.array(sorted(some), pa.int32()))) for table in answers]
    said, density = explanations(store.open(sides[0].explain.artifact)), _density(store, sides[0])
    pairs = []
    for i, j in combinations(range(len(sides)), 2):
        figures = contrast.scores(values[i], values[j], density)
        for row in figures["largest"]:
            row["first_label"] = row["second_label"] = said[row["latent"]].label
        answered = contrast.judgements(answers[i], answers[j])
        pairs.append({"first": sides[i].title, "second": sides[j].title, "answers": answered, "scores": {"score": figures}})
    told = [
        {
            "name": side.title, "artifact": str(one.artifact), "model": (one.manifest.spec.get("client") or {}).get("model"),
            **{n: one.summary.get(n) for n in ("n", "n_ok", "statuses", "usd")},
            "scores": {"score": mean(list(own.values())).json},
        }
        for side, one, own in zip(sides, opened, values, strict=True)
    ]  # fmt: skip
    metrics = {"score": " / ".join(dict.fromkeys(one.summary.get("metric", "balanced accuracy") for one in opened))}
    return {"explain": str(sides[0].explain.artifact), "sides": told, "pairs": pairs, "metrics": metrics}


# finding


def _entitle(sides: Sequence[Side], specs: Sequence[dict[str, Any]], noun: str) -> None:
    for side, title in zip(sides, titles(specs, noun), strict=True):
        side.title = title


def _side(store: Store, name: str, catalogue: Sequence[Manifest]) -> Side:
    runs = {run["id"]: run for run in recorded(store)}
    if name in runs or (name == "last" and runs):
        return _of_run(store, name, runs.get(name) or list(runs.values())[-1], catalogue)
    artifact = find(store, name)
    if artifact.stage == "score":
        manifest = manifest_of(store, artifact)
        return Side(name, _explained(store, name, addressed(manifest.inputs["explain"])), [manifest], single=True)
    if artifact.stage == "analyse":
        manifest = manifest_of(store, artifact)
        scores = [manifest_of(store, addressed(address)) for address in manifest.inputs["scores"]]
        return Side(name, _explained(store, name, addressed(manifest.inputs["explain"])), scores)
    if artifact.stage in ("train", "adopt"):
        of_it = [m for m in catalogue if m.artifact.stage == "explain" and sae_of(store, m) == artifact]
        if not of_it:
            raise SpecError(f"{name}, but this store has no explanations of {artifact}; saint explain {artifact} makes some")
        return Side(name, of_it[-1], scores_of(of_it[-1], catalogue))
    if artifact.stage != "explain":
        raise SpecError(f"{name}, but {artifact} does not compare; name {_NAMES}")
    manifest = manifest_of(store, artifact)
    return Side(name, manifest, scores_of(manifest, catalogue))


def _of_run(store: Store, name: str, run: dict[str, Any], catalogue: Sequence[Manifest]) -> Side:
    made = list(dict.fromkeys(named["explain"] for named in run["wanted"].values() if "explain" in named))
    if len(made) != 1:
        raise SpecError(f"{name}, but that run has explanations of {len(made)} SAEs; name explanations (saint ls explain)")
    manifest = _explained(store, name, addressed(made[0]))
    return Side(name, manifest, scores_of(manifest, catalogue))


def _explained(store: Store, name: str, artifact: Artifact) -> Manifest:
    manifest = store.find(artifact)
    if manifest is None:
        raise SpecError(f"{name}, but its explanations ({artifact}) are not in this store; give the command that made it again")
    return manifest


def _sae(store: Store, side: Side) -> Artifact:
    sae = sae_of(store, side.explain)
    if sae is None:
        raise SpecError(
            f"{side.name}, but the windows that it was made of ({addressed(side.explain.inputs['mine'])}) are gone, and with them "
            "which SAE they were of; make them again with the command that made it"
        )
    return sae


def _density(store: Store, side: Side) -> dict[int, float]:
    opened = store.open(addressed(side.explain.inputs["mine"]))
    rows: Iterator[dict[str, Any]] = iter(pq.read_table(opened.path / "latents.parquet", columns=["latent", "density"]).to_pylist())
    return {row["latent"]: row["density"] for row in rows}


def _values(store: Store, score: Manifest) -> dict[int, float]:
    table = pq.read_table(store.open(score.artifact).path / "scores.parquet", columns=["latent", "value"])
    return {row["latent"]: row["value"] for row in table.to_pylist() if row["value"] is not None}
