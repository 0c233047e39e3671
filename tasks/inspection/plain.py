"""An inspection as JSON, the one form that the terminal, the page and ``--json`` are made of. Not a number is null."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tasks.inspection.known import NOTHING, Known
from tasks.inspection.seen import Guess, Inspection, Seen, figures
from tasks.spec import SpecError

ORDERS = ("sum", "max", "n_tokens", "attribution")
"""Ways to rank the latents of an inspection."""


def plain(
    found: Inspection,
    known: Mapping[int, Known],
    *,
    wanted: Sequence[int] = (),
    by: str = "sum",
) -> dict[str, Any]:
    """All of an inspection: ``figures``, ``prompts`` with their tokens and every active latent of each, and ``latents``.

    ``latents`` are those that are active on any prompt, ranked ``by`` one of ``ORDERS``, behind the ``wanted``, which are
    there whether active or not. Raises ``SpecError`` for an order there is not.
    """
    if by not in ORDERS or (by == "attribution" and not all(seen.attributed for seen in found.prompts)):
        there = ORDERS if by not in ORDERS else ORDERS[:-1]
        raise SpecError(f"by = {by!r}, but latents are ranked by {', '.join(there)}; use one of them")
    rows = [
        {"latent": one.latent, "sum": one.total, "max": one.largest, "n_tokens": one.n_tokens, "prompt": one.prompt,
         "position": one.position, "attribution": one.attribution}
        for one in found.latents()
    ]  # fmt: skip
    rows.sort(key=lambda row: -abs(row[by]))  # type: ignore[arg-type]
    active = {row["latent"]: row for row in rows}
    silent = {"sum": 0.0, "max": 0.0, "n_tokens": 0, "prompt": None, "position": None, "attribution": None}
    first = [active.pop(latent, {"latent": latent, **silent}) for latent in dict.fromkeys(wanted)]
    rows = [*first, *active.values()]
    for row in rows:
        row |= {**_known(known.get(row["latent"], NOTHING)), "wanted": row["latent"] in wanted}
    return {
        "hookpoint": found.hookpoint,
        "n_latents": found.n_latents,
        "figures": asdict(found.figures),
        "prompts": [_prompt(seen) for seen in found.prompts],
        "by": by,
        "latents": rows,
    }


def _known(one: Known) -> dict[str, Any]:
    return {"status": one.status, "label": one.label, "scores": dict(one.scores), "largest": one.largest, "density": one.density}


def _prompt(seen: Seen) -> dict[str, Any]:
    tokens = []
    moved = seen.attributed
    columns = zip(seen.l0_T, seen.norm_T, seen.error_T, seen.relative_T, seen.cosine_T, seen.fvu_T, strict=True)
    for t, (l0, *measured) in enumerate(columns):
        kept = bool(seen.keep[t])
        token = {"position": t, "token_id": int(seen.token_id[t]), "token": seen.tokens[t], "special": not kept}
        token |= {"l0": int(l0) if kept else None}
        token |= {name: _number(v) for name, v in zip(("norm", "error", "relative_error", "cosine", "fvu"), measured, strict=True)}
        token |= {f"ce_{name}": _number(run.loss_T[t]) for name, run in seen.runs.items()}
        token |= {"kl_sae": _number(seen.runs["sae"].kl_T[t])}
        if moved:
            token |= {"attribution_rest": _number(moved.rest_T[t])}
        latents = []
        for k in range(seen.value_TK.shape[1]):
            if seen.value_TK[t, k] > 0:
                latents.append({"latent": int(seen.index_TK[t, k]), "value": float(seen.value_TK[t, k])})
                if moved:
                    latents[-1]["attribution"] = float(moved.value_TK[t, k])
        tokens.append({**token, "latents": latents})
    return {
        "text": seen.text,
        "figures": asdict(figures([seen])),
        "next": {name: [_guess(guess) for guess in run.guesses] for name, run in seen.runs.items()},
        "target": _guess(moved.target) if moved else None,
        "tokens": tokens,
    }


def _guess(guess: Guess) -> dict[str, Any]:
    return guess._asdict()


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
