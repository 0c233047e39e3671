"""A sweep: many jobs, one DAG. What several jobs want is made once; layers that share a model share its passes.

A single run is a sweep of one job, so everything else in ``flows`` takes jobs. Jobs travel to workers as resolved data
(``packed``), never as overrides: a queued run cannot change when a file of conf/ does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from artifacts.keys import canonical_json, digest_of
from flows.composing import composed, explained, in_grammar
from flows.config import Pipeline
from flows.goals import Goal, pipeline_of
from flows.goals import wanted as wanted_by
from flows.recipes import Wanted
from tasks.compare import CompareSpec, JobRow, compare
from tasks.spec import SpecError
from tasks.stage import Recipe

_HOOKPOINTS = "capture.hookpoints"


@dataclass(frozen=True)
class Job:
    """One point of a sweep."""

    overrides: tuple[str, ...]
    """As typed."""

    settings: Mapping[str, Any]
    """What this job sets and others set otherwise, hookpoints left out: dotted name to value."""

    pipeline: Pipeline
    goal: Goal | None = None
    """What it is to end with; null: the report."""

    @cached_property
    def wanted(self) -> Wanted:
        """What it wants, by itself."""
        return wanted_by(self.pipeline, self.goal)

    @property
    def label(self) -> str:
        """The settings on one line; empty for a single run."""
        return " ".join(f"{name}={value}" for name, value in self.settings.items())


def jobs(each: Sequence[Sequence[str]], goal: Goal | None = None) -> list[Job]:
    """The jobs of some lists of overrides. Raises ``SpecError``, also for a sweep that has none or spans two stores."""
    if not each:
        raise SpecError("-m, but the values given make no job at all; name at least one value")
    found = [pipeline_of(composed(overrides), goal) for overrides in each]
    for section in ("backend", "runtime"):
        for p in found[1:]:
            if p.plain[section] != found[0].plain[section]:
                field = next(n for n, v in p.plain[section].items() if v != found[0].plain[section].get(n))
                one, other = (q.plain[section].get(field) for q in (found[0], p))
                raise SpecError(
                    f"{section}.{field} = {one!r} and {other!r}, but all jobs of a sweep share one {section}; use one value"
                )
    return [Job(tuple(o), s, p, goal) for o, s, p in zip(each, _settings(each, found), found, strict=True)]


def typed(of: Sequence[Sequence[str]]) -> list[str]:
    """What a user would type for the overrides of some jobs."""
    values: dict[str, list[str]] = {}
    for override in (o for overrides in of for o in overrides):
        name, sign, value = override.partition("=")
        if value not in values.setdefault(name + sign, []):
            values[name + sign].append(value)
    return [*(["-m"] if len(of) > 1 else []), *(name + ",".join(some) for name, some in values.items())]


def split(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each job of a sweep, as Hydra's own sweeper makes them of ``sae.k=8,16``."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides([in_grammar(o, sweep=True) for o in overrides])
        (batch,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    except HydraException as error:
        raise SpecError(explained(error, overrides)) from None
    return [list(job) for job in batch]


def _settings(each: Sequence[Sequence[str]], found: Sequence[Pipeline]) -> Iterator[dict[str, Any]]:
    """Per job, the overrides that not all jobs have."""
    often = Counter(override for overrides in each for override in set(overrides))
    for overrides, p in zip(each, found, strict=True):
        swept = [o for o in overrides if often[o] < len(each)]
        names = [o.lstrip("+~").partition("=")[0] for o in swept]
        texts = [o.partition("=")[2] for o in swept]
        yield {n: _value(p.plain, n, t) for n, t in zip(names, texts, strict=True) if n != _HOOKPOINTS}


def _value(plain: Any, name: str, text: str) -> Any:
    """A setting as the number or string that it was resolved to; the text for a group, ``sae=topk``."""
    for part in name.split("."):
        plain = plain.get(part) if isinstance(plain, Mapping) else None
    return text if plain is None or isinstance(plain, Mapping) else plain


def wanted(of: Sequence[Job]) -> Wanted:
    """What all jobs want together: one node for each key, and the comparison of the jobs where there are several."""
    if len(of) == 1:
        return of[0].wanted
    union = Wanted()
    rows: list[tuple[JobRow, dict[str, Recipe]]] = []
    for job in of:
        for page, (hookpoint, named) in zip(job.wanted.finals, job.wanted.named.items(), strict=True):
            if page not in union.finals:
                union.finals.append(page)
                union.named[f"{hookpoint} {job.label}".strip()] = named
                rows.append((JobRow(hookpoint=hookpoint, settings=dict(job.settings)), named))
    if len(rows) > 1 and of[0].goal is None:
        shared = set.intersection(*(set(named) for _, named in rows))
        inputs = {
            name.replace("/", "_"): [named[name] for _, named in rows]
            for name in sorted(shared)
            if name in ("train", "evaluate") or name.startswith("score/")
        }
        union.finals.append(compare(CompareSpec(jobs=tuple(row for row, _ in rows)), **inputs))
    return union


def repeated(of: Sequence[Job]) -> list[str]:
    """A line for each job that is the same run as one before it."""
    seen: dict[tuple[Recipe, ...], int] = {}
    lines = []
    for i, job in enumerate(of):
        first = seen.setdefault(tuple(job.wanted.finals), i)
        if first != i:
            lines.append(f"jobs {first + 1} and {i + 1} of {len(of)} are the same run; it is made once")
    return lines


# for the way to a worker


def packed(of: Sequence[Job]) -> dict[str, Any]:
    """Jobs as JSON: the first one's configuration, and of the others the sections that differ from it."""
    plains = [_anchored(job.pipeline.plain) for job in of]
    return {
        "base": plains[0],
        "jobs": [
            {
                "overrides": list(job.overrides),
                "settings": dict(job.settings),
                **({"goal": job.goal.json} if job.goal is not None else {}),
                "sections": {n: v for n, v in plain.items() if v != plains[0].get(n)},
            }
            for job, plain in zip(of, plains, strict=True)
        ],
    }


def unpacked(body: Mapping[str, Any]) -> list[Job]:
    """The jobs that ``packed`` made JSON of. Raises ``SpecError``."""
    goals = [Goal(**job["goal"]) if job.get("goal") else None for job in body["jobs"]]
    return [
        Job(tuple(job["overrides"]), job["settings"], pipeline_of({**body["base"], **job["sections"]}, goal), goal)
        for job, goal in zip(body["jobs"], goals, strict=True)
    ]


def _anchored(plain: Any, name: str = "") -> Any:
    """A configuration whose paths mean the same in any working directory."""
    if isinstance(plain, Mapping):
        return {n: _anchored(v, n) for n, v in plain.items()}
    if name in ("path", "root", "cache") and isinstance(plain, str):
        return str(Path(plain).expanduser().absolute())
    return plain


def stamp(of: Sequence[Job]) -> dict[str, str]:
    """What must be the same wherever the jobs run: SAINT's version, and for each stage, in order, a digest of its keys."""
    keys: dict[str, list[str]] = {}
    for recipe in wanted(of).all():
        keys.setdefault(recipe.stage.name, []).append(recipe.key)
    return {"saint": version("saint-sae"), **{name: digest_of(canonical_json(found))[:12] for name, found in keys.items()}}


def check_stamp(of: Sequence[Job], said: Mapping[str, str], where: str) -> None:
    """Refuse work whose keys would be others here than where it was given. Raises ``SpecError``.

    Only what ``said`` names is compared: of a schedule the version alone, since its files may be others every night.
    """
    here = stamp(of)
    if all(here.get(name) == value for name, value in said.items()):
        return
    versions = f"saint {here['saint']} on {where}, but the run was submitted by saint {said.get('saint')}"
    if here["saint"] != said.get("saint"):
        raise SpecError(f"{versions}, and its keys may differ; install the same version on both")
    first = next((name for name in said if here.get(name) != said[name]), "saint")
    raise SpecError(
        f"{versions}, and the keys of stage {first} differ ({here.get(first)} here, {said[first]} there): "
        f"other code, or {first} reads something that is another file there; make them the same"
    )
