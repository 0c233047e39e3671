"""Making artifacts: leases, attempts, commits around a stage's plain function.

``flows`` decides what and in which order; this decides nothing but who does what now. What exists is skipped, what another live
process is making is left to it and adopted, what a dead one left is continued.
"""

from __future__ import annotations

import errno
import itertools
import platform
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from typing import Any

from artifacts.errors import ArtifactBusy, ArtifactError, LeaseLost, StoreUnwritable
from artifacts.journal import Journal
from artifacts.keys import Artifact, canonical_json
from artifacts.store import Opened, Store
from tasks.devices import guard_name, guarded
from tasks.progress import Progress
from tasks.spec import Runtime
from tasks.stage import Job, Recipe, Stage, Unit

POLL_SECONDS = 0.5


@dataclass
class Outcome:
    """What became of some recipes."""

    made: list[Artifact] = field(default_factory=list)
    hits: list[Artifact] = field(default_factory=list)
    """Existed already, or were made by another process in the meantime."""

    busy: list[str] = field(default_factory=list)
    """Why what was left to others was left to them."""

    failed: list[tuple[Recipe, Exception]] = field(default_factory=list)
    """What could not be made, though others of its lane could."""


class SomeFailed(RuntimeError):
    """Some recipes of a lane could not be made; ``outcome`` says which and why, and what became of the others."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        super().__init__("; ".join(f"{recipe.artifact}: {error}" for recipe, error in outcome.failed))


def units(recipes: Sequence[Recipe], most: int = 1, abreast: int = 1) -> list[list[Recipe]]:
    """Recipes of one lane, grouped into passes: equal but for the field named by ``stage.together``.

    Where the stage bounds its passes (``at_most``) they are of ``most`` recipes at most, and of fewer where otherwise some of
    the processes that work ``abreast`` would have none.
    """
    found: dict[Any, list[Recipe]] = {}
    for recipe in recipes:
        payload = recipe.spec.payload()
        payload.pop(recipe.stage.together or "", None)
        found.setdefault(canonical_json(payload), []).append(recipe)
    if not recipes or recipes[0].stage.at_most is None:
        return list(found.values())
    passes = []
    for group in found.values():
        n = max(-(-len(group) // most), min(len(group), -(-abreast * len(group) // len(recipes))))
        ends = [i * len(group) // n for i in range(n + 1)]
        passes += [group[a:b] for a, b in pairwise(ends)]
    return passes


def make_all(
    recipes: Sequence[Recipe],
    store: Store,
    runtime: Runtime,
    progress: Progress,
    *,
    wait: bool = True,
    share: tuple[int, int] = (0, 1),
    abreast: int = 1,
) -> Outcome:
    """Make the recipes of one lane, whose inputs exist.

    What another process is making is waited for; without ``wait`` it is left to it. ``share`` = (k, n) begins at the k-th
    of n parts and goes round, so that n processes that make the same recipes meet each other late. ``abreast`` is how many
    processes may come to work at these recipes: passes that have a bound leave some for each.
    Raises what the stage raises, ``SomeFailed`` where it made others all the same, ``ArtifactCorrupt`` for a damaged input, and
    ``StoreUnwritable`` for a full disk.
    """
    if not recipes:
        return Outcome()
    stage, outcome = recipes[0].stage, Outcome()
    _set_threads(runtime)
    store.tidy()
    most = 1 if stage.at_most is None else getattr(runtime, stage.at_most)
    groups = units(recipes, most, abreast)
    first = share[0] * len(groups) // share[1]
    at_work: list[Job] = []
    passes = _passes(groups[first:] + groups[:first], store, runtime, progress, outcome, wait, at_work)
    device = guarded(runtime, progress) if "gpu" in stage.tags else nullcontext()
    try:
        with device:
            _run(stage, passes)
    except Exception as error:
        _check_wanted(at_work, error)
        if isinstance(error, OSError):
            raise _explained(error, store) from error
        raise
    finally:
        passes.close()  # after an error: gives up what was begun, so that leases are free at once
    if outcome.failed and len(recipes) == 1:
        raise outcome.failed[0][1]
    if outcome.failed:
        raise SomeFailed(outcome) from outcome.failed[0][1]
    return outcome


def _run(stage: Stage, passes: Iterator[Unit]) -> None:
    if stage.together is None:
        for (job,) in passes:
            job.summary.update(stage.run(job))
        return
    first = next(passes, None)
    if first is not None:
        stage.run(itertools.chain([first], passes))
        for _ in passes:  # a stage must take all units; commits the last one it took
            raise RuntimeError(f"stage {stage.name} returned before its last unit")


def _passes(
    groups: list[list[Recipe]],
    store: Store,
    runtime: Runtime,
    progress: Progress,
    outcome: Outcome,
    wait: bool,
    jobs: list[Job],
) -> Iterator[Unit]:
    """Units of jobs to do now. Asking for the next one commits the last. ``jobs`` is filled with those of the unit that are not
    committed yet, and after an error left as it was."""
    opened: dict[Artifact, Opened] = {}
    waiting = groups
    told: set[str] = set()
    while waiting:
        busy: list[list[Recipe]] = []
        moved = False
        for group in waiting:
            jobs.clear()
            left: list[Recipe] = []
            try:
                ordered = sorted(group, key=lambda r: r.key)  # in one order everywhere, or two runs deadlock
                for i, recipe in enumerate(ordered):
                    try:
                        if store.find(recipe.artifact) is not None:
                            attempt = None
                        else:
                            attempt = store.begin(recipe.artifact, recipe.json, runtime.lease_ttl_seconds)
                    except ArtifactBusy as error:
                        if wait and str(error) not in told:
                            told.add(str(error))
                            progress.note(str(error))
                        outcome.busy += [] if wait else [str(error)]
                        if recipe.stage.at_most is not None:  # others cut these recipes into passes otherwise
                            left.append(recipe)
                            continue
                        left = ordered[i:]  # who has one of a pass is about to take the rest of it
                        break
                    if attempt is None:
                        outcome.hits.append(recipe.artifact)
                        progress.event("found", artifact=recipe.address)
                        continue
                    jobs.append(
                        Job(
                            recipe=recipe,
                            spec=recipe.spec,
                            inputs={},
                            attempt=attempt,
                            runtime=runtime,
                            progress=progress,
                            journal=Journal(store.backend, "journal"),
                        )
                    )
                for job in jobs:
                    job.inputs = _open_inputs(job.recipe, store, opened)
                if jobs:
                    yield tuple(jobs)
                    _commit(jobs, runtime, progress, outcome)
                    moved = True
            finally:
                for job in jobs:  # only when something went wrong above
                    job.attempt.abandon()
            if left:
                busy.append(left)
        waiting = busy if wait else []
        if waiting and not moved:
            time.sleep(POLL_SECONDS)


def _commit(jobs: list[Job], runtime: Runtime, progress: Progress, outcome: Outcome) -> None:
    by = made_by()
    if "gpu" in jobs[0].recipe.stage.tags:
        by["device"] = guard_name(runtime) or "cpu"
    if len(jobs) > 1:
        by["together"] = len(jobs)
    while jobs:
        job = jobs[0]
        if job.failure is not None:
            _check_wanted([job], job.failure)
            job.attempt.abandon()
            jobs.pop(0)
            outcome.failed.append((job.recipe, job.failure))
            continue
        won = job.attempt.commit(job.summary, by)
        jobs.pop(0)
        ours = won.attempt == job.attempt.id
        (outcome.made if ours else outcome.hits).append(job.recipe.artifact)
        figures = {name: value for name, value in won.summary.items() if isinstance(value, (int, float, str))}
        seconds = won.made_by.get("seconds")
        what, device = "made" if ours else "found", by.get("device")
        progress.event(what, artifact=job.recipe.address, seconds=seconds, device=device, figures=figures)


def _check_wanted(jobs: Sequence[Job], failure: Exception) -> None:
    """Raise ``LeaseLost`` where another has one of the jobs, or has done it, since its commit sweeps files away under our hands."""
    for job in jobs:
        try:
            job.attempt.check_wanted()
        except LeaseLost as lost:
            raise lost from failure
        except (OSError, ArtifactError):
            continue  # the store tells nothing; what went wrong with the work is what is to be told


def _open_inputs(recipe: Recipe, store: Store, opened: dict[Artifact, Opened]) -> dict[str, Any]:
    def one(parent: Recipe) -> Opened:
        if parent.artifact not in opened:
            opened[parent.artifact] = store.open(parent.artifact)
        return opened[parent.artifact]

    return {
        name: one(value) if isinstance(value, Recipe) else tuple(one(item) for item in value)
        for name, value in recipe.inputs.items()
    }


def _set_threads(runtime: Runtime) -> None:
    if runtime.threads:
        from tasks.lazy import torch

        torch.set_num_threads(runtime.threads)


def made_by() -> dict[str, Any]:
    """Who makes artifacts here: host, Python, and the versions of the libraries in use."""
    versions = {}
    for name in ("torch", "transformers", "tokenizers", "zarr", "numcodecs", "pyarrow", "anthropic", "openai", "llguidance", "numpy"):
        if name in sys.modules:
            try:
                versions[name] = version(name)
            except PackageNotFoundError:
                continue
    return {
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "versions": versions,
    }


def _explained(error: OSError, store: Store) -> Exception:
    """A full or read-only disk in our grammar; anything else as it is."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return error
    name, folder = store.backend.disk
    reason = "it is read-only" if error.errno == errno.EROFS else "the disk is full"
    try:
        reason += f" ({shutil.disk_usage(folder).free / 1e9:.2f} GB free)"
    except OSError:
        pass
    return StoreUnwritable(
        f"{name} = {str(folder)!r}, but {reason}; nothing that was committed is lost: "
        "make room, then give the same command"
    )
