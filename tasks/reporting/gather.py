"""What the report shows, as plain data. Shapes and names are those of the stages' tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tasks.explain import explanations
from tasks.lazy import pq
from tasks.mine import examples

if TYPE_CHECKING:
    from artifacts.store import Opened
    from tasks.explainers.base import LatentExamples, Window

_STEPS = 10
"""Activation strengths that a token's colour tells apart; 10 is the latent's maximum."""


def scores_of(scores: Sequence[Opened]) -> dict[str, dict[int, dict[str, Any]]]:
    """Scorer to latent to row of ``scores.parquet``."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for opened in scores:
        for row in pq.read_table(opened.path / "scores.parquet").to_pylist():
            found.setdefault(row["scorer"], {})[row["latent"]] = row
    return found


def latent_rows(mine: Opened, explain: Opened, scores: dict[str, dict[int, dict[str, Any]]]) -> list[dict[str, Any]]:
    """One row per latent, dead and unexplained ones too, each said to be what it is."""
    facts = pq.read_table(mine.path / "latents.parquet").to_pylist()
    said = explanations(explain)
    main = next(iter(scores.values()), {})
    rows = []
    for fact in facts:
        latent = fact["latent"]
        explanation, score = said.get(latent), main.get(latent)
        status = "not asked" if explanation is None else explanation.status.replace("_", " ")
        if fact["n_fires"] == 0:
            status = "dead"
        elif explanation is not None and explanation.status == "ok" and score is not None and score["value"] is None:
            status = f"not scored: {score['status'].replace('_', ' ')}"
        row = {"latent": latent, "status": status, "label": explanation.label if explanation else ""}
        row |= {"density": fact["density"], "max": fact["max_value"], "histogram": fact["histogram"]}
        for name in ("value", "low", "high", "n", "control_value"):
            row[name] = None if score is None else score[name]
        rows.append(row)
    return rows


def chosen(rows: list[dict[str, Any]], n_cards: int) -> list[int]:
    """Latents that get a card: two thirds the surest, a sixth the worst, the rest spread over all that fire."""
    scored = sorted((r for r in rows if r["value"] is not None), key=lambda r: (-r["low"], r["latent"]))
    best = [r["latent"] for r in scored[: n_cards * 2 // 3]]
    worst = [r["latent"] for r in scored[len(best) :][-max(1, n_cards // 6) :]]
    others = [r["latent"] for r in rows if r["density"] > 0 and r["latent"] not in {*best, *worst}]
    room = max(0, n_cards - len(best) - len(worst))
    spread = others[:: max(1, len(others) // max(1, room))][:room] if room else []
    return sorted({*best, *worst, *spread})


def cards(mine: Opened, explain: Opened, latents: list[int], n_windows: int) -> dict[int, dict[str, Any]]:
    """What a card shows beyond its latent's row."""
    said = explanations(explain)
    return {e.latent: _card(e, said.get(e.latent), n_windows) for e in examples(mine, latents)}


def _card(found: LatentExamples, explanation: Any, n_windows: int) -> dict[str, Any]:
    train = sorted(found.train(activating=True), key=lambda w: (-max(w.values), w.window_id))
    sample = [w for w in train if w.group != "top"] or train
    spread = sample[:: max(1, len(sample) // n_windows)][:n_windows]
    near = [w for w in found.train(activating=False) if w.group != "random"][: n_windows // 2]
    evidence = explanation.evidence if explanation is not None else {}
    return {
        "fires": found.n_fires,
        "promoted": [[token, round(logit, 2)] for token, logit in found.promoted],
        "suppressed": [[token, round(logit, 2)] for token, logit in found.suppressed],
        "evidence": [[t["term"], t["log_odds"]] for t in evidence.get("terms", [])[:6]],
        "confidence": explanation.confidence if explanation is not None else None,
        "windows": {
            "strongest": [_window(w, found.max_value) for w in train[:n_windows]],
            "over the whole range": [_window(w, found.max_value) for w in spread],
            "near misses: it does not fire here": [_window(w, found.max_value) for w in near],
        },
    }


def _window(window: Window, most: float) -> list[Any]:
    steps = [min(_STEPS, -int(-_STEPS * v // most)) if most > 0 else 0 for v in window.values]
    return [list(window.tokens), steps, window.peak, round(max(window.values), 2), window.quantile]


def provenance(inputs: Sequence[Opened]) -> list[dict[str, Any]]:
    """Stage, key, settings and maker of each artifact that the report rests on."""
    return [
        {
            "stage": opened.artifact.stage,
            "key": opened.artifact.key,
            "spec": json.dumps(opened.manifest.spec, indent=1, sort_keys=True),
            **{name: opened.manifest.made_by.get(name) for name in ("when", "host", "seconds", "python", "versions")},
        }
        for opened in inputs
    ]
