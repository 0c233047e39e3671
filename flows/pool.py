"""Runs on Prefect work pools, as their user sees them: submitting, and how they stand.

Two deployments carry a run (deployments/prefect.yaml): ``interpret/pool`` watches over it and does what needs no GPU;
``lane/gpu`` is one GPU's part, started as often as there are GPUs and work for them
(``flows.crew``).
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
    LogFilter,
    LogFilterFlowRunId,
    LogFilterLevel,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound, PrefectException

from artifacts.store import Store
from flows.runs import recorded
from flows.server import LANE, WATCHER, unusable
from flows.session import Session
from tasks.spec import SpecError
from tasks.stage import Recipe

LOG_SECONDS, MOST_LOG_SECONDS = 3.0, 15.0
"""After which the last lines of a job are in the server's log, mostly and at most: they are sent in batches."""

GOING = ("SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING")
_ALIVE = [StateType(name) for name in GOING]


@contextmanager
def connected() -> Iterator[SyncPrefectClient]:
    """A client of the server of PREFECT_API_URL. Raises ``ServerFailed``."""
    try:
        with get_client(sync_client=True) as client:
            yield client
    except (httpx.HTTPError, PrefectException) as error:
        raise unusable(error) from error
    except RuntimeError as error:
        if "Failed to reach API" not in str(error):
            raise
        raise unusable(error) from error


def tag(run: str) -> str:
    """What all flow runs of a run carry."""
    return f"run:{run}"


def flow_runs(client: SyncPrefectClient, run: str, alive: bool = True) -> list[FlowRun]:
    """Flow runs that belong to a run of ours: its lanes and the one that watches over them."""
    state = FlowRunFilterState(type=FlowRunFilterStateType(any_=_ALIVE)) if alive else None
    wanted = FlowRunFilter(tags=FlowRunFilterTags(all_=[tag(run)]), state=state)
    return client.read_flow_runs(flow_run_filter=wanted, sort=FlowRunSort.START_TIME_ASC, limit=200)


def check(client: SyncPrefectClient) -> None:
    """Raise ``SpecError`` when the server cannot run what is submitted to it."""
    where = os.environ.get("PREFECT_API_URL")
    if not where:
        raise SpecError(
            "runtime.mode = 'pool', but PREFECT_API_URL names no server; start one as deployments/README.md says, or use local"
        )
    for name in (WATCHER, LANE):
        try:
            deployment = client.read_deployment_by_name(name)
        except ObjectNotFound:
            raise SpecError(
                f"runtime.mode = 'pool', but the server at {where} has no deployment {name}; make it with: saint deploy"
                + ("" if where.rstrip("/").endswith("/api") else ", and let the address end in /api")
            ) from None
        try:
            pool = client.read_work_pool(deployment.work_pool_name or "")
        except ObjectNotFound:
            raise SpecError(
                f"runtime.mode = 'pool', but the work pool {deployment.work_pool_name!r} of {name} does not exist; "
                "make it with: saint deploy"
            ) from None
        if pool.is_paused:
            raise SpecError(
                f"runtime.mode = 'pool', but the work pool {pool.name!r} is paused; prefect work-pool resume {pool.name}"
            )


def going(store: Store, finals: list[Recipe]) -> str | None:
    """The id of a run for these very artifacts that is going on in the pool, to join instead of submitting it twice.

    Raises ``SpecError`` when the server has no pool to go on in.
    """
    wanted = [r.address for r in finals]
    with connected() as client:
        check(client)
        for run in reversed(recorded(store)):
            open_ = run.get("mode") == "pool" and run["status"] in ("submitted", "running") and run.get("finals") == wanted
            if open_ and (standing := status(run["id"], run.get("flow_run"))) and standing[0] in GOING:
                return run["id"]
    return None


def is_watcher(found: FlowRun) -> bool:
    """Whether a flow run watches over a run, and is none of its lanes."""
    return "of" not in found.parameters


def submit(session: Session) -> str:
    """Hand a session to the pool; returns where Prefect shows it. Raises ``SpecError`` and ``ServerFailed``."""
    with connected() as client:
        deployment = client.read_deployment_by_name(WATCHER)
        parameters = {"jobs": session.packed, "run": session.record.id, "stamp": session.stamp, "pool": True}
        found = client.create_flow_run_from_deployment(
            deployment.id, parameters=parameters, name=session.record.id, tags=[tag(session.record.id)]
        )
        return f"{os.environ['PREFECT_API_URL'].removesuffix('/').removesuffix('/api')}/runs/flow-run/{found.id}"


def status(run: str, flow_run: str | None = None) -> tuple[str, str] | None:
    """Type and message of the state of the flow run that watches over a run; None when the server has none.

    ``flow_run`` is its id, where it is known: one that a schedule started carries no tag of the run.
    """
    with connected() as client:
        try:
            found = [client.read_flow_run(UUID(flow_run))] if flow_run else flow_runs(client, run, alive=False)
        except ObjectNotFound:
            return None
        found = [one for one in found if is_watcher(one)]
        if not found or found[0].state is None:
            return None
        return found[0].state.type.value, last_words(client, found[0])


def last_words(client: SyncPrefectClient, run: FlowRun) -> str:
    """What a flow run ended with. One that never came as far as our code is explained by its log alone."""
    message = (run.state.message or "") if run.state else ""
    if run.state_type not in (StateType.CRASHED, StateType.FAILED):
        return message
    logged = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]), level=LogFilterLevel(ge_=logging.WARNING))
    never_began = "could not start" in message  # Prefect's words for what broke in the worker; why, only the log says
    began, text = time.monotonic(), ""
    while not text and time.monotonic() - began < (MOST_LOG_SECONDS if never_began else LOG_SECONDS):
        time.sleep(LOG_SECONDS)
        text = "\n".join(log.message for log in client.read_logs(log_filter=logged, limit=50))
    if missing_module := re.findall(r"No module named '[^']*'", text + message):
        return (
            f"{missing_module[-1]}: its worker has no saint, or another one; "
            "install the same version there, and start it by saint worker"
        )
    errors = re.findall(r"^[\s|]*((?:\w+\.)*\w*(?:Error|Exception|Timeout)\b.*)$", text, re.MULTILINE)
    return f"{message}: {errors[0]}" if never_began and errors else message  # the first is what the others came of
