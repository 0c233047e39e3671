"""The Prefect flow: the same loop, seen in Prefect's UI, with its retries and its states.

Prefect never decides what exists: results are not persisted and its cache is off. A lane that the store already has
is shown as a task in the state ``Cached``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

from flows.realise import Lane, LaneRecord, StageFailed, realise
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


RETRY_SECONDS = 10

_LASTING = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
"""Errors of the operating system that a second try meets again."""


def has_server() -> bool:
    """Whether the environment names a Prefect server; without one, Prefect starts its own for the time of the run."""
    return bool(os.environ.get("PREFECT_API_URL"))


def worth_a_retry(task: Any, run: Any, state: Any) -> bool:
    """Whether a failed lane may come right by itself. A plain function: Prefect ignores any other callable."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, OSError) and not isinstance(error, _LASTING)  # ConnectionError and TimeoutError are OSErrors


class ServerFailed(RuntimeError):
    """Prefect's server could not be used. What was committed stays."""


def interpret(
    config: dict[str, Any],
    progress: Progress | None = None,
    finished: Callable[[LaneRecord], None] = lambda record: None,
) -> list[LaneRecord]:
    """Run the pipeline of a resolved configuration as a Prefect flow, in this process and this thread.

    Raises ``StageFailed`` as ``realise`` does, and ``ServerFailed``.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import prefect
    from prefect.cache_policies import NO_CACHE
    from prefect.states import Completed

    from flows.config import pipeline

    listener = progress or Progress()

    @prefect.flow(name="interpret", persist_result=False, validate_parameters=False)
    def flow(config: dict[str, Any]) -> list[LaneRecord]:
        p = pipeline(config)
        wanted = recipes(p)

        def call(lane: Lane, body: Callable[[], Any], retries: int = 0) -> None:
            # Called, not submitted to a pool of threads: Ctrl-C reaches the stage itself, and not a future that waits.
            name = str(lane[0].artifact) + (f" and {len(lane) - 1} more" if len(lane) > 1 else "")
            prefect.task(
                lambda: body(),  # a closure, not arguments: Prefect would take a state among them for its data
                name=lane[0].stage.name,
                task_run_name=name,
                tags=lane[0].stage.tags,
                retries=retries,
                retry_delay_seconds=RETRY_SECONDS,
                retry_condition_fn=worth_a_retry,
                cache_policy=NO_CACHE,
                persist_result=False,
                log_prints=False,
            )()

        def submit(lane: Lane) -> Outcome:
            outcome = Outcome()

            def body() -> None:  # takes and returns nothing: tensors and recipes never pass through Prefect
                found = make_all(lane, p.store, p.runtime, listener)
                outcome.made += found.made
                outcome.hits += found.hits

            call(lane, body, retries=2)
            return outcome

        def cached(lane: Lane) -> Any:
            return Completed(name="Cached", message=", ".join(f"{recipe.artifact} hit" for recipe in lane))

        for lane in lanes([recipe for recipe in wanted.all() if p.store.find(recipe.artifact) is not None]):
            call(lane, partial(cached, lane))
        return realise(wanted.reports, p.store, p.runtime, listener, submit, finished)

    try:
        return flow(config)
    except Exception as error:
        if not _of_prefect(error):
            raise
        where = os.environ.get("PREFECT_API_URL", "")
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ServerFailed(
            f"PREFECT_API_URL = {where!r}, but the run could not be kept there ({said[0]}); start that server, "
            "unset the variable, or use runtime.mode=inline"
        ) from error


def _of_prefect(error: BaseException) -> bool:
    """Whether an error comes from Prefect or the HTTP client that it talks through, and not from a stage of ours."""
    if isinstance(error, StageFailed):
        return error.__cause__ is not None and _of_prefect(error.__cause__)
    return type(error).__module__.partition(".")[0] in ("prefect", "httpx", "httpcore") or (
        isinstance(error, RuntimeError) and "Failed to reach API" in str(error)
    )
