"""Compare: one page, and one table, of all the SAEs of a sweep. Reads summaries only, so it is done at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from pydantic import Field

from tasks.lazy import pa, pq
from tasks.reporting.sweep_table import Row, label, lines, markdown, settings
from tasks.spec import Spec, SpecError
from tasks.stage import Job, Summary, stage

__all__ = ["CompareSpec", "JobRow", "compare", "front", "fronted", "lines", "markdown", "rows"]


class JobRow(Spec):
    """What tells one job of the sweep from the others."""

    hookpoint: str

    settings: dict[str, Any] = Field(default_factory=dict)
    """The swept overrides that are not the hookpoint: dotted name to JSON value."""


class CompareSpec(Spec):
    """The jobs of the sweep, in the order of the inputs."""

    jobs: tuple[JobRow, ...] = Field(min_length=1)


@stage("compare", version=2)
def compare(job: Job[CompareSpec]) -> Summary:
    """Write ``sweep.html`` and ``sweep.parquet``.

    Inputs, each a list parallel to ``jobs``: train, evaluate, and ``score_<kind>`` for every scorer there is.
    """
    from tasks.reporting.sweep import page

    for name in job.inputs:
        if (n := len(job.many(name))) != len(job.spec.jobs):
            raise SpecError(f"compare.{name} = {n} artifacts, but compare.jobs has {len(job.spec.jobs)}; give one for each")
    scores = {
        name.removeprefix("score_"): [opened.summary for opened in job.many(name)]
        for name in job.inputs
        if name.startswith("score_")
    }
    train, evaluate = job.many("train"), job.many("evaluate")
    found = rows(job.spec.jobs, [t.summary for t in train], [e.summary for e in evaluate], scores)
    for row, opened in zip(found, train, strict=True):
        row["train"] = str(opened.artifact)
    (job.out / "sweep.html").write_text(page(found), "utf-8")
    pq.write_table(table(found), job.out / "sweep.parquet")
    return {"n_jobs": len(found), "n_pareto": sum(row["pareto"] for row in found), "rows": found}


def rows(
    job_specs: Sequence[JobRow],
    train: Sequence[Mapping[str, Any]],
    evaluate: Sequence[Mapping[str, Any]],
    scores: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> list[Row]:
    """One row per job, of summaries in the order of the jobs; ``scores`` by the scorer's kind. JSON values throughout."""
    names = settings([{"settings": spec.settings} for spec in job_specs])
    found: list[Row] = []
    for i, spec in enumerate(job_specs):
        row: Row = {"hookpoint": spec.hookpoint, "settings": dict(spec.settings)}
        row = {"job": label(row, names), **row, "n_latents": train[i].get("n_latents")}
        row |= {name: evaluate[i].get(name) for name in ("l0", "fvu", "ce_loss_recovered", "dead_fraction")}
        row["scores"] = {
            kind: {name: given[i].get(name) for name in ("mean", "control_mean", "n_ok")}
            for kind, given in sorted((scores or {}).items())
        }
        found.append(row)
    return fronted(found)


def fronted(found: Sequence[Row], place: Callable[[Row], Hashable] = itemgetter("hookpoint")) -> list[Row]:
    """The rows with ``pareto`` and ``pareto_ce``: whether each is on the front of its place. What stands at another hookpoint
    has another variance to explain, and is not beaten by it."""
    on: dict[str, set[int]] = {"fvu": set(), "ce_loss_recovered": set()}
    for where in dict.fromkeys(map(place, found)):
        here = [i for i, row in enumerate(found) if place(row) == where]
        for name, members in on.items():
            points = [(found[i]["l0"], found[i][name]) for i in here]
            members.update(here[i] for i in front(points, highest=name != "fvu"))
    return [
        {**row, "pareto": i in on["fvu"], "pareto_ce": i in on["ce_loss_recovered"]} for i, row in enumerate(found)
    ]


def front(points: Sequence[tuple[float | None, float | None]], *, highest: bool = False) -> list[int]:
    """Indices of the points that no other beats, by rising x: low x is good, and low y (or high, if ``highest``).

    A point beats another that is nowhere better and somewhere worse; so equal points stand or fall together.
    A point with None is on no front.
    """
    whole = [(x, -y if highest else y, i) for i, (x, y) in enumerate(points) if x is not None and y is not None]
    found: list[int] = []
    last = (float("-inf"), float("inf"))
    for x, y, i in sorted(whole):
        if y < last[1] or (x, y) == last:
            found.append(i)
            last = (x, y)
    return found


def table(found: Sequence[Row]) -> pa.Table:
    """The rows with a column for each setting and each score."""
    fixed: dict[str, Any] = {name: pa.string() for name in ("job", "hookpoint", "train")}
    fixed |= {"n_latents": pa.int64()}
    fixed |= {name: pa.float64() for name in ("l0", "fvu", "ce_loss_recovered", "dead_fraction")}
    fixed |= {"pareto": pa.bool_(), "pareto_ce": pa.bool_()}
    flat = {name: pa.array([row.get(name) for row in found], kind) for name, kind in fixed.items()}
    for name in settings(found):
        values = [row["settings"].get(name) for row in found]
        flat[f"settings.{name}" if name in flat else name] = _array(values)
    for kind in sorted({kind for row in found for kind in row["scores"]}):
        for name, more in (("mean", ""), ("control_mean", "_control"), ("n_ok", "_n_ok")):
            values = [row["scores"].get(kind, {}).get(name) for row in found]
            flat[f"score_{kind}{more}"] = pa.array(values, pa.int64() if name == "n_ok" else pa.float64())
    return pa.table(flat)


def _array(values: list[Any]) -> pa.Array:
    """Values of one type as they are; of several, or of none that a column holds, as JSON."""
    kinds = {type(value) for value in values if value is not None}
    whole = all(abs(value) < 2**63 for value in values if isinstance(value, int))
    if whole and (kinds == {int, float} or (len(kinds) == 1 and kinds <= {bool, int, float, str})):
        return pa.array(values)
    return pa.array([None if value is None else json.dumps(value, sort_keys=True) for value in values], pa.string())
