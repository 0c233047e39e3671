"""Small stages for tests of the machinery: they write numbers and count their own work on disk."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from tasks.spec import Spec
from tasks.stage import Job, Summary, Unit, stage


class NumberSpec(Spec):
    value: int
    where: str
    """Folder that gets one file per computation, so that tests can count them."""

    seconds: float = 0.0


class PartSpec(Spec):
    part: int
    site: str
    where: str
    seconds: float = 0.0


def count(where: str, name: str) -> None:
    Path(where).mkdir(parents=True, exist_ok=True)
    Path(where, f"{name}.{os.getpid()}.{time.monotonic_ns()}").touch()


def counted(where: Path | str) -> list[str]:
    """Names of the computations that were done, in no order."""
    return sorted(p.name.split(".")[0] for p in Path(where).iterdir())


@stage("number", version=1)
def number(job: Job[NumberSpec]) -> Summary:
    count(job.spec.where, f"number-{job.spec.value}")
    time.sleep(job.spec.seconds)
    (job.out / "value.json").write_text(json.dumps(job.spec.value))
    return {"value": job.spec.value}


@stage("part", version=1, together="site")
def part(units: Iterator[Unit]) -> None:
    for unit in units:
        first = unit[0]
        count(first.spec.where, f"pass-{first.spec.part}")
        time.sleep(first.spec.seconds)
        for job in unit:
            base = json.loads((job.one("base").path / "value.json").read_text())
            (job.out / "value.json").write_text(json.dumps(base + job.spec.part))
            job.summary = {"site": job.spec.site}


@stage("total", version=1)
def total(job: Job[NumberSpec]) -> Summary:
    count(job.spec.where, "total")
    found = sum(json.loads((p.path / "value.json").read_text()) for p in job.many("parts"))
    (job.out / "value.json").write_text(json.dumps(found))
    return {"value": found}


def tree(where: Path | str, parts: int = 3, sites: tuple[str, ...] = ("a", "b"), seconds: float = 0.0):
    """A small DAG: one number, parts x sites, their total. Returns the recipe of the total."""
    where = str(where)
    base = number(NumberSpec(value=10, where=where))
    leaves = [
        part(PartSpec(part=i, site=site, where=where, seconds=seconds), base=base) for i in range(parts) for site in sites
    ]
    return total(NumberSpec(value=0, where=where), parts=leaves)
