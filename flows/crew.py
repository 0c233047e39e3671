"""The crew of a run on a work pool: its lanes, started where there is work for a GPU, and replaced when they die.

What is done is read from the store, never from the state of a lane: one that crashed is a warning when nothing is missing.
"""

from __future__ import annotations

import contextvars
import os
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.context import FlowRunContext
from prefect.deployments import run_deployment
from prefect.exceptions import PrefectException
from prefect.states import Cancelled, Cancelling

from artifacts.lease import boot_id, process_started
from flows.ordering import Seen, lanes, missing
from flows.pool import connected, flow_runs, is_watcher, last_words, tag
from flows.realise import StageFailed, needs_gpu
from flows.runs import Events, now
from flows.server import LANE, ServerFailed
from flows.session import Session
from tasks.realising import units
from tasks.stage import Recipe

POLL_SECONDS = 2.0
STRIKES = 3
"""Lanes that may die one after another while nothing gets made, before a run is given up."""


class Crew:
    """The lanes of a run: started where there is work for a GPU, replaced when they die, cancelled at an error."""

    def __init__(self, session: Session, jobs: Mapping[str, Any], stamp: Mapping[str, str] | None) -> None:
        self._session, self._jobs, self._stamp = session, dict(jobs), stamp and dict(stamp)
        self._run, self._begun = session.record.id, now()
        self._seen = Seen(session.store)
        self._started: dict[Any, int] = {}
        self._ended: set[Any] = set()
        self._n, self._strikes, self._made = 0, 0, -1
        self._events = Events(session.store, self._run)
        self._told: set[str] = set()
        self.hopeless: str | None = None
        self._stuck = False
        """Whether all that is missing rests on something that lanes failed to make."""
        self._stop = threading.Event()
        context = contextvars.copy_context()  # a thread of its own, in the flow run's context: lanes are its subflows
        self._thread = threading.Thread(target=context.run, args=(self._watch,), name="lanes", daemon=True)

    def __enter__(self) -> Crew:
        self._thread.start()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._stop.set()
        self._thread.join(30)
        with suppress(Exception), connected() as client:  # lanes end by themselves too, a little later
            for run in flow_runs(client, self._run):
                if is_watcher(run):
                    continue
                if run.state_type != StateType.RUNNING:
                    client.set_flow_run_state(run.id, Cancelled(message="its run has ended"))
                elif kind is not None:
                    client.set_flow_run_state(run.id, Cancelling(message="its run was ended"))  # its worker ends the process

    def go_on(self, idle_seconds: float) -> bool:
        """Whether lanes may still make what is waited for."""
        return self.hopeless is None and not self._stuck and self._thread.is_alive()

    def raise_failures(self) -> None:
        """Raise what lanes failed of, where something is still missing. What crashed but is made is forgotten."""
        todo = {r.address: r for r in missing(self._session.wanted.finals, self._session.store)}
        if not todo:
            return
        for event in self._failures():
            lane = [todo[a] for a in event["artifacts"] if a in todo]
            if lane:
                raise StageFailed(lane, RuntimeError(f"{event['error']} (on {event['host']})"))
        raise RuntimeError(self.hopeless or f"{len(todo)} artifacts are missing, but the lanes have ended; run it again")

    def _failures(self) -> list[dict[str, Any]]:
        self._events.new()
        return [e for e in self._events.all if e["what"] == "failed" and e["when"] >= self._begun]

    def _watch(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            try:
                self._look()
            except (ServerFailed, ConnectionError, httpx.HTTPError, PrefectException) as error:  # lanes go on without it
                self._note(f"{_line(error)}; lanes go on, trying again")
            except Exception as error:  # of the store, say: told where the flow ends, not lost with this thread
                self.hopeless = _line(error)
            if self.hopeless:
                self._session.progress.note(self.hopeless)
                return

    def _look(self) -> None:
        """Start what lanes there is work for; count those that died."""
        session = self._session
        todo = missing(session.wanted.finals, session.store, self._seen)
        failed = {a for e in self._failures() for a in e["artifacts"]}
        blocked: set[str] = set()
        for recipe in todo:  # parents first
            if recipe.address in failed or any(p.address in blocked for p in recipe.parents()):
                blocked.add(recipe.address)
        self._stuck = bool(todo) and len(blocked) == len(todo)
        n = sum(self._n_jobs(group) for group in lanes(_ready(todo, blocked)))
        with connected() as client:
            alive = [run for run in flow_runs(client, self._run) if not is_watcher(run)]
            self._count_the_dead(client, {run.id for run in alive})
            lost = self._lost()
            working = [run for run in alive if str(run.id) not in lost]
            workers = self._n_workers(client)
        if n and not workers:
            self._note("no worker of the work pool gpu is online; start one: saint worker --pool gpu")
        abreast = session.runtime.lanes or max(1, workers)
        wanted = min(n, abreast)
        for _ in range(wanted - len(working)):
            self._start(wanted, abreast, sorted(failed))

    @staticmethod
    def _n_jobs(group: list[Recipe]) -> int:
        return len(units(group)) if group[0].stage.together else 1

    def _start(self, of: int, abreast: int, skip: list[str]) -> None:
        number = self._n % max(of, 1)
        parameters = {
            "jobs": self._jobs, "run": self._run, "stamp": self._stamp, "number": number, "of": of, "abreast": abreast, "skip": skip,
        }  # fmt: skip
        name = f"{self._run} lane {self._n}"
        run = run_deployment(LANE, parameters=parameters, timeout=0, tags=[tag(self._run)], flow_run_name=name)
        self._started[run.id] = self._n
        self._n += 1

    def _count_the_dead(self, client: SyncPrefectClient, alive: set[Any]) -> None:
        made = len(self._seen.there)
        if made > self._made:
            self._made, self._strikes = made, 0
        for id in set(self._started) - alive - self._ended:
            self._ended.add(id)
            run = client.read_flow_run(id)
            state, message = run.state, last_words(client, run)
            if state is None or state.type == StateType.COMPLETED or "StageFailed" in message:
                continue
            self._session.progress.note(f"lane {self._started[id]} ended as {state.name}: {message}")
            self._strikes += 1
            if state.type == StateType.FAILED:  # it could not even begin: another version, another file
                self.hopeless = f"lane {self._started[id]} failed: {message}"
            elif self._strikes >= STRIKES:
                self.hopeless = f"{STRIKES} lanes died in a row, but nothing was made meanwhile; the last: {message}"

    def _lost(self) -> set[str]:
        """Flow runs of lanes whose process ran on this host and is gone, whatever the server still believes."""
        return {
            e["flow_run"]
            for e in self._events.all
            if e["what"] == "lane began"
            and e["host"] == socket.gethostname()
            and (e["boot"] != boot_id() or process_started(e["pid"]) != e["started"])
        }

    def _n_workers(self, client: SyncPrefectClient) -> int:
        pool = client.read_deployment_by_name(LANE).work_pool_name or ""
        return sum(worker.status == "ONLINE" for worker in client.read_workers_for_work_pool(pool))

    def _note(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._session.progress.note(text)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _ready(todo: list[Recipe], blocked: set[str]) -> list[Recipe]:
    """What lanes could make now, or are making."""
    absent = {r.address for r in todo}
    return [
        r for r in todo
        if needs_gpu(r) and r.address not in blocked and absent.isdisjoint(p.address for p in r.parents())
    ]  # fmt: skip


def began() -> dict[str, Any]:
    """Which process a lane is, for whoever wants to know whether it lives."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    pid = os.getpid()
    return {"flow_run": str(run.id) if run else "", "boot": boot_id(), "started": process_started(pid)}

