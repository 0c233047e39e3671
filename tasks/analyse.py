"""Analyse: what all explanations and scores come to, and one table with a row for each latent.

Nothing is dropped on the way: every count of statuses sums to the number of latents, dead and unasked ones included.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from tasks.analysis import answers as judged
from tasks.analysis.agreement import correlations
from tasks.analysis.estimates import mean, n_effective, paired, quartiles, share
from tasks.analysis.naming import titles
from tasks.lazy import pa, pc, pq
from tasks.spec import Spec
from tasks.stage import Job, Summary, stage

if TYPE_CHECKING:
    from artifacts.store import Opened

_OF_SCORE = ("status", "value", "low", "high", "n", "base_rate", "control_value", "chance", "input_tokens", "output_tokens", "usd")


class AnalyseSpec(Spec):
    """What counts as good."""

    good: float = 0.8
    """Score from which on a latent counts as well explained."""

    common: int = Field(3, ge=2)
    """Latents with both scores below which nothing is said about how two scorers agree."""


@stage("analyse", version=2)
def analyse(job: Job[AnalyseSpec]) -> Summary:
    """Write ``latents.parquet`` and ``analysis.json``. Inputs: ``mine``, ``explain``, ``scores`` (a list)."""
    opened = job.many("scores")
    names = titles([score.manifest.spec for score in opened], "scorer")
    table, columns = latent_table(job.one("mine"), job.one("explain"), dict(zip(names, opened, strict=True)))
    pq.write_table(table, job.out / "latents.parquet", compression="zstd")
    latents = table.to_pylist()
    scorers = [
        _scorer(name, score, latents, columns[name], job.spec) for name, score in zip(names, opened, strict=True)
    ]
    found = {
        "n_latents": len(latents),
        "n_alive": sum(row["n_fires"] > 0 for row in latents),
        "explanations": counted(row["status"] for row in latents),
        "scorers": scorers,
        "agreement": _agreement(latents, columns, job.spec.common),
        "good": job.spec.good,
    }
    (job.out / "analysis.json").write_text(json.dumps(found, indent=1, allow_nan=False))
    figures = {s["name"]: {n: s[n]["value"] for n in ("macro", "micro", "weighted")} for s in scorers}
    return {
        "n_latents": len(latents),
        "n_ok": found["explanations"].get("ok", 0),
        "explanations": found["explanations"],
        "scorers": figures,
    }


def latent_table(mine: Opened, explain: Opened, scores: Mapping[str, Opened]) -> tuple[pa.Table, dict[str, str]]:
    """One row per latent with all that is known of it, and the column that each score begins with.

    A score's columns are ``score_<name>``, and that with ``_status``, ``_low``, ``_control`` and so on.
    """
    facts = pq.read_table(mine.path / "latents.parquet", columns=["latent", "n_fires", "density"]).to_pylist()
    said = {row["latent"]: row for row in pq.read_table(explain.path / "explanations.parquet").to_pylist()}
    columns = {name: f"score_{name}" for name in scores}
    of = {
        name: {row["latent"]: row for row in pq.read_table(opened.path / "scores.parquet").to_pylist()}
        for name, opened in scores.items()
    }
    rows = []
    for fact in facts:
        latent, dead = fact["latent"], fact["n_fires"] == 0
        row = said.get(latent, {})
        status = outcome(row.get("status"), dead)
        found = {**fact, "status": status, "label": row.get("label") or "", "confidence": row.get("confidence"),
                 "model": row.get("model"), "explain_input_tokens": row.get("input_tokens", 0),
                 "explain_output_tokens": row.get("output_tokens", 0), "explain_usd": row.get("usd", 0.0)}  # fmt: skip
        troubles = [] if status == "ok" else [status]
        for name, column in columns.items():
            score = of[name].get(latent, {})
            scored = outcome(score.get("status"), dead)
            if scored not in ("ok", "no_explanation", status):
                troubles.append(f"{name}: {scored}")
            found[f"{column}_status"] = scored
            for field in _OF_SCORE[1:]:
                more = "" if field == "value" else "_control" if field == "control_value" else f"_{field}"
                found[f"{column}{more}"] = score.get(field)
        rows.append({**found, "why": "; ".join(troubles)})
    return pa.Table.from_pylist(rows, schema=_schema(columns.values())), columns


def outcome(status: str | None, dead: bool) -> str:
    """What became of a latent, in one word: its status, or that it never fires, or that nobody asked."""
    if status == "ok":
        return status
    if dead and status in (None, "too_few_examples", "no_explanation"):
        return "dead"
    return status or "not_asked"


def _schema(columns: Any) -> pa.Schema:
    text, number, whole = pa.string(), pa.float64(), pa.int64()
    fields = [("latent", pa.int32()), ("n_fires", whole), ("density", number), ("status", text), ("label", text),
              ("confidence", number), ("model", text), ("explain_input_tokens", whole),
              ("explain_output_tokens", whole), ("explain_usd", number)]  # fmt: skip
    kinds = {"": number, "_low": number, "_high": number, "_n": pa.int32(), "_base_rate": number, "_control": number, "_chance": number,
             "_status": text, "_input_tokens": whole, "_output_tokens": whole, "_usd": number}  # fmt: skip
    return pa.schema([*fields, *((f"{c}{more}", kind) for c in columns for more, kind in kinds.items()), ("why", text)])


def counted(statuses: Any) -> dict[str, int]:
    """How often each status, ``ok`` first, then the most frequent."""
    return dict(sorted(Counter(statuses).items(), key=lambda item: (item[0] != "ok", -item[1], item[0])))


def _scorer(
    name: str, opened: Opened, latents: list[dict[str, Any]], column: str, spec: AnalyseSpec
) -> dict[str, Any]:
    """All that one score comes to."""
    summary, scored = opened.summary, [row for row in latents if row[column] is not None]
    # Scores from before scorers told their metric were all of this one.
    metric, chance = summary.get("metric", "balanced accuracy"), summary.get("chance", 0.5)
    bounds, values = _range(summary), [row[column] for row in scored]
    control = f"{column}_control"
    both = [row for row in scored if row[control] is not None]
    fires = [row["n_fires"] for row in scored]
    sure = [row for row in scored if _surely_above(row, column, chance)]
    middle = quartiles(values)
    found: dict[str, Any] = {
        "name": name,
        "column": column,
        "kind": opened.manifest.spec["scorer"]["kind"],
        "judge": (opened.manifest.spec.get("client") or {}).get("model"),
        "metric": metric,
        "chance": chance,
        "range": bounds,
        "statuses": counted(row[f"{column}_status"] for row in latents),
        "n_scored": len(scored),
        "weighted": {**mean(values, fires).within(bounds).json, "n_effective": n_effective(fires)},
        "median": middle and middle[1],
        "quartiles": middle and [middle[0], middle[2]],
        "good": share(sum(v >= spec.good for v in values), len(values)).json,
        "above_chance": share(len(sure), len(scored)).json,
        "difference": paired([row[column] for row in both], [row[control] for row in both]),
        **{n: summary.get(n) for n in ("usd", "input_tokens", "output_tokens")},
    }
    own, blind = (_side(opened, metric, control) for control in (False, True))
    return {
        **found,
        "macro": own.pop("macro"),
        "micro": own.pop("micro"),
        "control": {"macro": blind.pop("macro"), "micro": blind.pop("micro")},
        "own": own,
        "blind": blind,
    }


def _surely_above(row: Mapping[str, Any], column: str, chance: float) -> bool:
    """Whether a latent's interval lies above chance, its own where it has one."""
    low, own = row[f"{column}_low"], row[f"{column}_chance"]
    return low is not None and low > (chance if own is None else own)


def _range(summary: Mapping[str, Any]) -> tuple[float, float]:
    low, high = summary.get("range", (0.0, 1.0))
    return low, high


def _side(opened: Opened, metric: str, control: bool) -> dict[str, Any]:
    """The answers of a judge who had the latents' own explanations, or others' as a control."""
    value, n = ("control_value", "control_n") if control else ("value", "n")
    rows = pq.read_table(opened.path / "scores.parquet", columns=[value, n]).to_pylist()
    known = [row for row in rows if row[value] is not None]
    values, counts, bounds = [row[value] for row in known], [row[n] or 0 for row in known], _range(opened.summary)
    answers = pq.read_table(opened.path / "answers.parquet", columns=judged.COLUMNS)
    answers = answers.filter(pc.equal(answers["control"], control))
    of_rates = judged.rates(answers)
    return {
        "macro": mean(values).within(bounds).json,
        "micro": judged.pooled(metric, values, counts, answers, of_rates).within(bounds).json,
        "rates": of_rates,
        "by_quantile": judged.curve(answers, True),
        "by_group": judged.curve(answers, False),
        "answers": counted(judged.statuses(answers)),
    }


def _agreement(latents: list[dict[str, Any]], columns: Mapping[str, str], least: int) -> list[dict[str, Any]]:
    """Each pair of scorers: how their scores of the same latents go together."""
    names = list(columns)
    found = []
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            a, b = columns[first], columns[second]
            both = [(row[a], row[b]) for row in latents if row[a] is not None and row[b] is not None]
            if len(both) >= least:
                found.append({"first": first, "second": second, **correlations([x for x, _ in both], [y for _, y in both])})
            else:
                nothing = {"value": None, "low": None, "high": None}
                found.append({"first": first, "second": second, "n": len(both), "pearson": nothing, "spearman": nothing})
    return found
