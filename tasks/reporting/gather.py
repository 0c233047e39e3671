"""What the report shows, as plain data. Shapes and names are those of the stages' tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tasks.explain import explanations
from tasks.lazy import pq
from tasks.mine import examples

if TYPE_CHECKING:
    from artifacts.store import Opened
    from tasks.explainers.base import LatentExamples, Window

_STEPS = 10
"""Activation strengths that a token's colour tells apart; 10 is the latent's maximum."""


def latent_rows(
    mine: Opened, latents: Sequence[Mapping[str, Any]], scorers: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """One row per latent, dead and unexplained ones too, each said to be what it is; ``value`` is the first scorer's.

    ``latents`` are rows of the analysis, ``scorers`` what it says of each scorer.
    """
    facts = pq.read_table(mine.path / "latents.parquet", columns=["max_value", "histogram"]).to_pylist()
    columns = [scorer["column"] for scorer in scorers]
    rows = []
    for found, fact in zip(latents, facts, strict=True):
        status = found["status"].replace("_", " ")
        scores = [_score(found, column) for column in columns]
        if columns and found["status"] == "ok" and scores[0] is None:
            status = f"not scored: {found[f'{columns[0]}_status'].replace('_', ' ')}"
        row = {"latent": found["latent"], "status": status, "label": found["label"], "density": found["density"]}
        row |= {"max": fact["max_value"], "histogram": fact["histogram"], "scores": scores}
        value, low, *_ = scores[0] if scores and scores[0] else (None, None)
        rows.append({**row, "value": value, "low": low})
    return rows


def _score(row: Mapping[str, Any], column: str) -> list[Any] | None:
    """Value, both ends of its interval, windows, and the control's value; None where nothing was scored."""
    if row[column] is None:
        return None
    fields = (row[column], row[f"{column}_low"], row[f"{column}_high"], row[f"{column}_n"], row[f"{column}_control"])
    return [round(field, 4) if isinstance(field, float) else field for field in fields]


def by_surety(row: Mapping[str, Any]) -> tuple[float, int]:
    """What puts the surest score first: by the lower end of its interval, where it has one."""
    return -(row["value"] if row["low"] is None else row["low"]), row["latent"]


def chosen(rows: list[dict[str, Any]], n_cards: int) -> list[int]:
    """Latents that get a card: two thirds the surest, a sixth the worst, the rest spread over all that fire."""
    scored = sorted((r for r in rows if r["value"] is not None), key=by_surety)
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
            "strongest": [shown_window(w, found.max_value) for w in train[:n_windows]],
            "over the whole range": [shown_window(w, found.max_value) for w in spread],
            "near misses: it does not fire here": [shown_window(w, found.max_value) for w in near],
        },
    }


def shown_window(window: Window, most: float) -> list[Any]:
    """Tokens, strength of each in steps of the latent's maximum, the peak's place, strongest activation, quantile (0 the strongest,
    -1 where it does not fire)."""
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
