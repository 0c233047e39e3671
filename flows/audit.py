"""Looking at a store: ls, show, why, verify, gc. Plain data out; ``flows.cli`` prints it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from artifacts.errors import ArtifactCorrupt, ArtifactNotFound
from artifacts.gc import orphans, remove_orphans
from artifacts.keys import SHOWN, Artifact, Key
from artifacts.manifest import Manifest
from artifacts.store import Store
from flows.runs import recorded, told
from tasks.spec import SpecError

PAGES = {"report": "report.html", "compare": "sweep.html"}
"""Stage to the page that people read of it."""


def listed(store: Store, stage: str | None = None) -> dict[str, Any]:
    """Every artifact (or those of one stage), the oldest first, every run, and what crashed attempts left.

    Raises ``SpecError`` for a stage of which there is nothing.
    """
    rows: list[dict[str, Any]] = []
    every = list(store.artifacts())
    if stage is not None and every and stage not in {a.stage for a in every}:
        raise SpecError(f"{stage}, but this store has artifacts of {', '.join(sorted({a.stage for a in every}))}; name one")
    for artifact in every:
        if stage is not None and artifact.stage != stage:
            continue
        try:
            manifest = store.find(artifact)
        except ArtifactCorrupt as error:
            rows.append({"stage": artifact.stage, "key": artifact.key, "corrupt": str(error), "when": ""})
            continue
        if manifest is not None:
            made = manifest.made_by
            rows.append(
                {
                    "stage": artifact.stage,
                    "key": artifact.key,
                    "when": made.get("when", ""),
                    "seconds": made.get("seconds"),
                    "host": made.get("host"),
                    "bytes": manifest.bytes,
                    "summary": manifest.summary,
                }
            )
    rows.sort(key=lambda row: (row["when"], row["stage"], row["key"]))
    runs = [{n: run.get(n) for n in ("id", "when", "status", "seconds", "overrides")} for run in recorded(store)]
    return {"artifacts": rows, "runs": runs, "orphans": _orphans(store)}


def find(store: Store, name: str) -> Artifact:
    """The artifact that a name means: ``stage/prefix``, or a key's first characters. Raises ``SpecError``."""
    stage, _, prefix = name.rpartition("/")
    found = [a for a in store.artifacts() if a.key.startswith(prefix) and stage in ("", a.stage)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise SpecError(f"{name}, but no artifact of this store is called so; saint ls lists them all")
    some = ", ".join(str(a) for a in found[:4])
    raise SpecError(f"{name}, but {len(found)} artifacts are called so ({some}); give more characters")


def shown(store: Store, name: str) -> dict[str, Any]:
    """One artifact's manifest with its metrics, or one run's record (``last``, or its id)."""
    runs = {run["id"]: run for run in recorded(store)}
    if name == "last" and not runs:
        raise SpecError("last, but this store has no run yet; saint run makes one")
    if name == "last" or name in runs:
        run = runs[name] if name in runs else list(runs.values())[-1]
        return {"run": {**told(store, run), "metrics": metrics(store, run)}}
    opened = store.open(find(store, name))
    body = json.loads(opened.manifest.to_bytes())
    body["path"] = str(opened.path)
    if (opened.path / "metrics.json").exists():
        body["metrics"] = json.loads((opened.path / "metrics.json").read_text())
    return {"artifact": body}


def metrics(store: Store, run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Hookpoint to the summaries of a run's stages, as far as they exist."""
    found: dict[str, dict[str, Any]] = {}
    for hookpoint, named in run["wanted"].items():
        found[hookpoint] = {}
        for name, address in named.items():
            manifest = store.find(_artifact(address))
            if manifest is not None:
                found[hookpoint][name] = manifest.summary
    return found


def _artifact(address: str) -> Artifact:
    stage, key = address.split("/")
    return Artifact(stage, Key(key))


def why(store: Store, left: str, right: str) -> list[dict[str, Any]]:
    """Why two artifacts of a stage have different keys: every field that differs, followed back through the inputs."""
    a, b = (_manifest(store, find(store, name)) for name in (left, right))
    if a.artifact.stage != b.artifact.stage:
        raise SpecError(f"{a.artifact} and {b.artifact}, but only artifacts of one stage compare; name two of one stage")
    return list(_differences(store, a, b, a.artifact.stage, set()))


def _manifest(store: Store, artifact: Artifact) -> Manifest:
    manifest = store.find(artifact)
    if manifest is None:
        raise ArtifactNotFound(f"{artifact} does not exist, but its recipe is needed; run the stage that makes it")
    return manifest


def _differences(
    store: Store, a: Manifest, b: Manifest, at: str, seen: set[tuple[Artifact, Artifact]]
) -> Iterator[dict[str, Any]]:
    if (a.artifact, b.artifact) in seen:  # the same pair, met again by another way
        return
    seen.add((a.artifact, b.artifact))
    if a.version != b.version:
        yield {"at": at, "field": "version", "left": a.version, "right": b.version}
    yield from _fields(a.spec, b.spec, at, "")
    for name in sorted({*a.inputs, *b.inputs}):
        left, right = (_listed(m.inputs.get(name)) for m in (a, b))
        if len(left) != len(right):
            yield {"at": at, "field": f"inputs.{name}", "left": f"{len(left)} of them", "right": f"{len(right)} of them"}
            continue
        for one, other in zip(left, right, strict=True):
            if one != other:
                where = f"{at} < {one.split('/')[0]}"
                parents = [store.find(_artifact(x)) for x in (one, other)]
                if parents[0] is None or parents[1] is None:
                    short = [x.split("/")[0] + "/" + x.split("/")[1][:SHOWN] for x in (one, other)]
                    yield {"at": where, "field": "key (recipe deleted)", "left": short[0], "right": short[1]}
                else:
                    yield from _differences(store, parents[0], parents[1], where, seen)
                break  # the first pair that differs says why; its siblings differ for the same reason


def _listed(value: Any) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _fields(a: Any, b: Any, at: str, path: str) -> Iterator[dict[str, Any]]:
    if isinstance(a, dict) and isinstance(b, dict):
        for name in sorted({*a, *b}):
            yield from _fields(a.get(name), b.get(name), at, f"{path}.{name}" if path else name)
    elif a != b or type(a) is not type(b):
        yield {"at": at, "field": path or "spec", "left": a, "right": b}


def verified(store: Store, names: list[str]) -> dict[str, Any]:
    """Every byte of every artifact (or of those named) against its manifest."""
    artifacts = [find(store, name) for name in names] if names else list(store.artifacts())
    faults = [fault for artifact in artifacts for fault in store.verify(artifact)]
    return {
        "checked": len(artifacts),
        "faults": [
            {"stage": f.artifact.stage, "key": f.artifact.key, "file": f.path, "chunk": f.chunk, "why": f.why}
            for f in faults
        ],
    }


def latest_reports(store: Store) -> list[Path]:
    """The pages of the newest run that has come to its end: of a sweep its comparison first, then one for each hookpoint.

    Raises ``SpecError``.
    """
    for run in reversed(recorded(store)):
        finals = [artifact for address in _finals(run) if (artifact := _artifact(address)).stage in PAGES]
        pages = sorted(finals, key=lambda a: a.stage != "compare")
        if pages and all(store.find(page) is not None for page in pages):
            return [store.open(page).path / PAGES[page.stage] for page in pages]
    raise SpecError("saint report, but no run of this store has come to its report yet; saint run makes one")


def _finals(run: dict[str, Any]) -> list[str]:
    """Pages that a run is to end with; records of 0.1 from before sweeps name only reports."""
    return run.get("finals") or [named["report"] for named in run["wanted"].values() if "report" in named]


def garbage(store: Store, unwanted: bool, names: Sequence[str] = ()) -> dict[str, Any]:
    """What could go: the artifacts that are named; or attempts that crashed, and with ``unwanted`` also all
    artifacts that no recorded run rests on."""
    if names:
        named = sorted({find(store, name) for name in names})
        return {"orphans": [], "unwanted": [{"artifact": f"{a.stage}/{a.key}", "bytes": _bytes(store, a)} for a in named]}
    found = []
    if unwanted:
        wanted = {address for run in recorded(store) for address in run["artifacts"]}
        for artifact in store.artifacts():
            if f"{artifact.stage}/{artifact.key}" not in wanted:
                found.append({"artifact": f"{artifact.stage}/{artifact.key}", "bytes": _bytes(store, artifact)})
    return {"orphans": _orphans(store), "unwanted": found}


def _orphans(store: Store) -> list[dict[str, Any]]:
    return [{"artifact": str(o.artifact), "attempt": o.attempt, "bytes": o.bytes} for o in orphans(store)]


def _bytes(store: Store, artifact: Artifact) -> int:
    try:
        return _manifest(store, artifact).bytes
    except ArtifactCorrupt:
        return sum(store.backend.size(path) for path in store.backend.paths(store.home(artifact)))


def collect(store: Store, unwanted: bool, names: Sequence[str] = ()) -> int:
    """Delete what ``garbage`` lists; returns bytes freed."""
    freed = 0 if names else remove_orphans(store)
    for row in garbage(store, unwanted, names)["unwanted"]:
        store.delete(_artifact(row["artifact"]))
        freed += row["bytes"]
    return freed
