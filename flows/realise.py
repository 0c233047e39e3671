"""Realise: make what is missing, lane by lane, inputs first. The one loop that submits work."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from artifacts.keys import Artifact
from artifacts.store import Store
from tasks.progress import Progress
from tasks.realising import Outcome, lanes, make_all, missing
from tasks.spec import Runtime
from tasks.stage import Recipe

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
        super().__init__(f"{self.stage}: {cause}")


def realise(
    wanted: Sequence[Recipe],
    store: Store,
    runtime: Runtime,
    progress: Progress,
    submit: Callable[[Lane], Outcome] | None = None,
    finished: Callable[[LaneRecord], None] = lambda record: None,
) -> list[LaneRecord]:
    """Make every wanted artifact that does not exist. ``submit`` runs one lane (in this process, if not given).

    Raises ``StageFailed`` from the error of the first lane that fails; what was committed before stays.
    """
    submit = submit or (lambda lane: make_all(lane, store, runtime, progress))
    records = []
    for lane in lanes(missing(wanted, store)):
        begun = time.monotonic()
        try:
            outcome = submit(lane)
        except Exception as error:
            raise StageFailed(lane, error) from error
        record = LaneRecord(lane[0].stage.name, outcome.made, outcome.hits, round(time.monotonic() - begun, 2))
        records.append(record)
        finished(record)
    return records
