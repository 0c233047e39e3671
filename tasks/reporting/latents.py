"""The index of all latents, as columns: what the report's table shows, sorts and searches. Shapes: N latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tasks.lazy import pq
from tasks.mining.interest import interest

if TYPE_CHECKING:
    from artifacts.store import Opened

Rows = Sequence[Mapping[str, Any]]
"""Rows of ``latents.parquet`` of stage ``analyse``, in the order of the latents."""

FIELDS = {"value": "", "low": "_low", "high": "_high", "n": "_n", "control": "_control"}
"""Figures of a score, and how the names of their columns end."""


def columns(mine: Opened, rows: Rows, scorers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By name, each a list (N,) or a few of them: ``status`` (``names``, and ``at``, the place of each latent's among them),
    ``density``, ``interest``, ``score/0`` (lists by ``FIELDS``), ``label``, ``score/1`` and so on, the most needed first.

    ``scorers`` is what the analysis says of each. Dead, unexplained and refused latents are there, each said to be what it is.
    """
    facts = pq.read_table(mine.path / "latents.parquet")
    status = [_status(row, scorers) for row in rows]
    names = sorted(set(status))
    place = {name: i for i, name in enumerate(names)}
    scores = [
        {field: [_rounded(row[s["column"] + end]) for row in rows] for field, end in FIELDS.items()} for s in scorers
    ]
    return {
        "status": {"names": names, "at": [place[name] for name in status]},
        "density": [float(f"{row['density']:.3g}") for row in rows],
        "interest": [round(value, 2) for value in interest(facts).tolist()],
        **{f"score/{i}": score for i, score in enumerate(scores[:1])},
        "label": [row["label"] for row in rows],
        **{f"score/{i}": score for i, score in enumerate(scores) if i},
    }


def _status(row: Mapping[str, Any], scorers: Sequence[Mapping[str, Any]]) -> str:
    if row["status"] == "ok" and scorers and row[scorers[0]["column"]] is None:
        return f"not scored: {row[scorers[0]['column'] + '_status'].replace('_', ' ')}"
    return row["status"].replace("_", " ")


def _rounded(value: float | None) -> float | None:
    return round(value, 3) if isinstance(value, float) else value


def by_surety(found: Mapping[str, Any]) -> list[int]:
    """Latents that were scored, the surest first: by the lower end of the interval of their score, where it has one."""
    score = found.get("score/0")
    if score is None:
        return []
    value, low = score["value"], score["low"]
    scored = [latent for latent in range(len(value)) if value[latent] is not None]
    return sorted(scored, key=lambda latent: (-(value[latent] if low[latent] is None else low[latent]), latent))


def chosen(found: Mapping[str, Any], n_cards: int) -> list[int]:
    """Latents that get a card where not all do: two thirds the surest, a sixth the worst, the rest spread over all that fire."""
    scored = by_surety(found)
    best = scored[: n_cards * 2 // 3]
    worst = scored[len(best) :][-max(1, n_cards // 6) :]
    taken = {*best, *worst}
    others = [latent for latent, density in enumerate(found["density"]) if density > 0 and latent not in taken]
    room = max(0, n_cards - len(taken))
    spread = others[:: max(1, len(others) // max(1, room))][:room] if room else []
    return sorted({*taken, *spread})
