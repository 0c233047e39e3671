"""Realise: the one loop that makes what is missing.

Alone it makes everything, inputs first. As one of several lanes, on one host or many, it makes whatever is ready and
nobody else is making, and leaves the rest to the others; what a dead one left is found free, and taken over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from artifacts.errors import LeaseLost, StoreUnwritable
from artifacts.keys import Artifact
from artifacts.lease import busy
from artifacts.store import Store
from flows.ordering import Seen, lanes, missing
from tasks.progress import Progress
from tasks.realising import Outcome, SomeFailed, make_all, units
from tasks.spec import Runtime
from tasks.stage import Recipe

TELL_SECONDS = 5.0
"""Of having nothing to do, after which a person is told for whom we wait."""

Lane = list[Recipe]


@dataclass
class LaneRecord:
    """What became of one lane."""

    stage: str
    made: list[Artifact] = field(default_factory=list)
    hits: list[Artifact] = field(default_factory=list)
    seconds: float = 0.0


class StageFailed(RuntimeError):
    """A stage did not come to its end; ``__cause__`` says why."""

    def __init__(self, lane: Lane, cause: BaseException) -> None:
        self.stage, self.lane = lane[0].stage.name, lane
        self.others: list[StageFailed] = []
        """Further lanes that failed: what does not rest on a failure is made all the same."""
        super().__init__(f"{self.stage}: {cause}")
        self.__cause__ = cause


@dataclass
class Part:
    """Which part of the work is this process's, where several share it."""

    mine: Callable[[Recipe], bool] = lambda recipe: True
    """What it may make; the rest it waits for."""

    lane: int = 0
    lanes: int = 1
    abreast: int = 1
    """How many processes this run may come to have for such work, whether they have begun or not."""
    stay: Callable[[float], bool] = lambda idle_seconds: True
    """Whether to go on waiting, having had nothing to do for so long."""


def realise(
    wanted: Sequence[Recipe],
    store: Store,
    runtime: Runtime,
    progress: Progress,
    submit: Callable[[Lane], Outcome] | None = None,
    part: Part | None = None,
) -> list[LaneRecord]:
    """Make every wanted artifact that does not exist. ``submit`` runs one lane (in this process, if not given).

    A lane that fails stops only what rests on it; then ``StageFailed`` is raised of the first. What was committed stays.
    """
    part = part or Part()
    share, abreast = (part.lane, part.lanes), part.abreast
    submit = submit or (lambda lane: make_all(lane, store, runtime, progress, wait=False, share=share, abreast=abreast))
    records: list[LaneRecord] = []
    failures: list[StageFailed] = []
    stopped: set[Artifact] = set()
    seen, poll_seconds = Seen(store), store.backend.poll_seconds
    told: set[str] = set()
    idle_since = time.monotonic()

    def fail(lane: Lane, error: Exception) -> None:
        failures.append(StageFailed(lane, error))
        stopped.update(r.artifact for r in lane)
        progress.event("failed", stage=lane[0].stage.name, artifacts=[r.address for r in lane], error=_said(error))

    while True:
        todo = missing(wanted, store, seen)
        _stop_what_rests_on(stopped, todo)
        left = [r for r in todo if r.artifact not in stopped and part.mine(r)]
        if not left:
            break
        absent = {r.artifact for r in todo}
        ready = [r for r in left if absent.isdisjoint(p.artifact for p in r.parents())]
        why = {recipe: busy(store.backend, recipe.artifact) for recipe in ready}
        groups = [group for lane in lanes(ready) if (group := _free(lane, why))]
        awaited = {p.artifact for r in todo if not part.mine(r) for p in r.parents()}
        if urgent := [group for group in groups if any(r.artifact in awaited for r in group)]:
            groups = urgent  # what others cannot go on without comes first
        if not groups:
            idle = time.monotonic() - idle_since
            if not part.stay(idle):
                break
            for text in set(filter(None, why.values())) - told if idle > TELL_SECONDS else ():
                told.add(text)
                progress.note(f"{text.partition(', but')[0]}; waiting for it")
            time.sleep(poll_seconds)
            continue
        lane = groups[part.lane * len(groups) // part.lanes]
        begun = time.monotonic()
        try:
            outcome = submit(lane)
        except LeaseLost as error:  # we stood still and another went on: what it makes is as good as ours
            progress.note(str(error))
            time.sleep(poll_seconds)
            continue
        except SomeFailed as error:
            outcome = error.outcome
            for recipe, cause in outcome.failed:
                fail([recipe], cause)
        except Exception as error:
            fail(lane, error)
            if isinstance(error, StoreUnwritable):
                break  # nothing else could be kept either
            continue
        seen.there.update(outcome.made, outcome.hits)
        if not outcome.made and not outcome.hits:
            time.sleep(poll_seconds)  # another was faster
            continue
        record = LaneRecord(lane[0].stage.name, outcome.made, outcome.hits, round(time.monotonic() - begun, 2))
        records.append(record)
        progress.event(
            "lane",
            stage=record.stage,
            made=[f"{a.stage}/{a.key}" for a in record.made],
            hits=[f"{a.stage}/{a.key}" for a in record.hits],
            seconds=record.seconds,
        )
        idle_since = time.monotonic()
    if failures:
        failures[0].others = failures[1:]
        raise failures[0]
    return records


def needs_gpu(recipe: Recipe) -> bool:
    """Whether a recipe is made by the lanes of a work pool, and not by the flow that watches over them."""
    return "gpu" in recipe.stage.tags


def _free(lane: Lane, why: dict[Recipe, str | None]) -> Lane:
    """What of a lane nobody is making. Who has one recipe of a pass is about to take the rest of it."""
    return [recipe for unit in units(lane) if not any(why[r] for r in unit) for recipe in unit]


def _said(error: BaseException) -> str:
    return " ".join((str(error) or type(error).__name__).split())


def _stop_what_rests_on(stopped: set[Artifact], todo: Sequence[Recipe]) -> None:
    """Add to ``stopped`` whatever needs something in it. ``todo`` has parents first."""
    for recipe in todo:
        if not stopped.isdisjoint(p.artifact for p in recipe.parents()):
            stopped.add(recipe.artifact)
