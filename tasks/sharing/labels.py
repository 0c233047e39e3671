"""The labels of an SAE with their scores as one table, in a form that ``explainer=load`` reads."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.lazy import pa, pq
from tasks.sharing.gathered import short

if TYPE_CHECKING:
    from tasks.browsing.index import Index


def write_explanations(index: Index, folder: Path) -> int:
    """Write ``explanations.parquet`` and ``.jsonl``, a row for each latent; returns how many have a label."""
    rows: list[dict[str, Any]] = [
        {
            "latent": n, "status": index.status(n).replace(" ", "_"), "label": index.label(n), "confidence": None, "explainer": None,
            "model": None, "explain": None, "density": short(float(index.density_N[n])), "max_value": short(float(index.max_N[n])),
        }
        for n in range(index.n)
    ]  # fmt: skip
    scorers = list(index.scales)
    numbers = ("value", "low", "high", "n", "control_value")
    for i, told in enumerate(index.told):
        table = told.rows.of(range(index.n), [c for c in ("status", "confidence", "model") if c in told.rows.names])
        for row in table.to_pylist():
            latent = row["latent"]
            if index.source_N[latent] == i:
                rows[latent] |= {**row, "explainer": told.name, "explain": told.address}
    for scorer in scorers:
        for name in numbers:
            for latent, value in enumerate(index.score_of(name, scorer).tolist()):
                rows[latent][f"{scorer} {name}".removesuffix(" value")] = None if math.isnan(value) else short(value)
    text = {n: pa.string() for n in ("status", "label", "explainer", "model", "explain")}
    number = {n: pa.float64() for n in rows[0] if n not in text and n != "latent"} if rows else {}
    schema = pa.schema([(n, text.get(n) or number.get(n) or pa.int32()) for n in (rows[0] if rows else ())])
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "explanations.parquet", compression="zstd")
    with open(folder / "explanations.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    return sum(bool(row["label"]) for row in rows)
