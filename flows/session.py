"""A session: jobs, what they want, and the record that is kept of it; in the user's process or in a worker's."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from artifacts.store import Store
from flows.plan import Plan, plan
from flows.recipes import Wanted
from flows.runs import RunRecord
from flows.sweep import Job, check_stamp, packed, stamp, typed, unpacked
from tasks.progress import Both, Progress
from tasks.spec import Runtime


@dataclass
class Session:
    """One run of some jobs."""

    jobs: Sequence[Job]
    plan: Plan
    record: RunRecord
    display: Progress = field(default_factory=Progress)
    @staticmethod
    def opened(
        body: Mapping[str, Any], run: str | None, said: Mapping[str, str] | None, mode: str = "pool"
    ) -> Session:
        """The session of a flow that a worker runs. Raises ``SpecError`` when its keys would not be those that are wanted."""
        jobs = unpacked(body)
        if said is not None:
            check_stamp(jobs, said, socket.gethostname())
        found = plan(jobs)
        if run is None:
            return Session(jobs, found, RunRecord.new(jobs, found, typed([job.overrides for job in jobs]), mode=mode))
        return Session(jobs, found, RunRecord.joined(jobs[0].pipeline.store, run))

    @property
    def store(self) -> Store:
        return self.jobs[0].pipeline.store

    @property
    def runtime(self) -> Runtime:
        return self.jobs[0].pipeline.runtime

    @property
    def wanted(self) -> Wanted:
        return self.plan.wanted

    @cached_property
    def progress(self) -> Progress:
        """Told to the display and to the record."""
        return Both(self.display, self.record)

    @cached_property
    def packed(self) -> dict[str, Any]:
        """The jobs as a flow's parameter."""
        return packed(self.jobs)

    @cached_property
    def stamp(self) -> dict[str, str]:
        """What a worker's keys must come to."""
        return stamp(self.jobs)

    @contextmanager
    def told(self, flow_run: str | None = None) -> Iterator[None]:
        """Keep the record up to date on how the run stands, for the time of the block."""
        status, failure = "interrupted", None
        self.record.update("running", flow_run=flow_run)
        try:
            yield
            status = "done"
        except Exception as error:
            status, failure = "failed", " ".join((str(error) or type(error).__name__).split())
            raise
        finally:
            self.record.update(status, failure)

