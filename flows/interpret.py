"""The Prefect flow: the same loop, seen in Prefect's UI, with its retries and its states.

Prefect never decides what exists: results are not persisted and its cache is off. A lane that the store already has
is shown as a task in the state ``Cached``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

from artifacts.errors import StoreUnwritable
from flows.realise import Lane, LaneRecord, realise
from flows.recipes import recipes
from tasks.progress import Progress
from tasks.realising import Outcome, lanes, make_all

QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # a failure is told by us, once; the server keeps the rest
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    "PREFECT_CLI_PROMPT": "false",
}
"""Read by Prefect when it is imported, so set before; what the user has set stays."""


def has_server() -> bool:
    """Whether the environment names a Prefect server; without one, Prefect starts its own for the time of the run."""
    return bool(os.environ.get("PREFECT_API_URL"))


def worth_a_retry(task: Any, run: Any, state: Any) -> bool:
    """Whether a failed lane may come right by itself. A plain function: Prefect ignores any other callable."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, (OSError, ConnectionError)) and not isinstance(error, StoreUnwritable)


def interpret(
    config: dict[str, Any],
    progress: Progress | None = None,
    finished: Callable[[LaneRecord], None] = lambda record: None,
) -> list[LaneRecord]:
    """Run the pipeline of a resolved configuration as a Prefect flow, in this process."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import prefect
    from prefect.cache_policies import NO_CACHE
    from prefect.states import Completed
    from prefect.task_runners import ThreadPoolTaskRunner

    from flows.config import pipeline

    listener = progress or Progress()

    @prefect.flow(name="interpret", persist_result=False, validate_parameters=False, task_runner=ThreadPoolTaskRunner(1))
    def flow(config: dict[str, Any]) -> list[LaneRecord]:
        p = pipeline(config)
        wanted = recipes(p)
        outcomes: dict[str, Outcome] = {}

        def task_of(lane: Lane, body: Callable[[], Any], retries: int) -> Any:
            name = str(lane[0].artifact) + (f" and {len(lane) - 1} more" if len(lane) > 1 else "")
            # A closure, not arguments: Prefect would look into them, and take a state among them for its data.
            return prefect.task(
                lambda: body(),
                name=lane[0].stage.name,
                task_run_name=name,
                tags=lane[0].stage.tags,
                retries=retries,
                retry_delay_seconds=10,
                retry_condition_fn=worth_a_retry,
                cache_policy=NO_CACHE,
                persist_result=False,
                log_prints=False,
            )

        def submit(lane: Lane) -> Outcome:
            def body() -> None:  # takes and returns nothing: tensors and recipes never pass through Prefect
                outcomes[lane[0].key] = make_all(lane, p.store, p.runtime, listener)

            future = task_of(lane, body, retries=2).submit()
            future.wait()
            future.result()
            return outcomes[lane[0].key]

        def cached(lane: Lane) -> Any:
            return Completed(name="Cached", message=", ".join(f"{recipe.artifact} hit" for recipe in lane))

        hits = [recipe for recipe in wanted.all() if p.store.find(recipe.artifact) is not None]
        shown = []
        for lane in lanes(hits):
            shown.append(task_of(lane, partial(cached, lane), retries=0).submit())
        for future in shown:
            future.wait()
        return realise(wanted.reports, p.store, p.runtime, listener, submit, finished)

    return flow(config)
