"""The folder of an SAE for the hub: weights in a format that others read, explanations with scores, a card, and where it all came from."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.manifest import Manifest
from artifacts.store import Store
from flows.belongings import lm_of, manifests, sae_named
from flows.porting import portable_of, written
from flows.provenance import captures_of, corpus_of, dataset_of
from flows.shelves import shelf_of
from tasks.sharing.card import body, front_matter, repo_id, uses
from tasks.sharing.labels import write_explanations
from tasks.spec import SpecError

if TYPE_CHECKING:
    from tasks.browsing.index import Index
    from tasks.formats.base import Portable

MARK = "saint.json"
"""The file by which a repository is known for one of ours, and of which SAE."""

OWN_FOLDER = "saint"
"""Where the weights lie in our own format, if they are not in it anyway."""

_METRICS = ("fvu", "ce_loss_recovered", "l0")
_OWN = "saint_sae"
_FORMATS = ("saelens", "sparsify", "dictionary_learning", _OWN)
"""The first of these that can hold an SAE is what is published; where it loses something, also in our own, which loses nothing."""

_N_EXAMPLES = 12
_N_SURE = 100
"""Labels of which the latent that a card steers with is one."""

_WORD = re.compile(r"[^\W\d_]{3}")


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
        written(it, name, _OWN, folder / OWN_FOLDER)
    try:
        shelf = shelf_of(store, sae)
    except SpecError:  # without windows there are no explanations
        index = None
    else:
        index = Index(shelf)
    used = [*_evaluations(store, sae), *([] if index is None else _told(index))]
    n_labels = 0 if index is None or not index.told else write_explanations(index, folder)
    page = _card(store, sae, repo, license, index, used, subfolder, format, lost)
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


def _card(
    store: Store, sae: Manifest, repo: str, license: str, index: Index | None, used: Sequence[Manifest], subfolder: str, format: str,
    lost: list[str],
) -> str:  # fmt: skip
    try:
        lm = dict(store.open(lm_of(store, sae)).summary)
    except SpecError:
        lm = {}
    evaluated = next((m.summary for m in used if m.artifact.stage == "evaluate"), {})
    corpus, captured = corpus_of(store, sae), captures_of(store, sae)
    dataset, spec = dataset_of(store, sae), sae.spec.get("sae", {})
    adopted = sae.artifact.stage == "adopt"
    base = lm.get("hub_id") if _is_repo(lm.get("hub_id")) else None
    model = str(lm.get("hub_id") or lm.get("name") or "its language model")
    n = int(sae.summary["n_latents"])
    n_alive = None if index is None else int((index.n_fires_N > 0).sum())
    usd = sum(m.summary.get("usd") or 0.0 for m in used if m.artifact.stage in ("explain", "score"))
    made = sae.made_by
    figures: list[tuple[str, Any]] = [
        ("Latents", f"{n:,}"),
        ("d_in", sae.summary.get("d_in")),
        ("k", spec.get("k") or sae.summary.get("k")),
        ("L0 (active latents per token)", _figure(evaluated.get("l0", sae.summary.get("l0")), ".1f")),
        ("FVU", _figure(evaluated.get("fvu"), ".4f")),
        ("CE loss recovered", _figure(evaluated.get("ce_loss_recovered"), ".2%")),
        ("CE loss: model, with the SAE, with zeros", _losses(evaluated)),
        ("Latents that fire", None if n_alive is None else f"{n_alive:,} of {n:,}"),
        ("Trained on", None if adopted else f"{sae.summary.get('n_tokens', 0):,} tokens"),
        ("Corpus", None if corpus is None else dataset or f"{corpus.summary.get('n_documents', 0):,} documents that are not on the hub"),
        ("Context", None if captured is None or not captured.spec.get("context_tokens") else f"{captured.spec['context_tokens']} tokens"),
        ("Training", None if adopted or not made.get("seconds") else f"{made['seconds']:,.0f} s on {made.get('device', 'cpu')}"),
        ("Imported from", _origin(sae) if adopted else None),
        ("Weights here", f"{subfolder}/, in the format {format}" + (f"; {OWN_FOLDER}/ has all of them, in {_OWN}" if lost else "")),
        ("Explaining and scoring cost", None if index is None or not index.told else f"{usd:.2f} dollars"),
    ]
    best = [] if index is None else _best(index, _N_SURE)
    latent, amount = _worth(index, best)
    title = repo.partition("/")[2]
    shown = {
        "title": title, "kind": spec.get("kind") or sae.summary.get("kind", "sae"), "n_latents": n, "hookpoint": sae.summary["hookpoint"],
        "model": model, "figures": [(name, str(value)) for name, value in figures if value is not None],
        "measured_on": f"{evaluated['n_tokens']:,} tokens of held-out texts" if "n_tokens" in evaluated else None,
        "explained": [] if index is None else list(_explained(index)), "examples": best[:_N_EXAMPLES],
        "example_score": "score" if index is None or not index.scales else next(iter(index.scales)),
        "uses": uses(repo, subfolder, format, sae.summary["hookpoint"], lm, bool(index and index.told), latent, amount),
        "n_dead": 0 if n_alive is None else n - n_alive, "notes": lost,
        "provenance": [(m.artifact.stage, m.version, m.made_by.get("when", ""), m.artifact.key) for m in (sae, *used)],
    }  # fmt: skip
    metrics = {name: float(evaluated[name]) for name in _METRICS if isinstance(evaluated.get(name), (int, float))}
    return front_matter(license, base, dataset, "saelens" if format == "saelens" else None, title, metrics) + "\n" + body(shown)


def _origin(adopted: Manifest) -> str:
    repo, revision = adopted.spec.get("repo"), str(adopted.spec.get("revision") or "")
    files = f"files of {adopted.summary.get('format')}"
    return f"{repo} at {revision[:12]}, {files}" if repo else files


def _is_repo(name: Any) -> bool:
    try:
        return bool(name) and bool(repo_id(str(name)))
    except SpecError:
        return False


def _figure(value: Any, form: str) -> str | None:
    return format(value, form) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _losses(evaluated: dict[str, Any]) -> str | None:
    found = [_figure(evaluated.get(name), ".3f") for name in ("ce_clean", "ce_sae", "ce_zero")]
    return None if None in found else ", ".join(map(str, found))


def _explained(index: Index) -> Any:
    for source in index.shelf.explained:
        summary = source.explain.summary
        client = source.explain.manifest.spec.get("client") or {}
        own = [source.name, str(client.get("model") or client.get("kind") or "none"), f"{summary.get('n_ok', 0):,}"]
        for name, opened in source.scores.items() or (("none", None),):
            s = {} if opened is None else opened.summary
            usd = (summary.get("usd") or 0.0) + (s.get("usd") or 0.0)
            low, high = _figure(s.get("mean_low"), ".3f"), _figure(s.get("mean_high"), ".3f")
            metric = f"{name}, {s['metric']}" if "metric" in s else name
            yield [
                *own, metric, _figure(s.get("mean"), ".3f") or "", f"{low} to {high}" if low and high else "",
                _figure(s.get("control_mean"), ".3f") or "", f"{s['n_ok']:,}" if "n_ok" in s else "", f"{usd:.2f}",
            ]  # fmt: skip


def _best(index: Index, n: int) -> list[tuple[int, str, str]]:
    """The surest labels."""
    from tasks.browsing.query import Query

    found: list[int] = index.find(Query(sort="score", statuses=("ok",))).latents_F[:n].tolist() if index.scales else []
    return [(r["latent"], r["label"], _figure(r["value"], ".2f") or "") for r in index.rows(found)]


def _worth(index: Index | None, best: Sequence[tuple[int, str, str]]) -> tuple[int, float]:
    """A latent to steer with, and its largest activation: one called by a word, whose row lifts a word furthest; else the surest."""
    if index is None:
        return 0, 0.0
    latents = [latent for latent, *_ in best] or [int(index.max_N.argmax())]
    told = {row["latent"]: row["promoted"] for row in index.promoted.of(latents, ["promoted"]).to_pylist()}
    words = {latent for latent, label, _ in best if _WORD.search(label)}

    def effect(latent: int) -> tuple[bool, float]:
        logits = (token["logit"] for token in told.get(latent, ()) if _WORD.search(token["token"]))
        return latent in words, max(logits, default=0.0)

    latent = max(latents, key=effect)
    return latent, float(index.max_N[latent])
