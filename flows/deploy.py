"""``saint deploy``: work pools, deployments, limits and the automation that finds dead runs, on the server of PREFECT_API_URL.

Says what is to be so, and makes it so: given twice, the second time changes nothing that matters. What somebody changed on the
server and had a reason for (a pool's template, the limit) stays.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import timedelta
from importlib.metadata import version
from importlib.resources import as_file, files
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from flows.server import apply

apply()

import httpx  # noqa: E402
from prefect.automations import Automation  # noqa: E402
from prefect.client.orchestration import SyncPrefectClient, get_client  # noqa: E402
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate  # noqa: E402
from prefect.client.schemas.schedules import CronSchedule  # noqa: E402
from prefect.deployments.runner import EntrypointType, RunnerDeployment  # noqa: E402
from prefect.events.actions import ChangeFlowRunState  # noqa: E402
from prefect.events.schemas.automations import EventTrigger, Posture  # noqa: E402
from prefect.exceptions import ObjectNotFound  # noqa: E402
from prefect.states import StateType  # noqa: E402
from prefect.workers.process import ProcessWorker  # noqa: E402

from flows.server import LANE, LLM_TAG, POOLS, WATCHER, ZOMBIES, unusable  # noqa: E402
from flows.sweep import Job, packed, stamp, typed  # noqa: E402
from tasks.spec import SpecError  # noqa: E402

LLM_LIMIT = 4
"""Stages that ask an LLM at a time, over all runs: prefect gcl and the UI change it."""

HEARTBEAT_SECONDS = 60
ENDS = ("Completed", "Cached", "Failed", "Cancelled", "Crashed", "Paused", "Suspended", "AwaitingRetry", "Cancelling")

COMMAND = "python -m prefect.engine"
"""As in deployments/prefect.yaml: the worker's own Python, without a process that looks for the code first."""


def deploy() -> list[str]:
    """Bring the server to what SAINT needs; a line for each thing that it now has. Raises ``ServerFailed``."""
    if not os.environ.get("PREFECT_API_URL"):
        raise SpecError("saint deploy, but PREFECT_API_URL names no server; start one as deployments/README.md says")
    said = []
    try:
        with get_client(sync_client=True) as client:
            for name, about in POOLS.items():
                said.append(_pool(client, name, about))
            client.create_concurrency_limit(tag=LLM_TAG, concurrency_limit=_limit(client))
            said.append(f"limit {LLM_TAG}: {_limit(client)} stages that ask an LLM at a time")
        said += _deployments()
        said.append(zombies())
    except (httpx.HTTPError, RuntimeError) as error:
        raise unusable(error) from error
    return said


def _pool(client: SyncPrefectClient, name: str, about: str) -> str:
    try:
        client.read_work_pool(name)
        return f"work pool {name}: was there"
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name=name, type="process", description=about, base_job_template=template))
        return f"work pool {name}: {about}"


def _limit(client: SyncPrefectClient) -> int:
    """What the limit is now, or what it is to be: somebody may have changed it, and had a reason."""
    try:
        return int(client.read_concurrency_limit_by_tag(LLM_TAG).concurrency_limit)
    except ObjectNotFound:
        return LLM_LIMIT


def _deployments() -> list[str]:
    with as_file(files("deployments") / "prefect.yaml") as path:
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(path)]
        env = {**os.environ, "SAINT_VERSION": version("saint-sae")}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeError(f"prefect deploy: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    return [f"deployment {WATCHER}: a run", f"deployment {LANE}: one GPU's part of it"]


def zombies(within_seconds: int = 3 * HEARTBEAT_SECONDS) -> str:
    """The automation that ends a run whose process died with its worker: nobody else tells the server."""
    died = EventTrigger(
        # From the state Running on, not from the first heartbeat: a run may die before it has sent one.
        after={"prefect.flow-run.Running", "prefect.flow-run.heartbeat"},
        expect={f"prefect.flow-run.{name}" for name in ("heartbeat", *ENDS)},
        match={"prefect.resource.id": ["prefect.flow-run.*"]},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=within_seconds),
    )
    act = ChangeFlowRunState(
        state=StateType.CRASHED, message=f"no heartbeat for {within_seconds} s: its process is gone", force=False
    )
    wanted = {"name": ZOMBIES, "description": "saint deploy made it", "trigger": died, "actions": [act]}
    try:
        found: Any = Automation.read(name=ZOMBIES)
        for field, value in wanted.items():
            setattr(found, field, value)
        found.update()
    except ValueError:  # there is none
        Automation(**wanted).create()
    return f"automation {ZOMBIES!r}: after {within_seconds} s without a heartbeat a run counts as crashed"


def times(name: str, cron: str, timezone: str) -> CronSchedule:
    """When a schedule of some name runs. Raises ``SpecError`` for a name, an expression or a time zone that is none."""
    if not re.fullmatch(r"[\w.-]+", name):
        raise SpecError(f"--name {name!r}, but a deployment's name has letters, digits, dots and dashes; use such a name")
    try:
        ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise SpecError(f"--timezone {timezone!r}, but there is no such time zone; write it as Europe/Berlin, or UTC") from None
    try:
        return CronSchedule(cron=cron, timezone=timezone)
    except ValueError:
        raise SpecError(f"--cron {cron!r}, but it is no cron expression; try '0 2 * * *', every night at two") from None


def schedule(jobs: list[Job], name: str, when: CronSchedule) -> str:
    """Make a deployment that runs some jobs again and again, never two at a time. Raises ``ServerFailed``."""
    from flows.interpret import interpret

    made = RunnerDeployment.from_flow(
        interpret,
        name,
        entrypoint_type=EntrypointType.MODULE_PATH,
        parameters={"jobs": packed(jobs), "run": None, "stamp": {"saint": stamp(jobs)["saint"]}, "pool": True},
        schedules=[DeploymentScheduleCreate(schedule=when, active=True)],
        work_pool_name="cpu",
        job_variables={"command": COMMAND},
        concurrency_limit=1,
        tags=["saint"],
        description=f"saint run {' '.join(typed([job.overrides for job in jobs]))}",
    )
    try:
        made.apply()
    except (httpx.HTTPError, RuntimeError) as error:
        raise unusable(error) from error
    n = f"{len(jobs)} {'job' if len(jobs) == 1 else 'jobs'}"
    return f"deployment interpret/{name}: {n}, {when.cron!r} in {when.timezone}"
