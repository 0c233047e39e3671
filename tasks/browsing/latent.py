"""All that is known of one latent, as JSON for its page. Foreign text in it is as it came: whoever shows it escapes it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tasks.browsing.told import Told, said
from tasks.explainers.base import LatentExamples, Window
from tasks.mining.reading import windows_of
from tasks.reporting.cards import by_quantile, misses, shown_window
from tasks.reporting.plots import activations

if TYPE_CHECKING:
    from tasks.browsing.index import Index

_STRONGEST, _WEAKER = 5, 1
"""Windows that are seen at once: of the strongest quantile, and of each other."""

_MORE = 12
"""Windows of a quantile, those that are seen at once among them."""

_MISSES = 6


def latent_page(index: Index, latent: int, scorer: str | None = None, n_near: int = 8) -> dict[str, Any]:
    """What a latent's page shows. ``scorer``: whose score stands beside the label; without it the first.

    Raises ``SpecError`` for a latent there is none of.
    """
    index.check(latent)
    found = examples_of(index, latent)
    scale = index.scale(scorer)
    mean = None if index.mean_N is None else float(index.mean_N[latent])
    return {
        **index.rows([latent], scorer)[0],
        "n_latents": index.n,
        "n_fires": found.n_fires,
        "mean": mean,
        "scale": None if scale is None else {**scale.json, "poor": scale.poor},
        "bins": activations(index.histogram_of(latent), index.edges),
        "windows": _by_quantile(found),
        "misses": [_window(w, found) for w in misses(found, _MISSES)],
        "promoted": found.promoted,
        "suppressed": found.suppressed,
        "no_promoted": index.shelf.mine.summary.get("no_promoted"),
        "near": nearest(index, latent, n_near),
        "told": [_told(told, latent) for told in index.told if told.asked_N[latent]],
    }


def examples_of(index: Index, latent: int) -> LatentExamples:
    """What mining kept of a latent; reads its row groups alone."""
    pushed = index.promoted.of(latent).to_pylist()
    up, down = ([(t["token"], t["logit"]) for row in pushed for t in row[side]] for side in ("promoted", "suppressed"))
    return LatentExamples(
        latent, int(index.n_fires_N[latent]), float(index.density_N[latent]), float(index.max_N[latent]),
        tuple(windows_of(index.windows.of(latent), index.texts)), tuple(up), tuple(down),
    )  # fmt: skip


def strongest(index: Index, latent: int, n: int = 2) -> list[dict[str, Any]]:
    """The windows in which a latent is most active, as on its page."""
    return [window for part in _by_quantile(examples_of(index, latent))[:1] for window in part["windows"][:n]]


def nearest(index: Index, latent: int, n: int = 8) -> list[dict[str, Any]] | None:
    """The latents whose decoder rows are nearest, with their labels; None where the SAE is gone."""
    if index.near is None:
        return None
    return [
        {"latent": other, "label": index.label(other), "status": index.status(other), "cosine": cosine}
        for other, cosine in index.near.of(latent, n)
    ]


def _by_quantile(found: LatentExamples) -> list[dict[str, Any]]:
    return [
        {
            "quantile": part.number, "n_quantiles": part.n, "high": part.high, "low": part.low,
            "n_shown": _WEAKER if i else _STRONGEST,
            "windows": [_window(w, found) for w in part.windows],
        }
        for i, part in enumerate(by_quantile(found, _MORE, _MORE))
    ]  # fmt: skip


def _window(window: Window, found: LatentExamples) -> dict[str, Any]:
    tokens, steps, peak, most = shown_window(window, found.max_value)
    return {"tokens": list(zip(tokens, steps, strict=True)), "peak": peak, "most": most, "group": said(window.group)}


def _told(told: Told, latent: int) -> dict[str, Any]:
    """One explainer's word on a latent: what it said, how well that fares, who it was, at what cost."""
    (row,) = told.rows.of(latent).to_pylist()[:1]
    spec = told.source.explain.manifest.spec
    client = spec.get("client") or {}
    evidence = json.loads(row["evidence"] or "{}")
    return {
        "name": told.name,
        "explainer": told.kind,
        "address": told.address,
        "when": told.when,
        "status": said(row["status"]),
        "label": row["label"] or "",
        "confidence": row["confidence"],
        "predicate": row["predicate"],
        "client": client.get("kind"),
        "model": row["model"],
        "input_tokens": row["input_tokens"],
        "output_tokens": row["output_tokens"],
        "usd": row["usd"],
        "evidence": {name: _plain(value) for name, value in evidence.items()},
        "scores": [scores.of(latent) for scores in told.scores.values()],
    }


def _plain(value: Any) -> str:
    """Evidence of whatever kind as one text."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, dict) and "term" in item for item in value):
        return ", ".join(f"{item['term']} ({item.get('log_odds', 0):+.1f})" for item in value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return json.dumps(value, ensure_ascii=False)

