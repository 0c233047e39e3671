"""The folder of an SAE for the hub: weights in a format that others read, explanations with scores, a card, and where it all came from."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.manifest import Manifest
from artifacts.store import Store
from flows.belongings import manifests, sae_named
from flows.model_card import OWN_FOLDER, OWN_FORMAT, model_card
from flows.porting import portable_of, written
from flows.shelves import shelf_of
from tasks.sharing.labels import write_explanations
from tasks.spec import SpecError

if TYPE_CHECKING:
    from tasks.browsing.index import Index
    from tasks.formats.base import Portable

MARK = "saint.json"
"""The file by which a repository is known for one of ours, and of which SAE."""

_FORMATS = ("saelens", "sparsify", "dictionary_learning", OWN_FORMAT)
"""The first of these that can hold an SAE is what is published; where it loses something, also in our own, which loses nothing."""


@dataclass(frozen=True)
class Published:
    """A folder as it goes to the hub."""

    folder: Path
    sae: Manifest
    subfolder: str
    format: str
    lost: list[str]
    """What the format could not carry."""

    files: list[str]
    n_labels: int


def publish(store: Store, name: str, repo: str, license: str, folder: Path) -> Published:
    """Write the folder, which must not exist. The same store gives the same bytes. Raises ``SpecError``."""
    from tasks.browsing.index import Index

    sae = sae_named(store, name)
    hookpoint = sae.summary["hookpoint"]
    subfolder = re.sub(r"[^A-Za-z0-9._-]+", "-", hookpoint).strip("-")
    folder.mkdir(parents=True)
    it = portable_of(store, name)
    format, lost = _weights(it, name, folder / subfolder)
    if lost:
        written(it, name, OWN_FORMAT, folder / OWN_FOLDER)
    try:
        shelf = shelf_of(store, sae)
    except SpecError:  # without windows there are no explanations
        index = None
    else:
        index = Index(shelf)
    used = [*_evaluations(store, sae), *([] if index is None else _told(index))]
    n_labels = 0 if index is None or not index.told else write_explanations(index, folder)
    page = model_card(store, sae, repo, license, index, used, subfolder, format, lost)
    (folder / "README.md").write_text(page, encoding="utf-8")
    paths = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    mark = {
        "made_with": f"saint-sae {version('saint-sae')}", "sae": f"{sae.artifact.stage}/{sae.artifact.key}", "hookpoint": hookpoint,
        "weights": {"folder": subfolder, "format": format, "not_carried": lost}, "spec": _public(sae.spec),
        "rests_on": {f"{m.artifact.stage}/{m.artifact.key}": {"version": m.version, "summary": _public(m.summary)} for m in used},
        "files": sorted([*paths, MARK]),
    }  # fmt: skip
    (folder / MARK).write_text(json.dumps(mark, indent=1), encoding="utf-8")
    return Published(folder, sae, subfolder, format, lost, mark["files"], n_labels)


def _weights(it: Portable, name: str, folder: Path) -> tuple[str, list[str]]:
    """Write weights in the first format that can hold them. Raises ``SpecError`` where none can."""
    import shutil

    first: SpecError | None = None
    for format in _FORMATS:
        try:
            return format, written(it, name, format, folder)[0]
        except SpecError as error:
            first = first or error
            shutil.rmtree(folder, ignore_errors=True)
    assert first is not None
    raise first


def _public(fields: dict[str, Any]) -> dict[str, Any]:
    """Settings and figures that may be told to strangers: no place on somebody's disk."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {n: plain(v) for n, v in value.items() if n not in ("path", "root", "base_url", "url")}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        if isinstance(value, str) and (value.startswith(("/", "~", "\\")) or re.match(r"[A-Za-z]:\\", value)):
            return "(a local path)"
        return value

    return plain(fields)


def _evaluations(store: Store, sae: Manifest) -> list[Manifest]:
    """The newest evaluation of an SAE, if there is one."""
    own = f"{sae.artifact.stage}/{sae.artifact.key}"
    return [m for m in manifests(store, ("evaluate",)) if m.inputs.get("sae") == own][-1:]


def _told(index: Index) -> list[Manifest]:
    """Windows, explanations and their scores."""
    explained = index.shelf.explained
    return [index.shelf.mine.manifest, *(m for e in explained for m in (e.explain.manifest, *(s.manifest for s in e.scores.values())))]
