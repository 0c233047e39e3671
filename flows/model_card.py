"""The model card of an SAE: what the store knows of it, laid out for the hub."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from artifacts.manifest import Manifest
from artifacts.store import Store
from flows.belongings import lm_of
from flows.provenance import captures_of, corpus_of, dataset_of
from tasks.sharing.card import body, front_matter, repo_id, uses
from tasks.spec import SpecError

if TYPE_CHECKING:
    from tasks.browsing.index import Index

OWN_FOLDER = "saint"
"""Where the weights lie in our own format, if they are not in it anyway."""

OWN_FORMAT = "saint_sae"

_METRICS = ("fvu", "ce_loss_recovered", "l0")
_N_EXAMPLES = 12
_N_SURE = 100
"""Labels of which the latent that a card steers with is one."""

_WORD = re.compile(r"[^\W\d_]{3}")


def model_card(
    store: Store, sae: Manifest, repo: str, license: str, index: Index | None, used: Sequence[Manifest], subfolder: str, format: str,
    lost: list[str],
) -> str:  # fmt: skip
    """The text of ``README.md``, with its front matter. ``used`` is what it rests on besides the SAE, ``lost`` what ``format`` dropped."""
    try:
        lm = dict(store.open(lm_of(store, sae)).summary)
    except SpecError:
        lm = {}
    evaluated = next((m.summary for m in used if m.artifact.stage == "evaluate"), {})
    n = int(sae.summary["n_latents"])
    n_alive = n if index is None else int((index.n_fires_N > 0).sum())
    weights = f"{subfolder}/, in the format {format}" + (f"; {OWN_FOLDER}/ has all of them, in {OWN_FORMAT}" if lost else "")
    figures: dict[str, Any] = {
        **_measured(sae, evaluated), "Latents that fire": None if index is None else f"{n_alive:,} of {n:,}", **_made(store, sae),
        "Weights here": weights, "Explaining and scoring cost": f"{_usd(used):.2f} dollars" if index is not None and index.told else None,
    }  # fmt: skip
    spec, dataset = sae.spec.get("sae", {}), dataset_of(store, sae)
    base = lm.get("hub_id") if _is_repo(lm.get("hub_id")) else None
    best = [] if index is None else _best(index, _N_SURE)
    latent, amount = _worth(index, best)
    title = repo.partition("/")[2]
    shown = {
        "title": title, "kind": spec.get("kind") or sae.summary.get("kind", "sae"), "n_latents": n, "hookpoint": sae.summary["hookpoint"],
        "model": str(lm.get("hub_id") or lm.get("name") or "its language model"),
        "figures": [(name, str(value)) for name, value in figures.items() if value is not None],
        "measured_on": f"{evaluated['n_tokens']:,} tokens of held-out texts" if "n_tokens" in evaluated else None,
        "explained": [] if index is None else list(_explained(index)), "examples": best[:_N_EXAMPLES],
        "example_score": "score" if index is None or not index.scales else next(iter(index.scales)),
        "uses": uses(repo, subfolder, format, sae.summary["hookpoint"], lm, bool(index and index.told), latent, amount),
        "n_dead": n - n_alive, "notes": lost,
        "provenance": [(m.artifact.stage, m.version, m.made_by.get("when", ""), m.artifact.key) for m in (sae, *used)],
    }  # fmt: skip
    metrics = {name: float(evaluated[name]) for name in _METRICS if isinstance(evaluated.get(name), (int, float))}
    return front_matter(license, base, dataset, "saelens" if format == "saelens" else None, title, metrics) + "\n" + body(shown)


def _measured(sae: Manifest, evaluated: dict[str, Any]) -> dict[str, Any]:
    """Size and quality, by what a card calls them; None where nobody knows."""
    return {
        "Latents": f"{sae.summary['n_latents']:,}",
        "d_in": sae.summary.get("d_in"),
        "k": sae.spec.get("sae", {}).get("k") or sae.summary.get("k"),
        "L0 (active latents per token)": _figure(evaluated.get("l0", sae.summary.get("l0")), ".1f"),
        "FVU": _figure(evaluated.get("fvu"), ".4f"),
        "CE loss recovered": _figure(evaluated.get("ce_loss_recovered"), ".2%"),
        "CE loss: model, with the SAE, with zeros": _losses(evaluated),
    }


def _made(store: Store, sae: Manifest) -> dict[str, Any]:
    """What it was made of, and how long that took."""
    corpus, captured, made = corpus_of(store, sae), captures_of(store, sae), sae.made_by
    adopted = sae.artifact.stage == "adopt"
    texts = None if corpus is None else f"{corpus.summary.get('n_documents', 0):,} documents that are not on the hub"
    context = None if captured is None else captured.spec.get("context_tokens")
    return {
        "Trained on": None if adopted else f"{sae.summary.get('n_tokens', 0):,} tokens",
        "Corpus": None if corpus is None else dataset_of(store, sae) or texts,
        "Context": f"{context} tokens" if context else None,
        "Training": None if adopted or not made.get("seconds") else f"{made['seconds']:,.0f} s on {made.get('device', 'cpu')}",
        "Imported from": _origin(sae) if adopted else None,
    }


def _usd(used: Sequence[Manifest]) -> float:
    return sum(m.summary.get("usd") or 0.0 for m in used if m.artifact.stage in ("explain", "score"))


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
