"""The Prefect flows: the same loop as inline, seen in Prefect's UI, with its retries, states, schedules and workers.

Prefect never decides what exists: results are not persisted and its cache is off. A lane that the store already has
is shown as a task in the state ``Cached``. Parameters are plain JSON, so that a run can be retried from Prefect's UI or by
``prefect flow-run retry`` (with ``--entrypoint flows.interpret.interpret`` for one that had no worker).

This module imports Prefect, which takes seconds: import it only where a run needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

from flows.server import KEPT, LLM_TAG, apply, has_server, unusable

apply()  # before Prefect is imported, which reads its environment then

import prefect  # noqa: E402
import prefect.runtime  # noqa: E402
from prefect.cache_policies import NO_CACHE  # noqa: E402
from prefect.states import Completed  # noqa: E402

from flows.mirror import Mirror  # noqa: E402
from flows.ordering import lanes  # noqa: E402
from flows.realise import Lane, LaneRecord, Part, StageFailed, needs_gpu, realise  # noqa: E402
from flows.session import Session  # noqa: E402
from tasks.progress import Both  # noqa: E402
from tasks.realising import Outcome, make_all  # noqa: E402

RETRY_SECONDS = 10

_LASTING = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
"""Errors of the operating system that a second try meets again."""

_current: ContextVar[Session | None] = ContextVar("session", default=None)
"""The session of a flow that runs in the user's own process; a worker has none, and makes its own."""


def worth_a_retry(task: Any, run: Any, state: Any) -> bool:
    """Whether a failed lane may come right by itself. A plain function: Prefect ignores any other callable."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, OSError) and not isinstance(error, _LASTING)  # ConnectionError and TimeoutError are OSErrors


@prefect.flow(name="interpret", persist_result=False, validate_parameters=False)
def interpret(jobs: dict[str, Any], run: str | None = None, stamp: dict[str, str] | None = None, pool: bool = False) -> None:
    """Make everything that some jobs want.

    ``jobs`` is ``flows.sweep.packed``; ``run`` the id of a run's record, made anew when null (a schedule);
    ``stamp`` what the keys must come to here; ``pool`` hands stages for a GPU to lanes in the work pool.
    """
    session = _current.get() or Session.opened(jobs, run, stamp, mode="pool" if pool else "local")
    with session.told(str(prefect.runtime.flow_run.id)):
        for lane in lanes(session.plan.found):
            _call(lane, partial(_cached, lane))
        if pool:
            from flows.crew import Crew

            with Crew(session, jobs, stamp) as crew:
                _realise(session, Part(mine=lambda recipe: not needs_gpu(recipe), stay=crew.go_on))
                crew.raise_failures()
        else:
            _realise(session, Part())
        _publish_comparison(session)


@prefect.flow(name="lane", persist_result=False, validate_parameters=False)
def lane(
    jobs: dict[str, Any],
    run: str,
    stamp: dict[str, str] | None = None,
    number: int = 0,
    of: int = 1,
    abreast: int = 1,
    skip: list[str] | None = None,
) -> None:
    """One GPU's part of a run: makes what is ready and nobody else is making, until nothing for a GPU is left.

    It is lane ``number`` of so many, and there may come to be ``abreast``; ``skip`` names artifacts that are not tried again.
    """
    from flows.crew import began
    from tasks.devices import guarded

    session = Session.opened(jobs, run, stamp)
    session.record.event("lane began", number=number, of=of, **began())
    idle, unwanted = session.runtime.lane_idle_seconds, set(skip or ())
    part = Part(
        mine=lambda recipe: needs_gpu(recipe) and recipe.address not in unwanted,
        lane=number,
        lanes=of,
        abreast=abreast,
        stay=lambda idle_seconds: idle_seconds < idle,
    )
    progress = Both(session.progress, Mirror(f"lane-{number}"))
    with guarded(session.runtime, progress):  # for as long as the lane lives: models stay loaded between stages
        _realise(session, part, progress)


def asks_llm(lane: Lane) -> bool:
    """Whether a lane will ask an LLM: the one tag that tasks carry, since a task waits half a second for the server to
    say that its tags have no limit."""
    return "llm" in lane[0].stage.tags and any(getattr(recipe.spec, "client", None) is not None for recipe in lane)


def _publish_comparison(session: Session) -> None:
    """The table of a sweep as an artifact of the flow run, where Prefect's UI shows it."""
    from prefect.artifacts import create_markdown_artifact

    from tasks.compare import markdown

    page = session.wanted.finals[-1]
    if page.stage.name == "compare" and (found := session.store.find(page.artifact)) is not None:
        create_markdown_artifact(markdown(found.summary["rows"]), key="sweep", description=f"{len(session.jobs)} jobs")


def run_here(session: Session) -> None:
    """Run a session as a Prefect flow, in this process and this thread.

    Raises ``StageFailed`` as ``realise`` does, and ``ServerFailed``.
    """
    if not has_server():
        _server_apart()
    token = _current.set(session)
    try:
        interpret(session.packed, session.record.id, session.stamp)
    except Exception as error:
        if not _of_prefect(error):
            raise
        raise unusable(error, KEPT) from error
    finally:
        _current.reset(token)


def _server_apart() -> None:
    """Have the server that Prefect starts for us stand in a process group of its own.

    Ctrl-C in a terminal, and SIGTERM of a batch system, come to the whole group. A server in ours would be gone before this flow has
    told it how it ended, and Prefect's client would try again for many minutes.
    """
    import subprocess

    from prefect.server.api import server

    class Apart:
        Popen = staticmethod(partial(subprocess.Popen, process_group=0))

        def __getattr__(self, name: str) -> Any:
            return getattr(subprocess, name)

    server.subprocess = Apart()


def _realise(session: Session, part: Part, progress: Any = None) -> list[LaneRecord]:
    listener = progress or session.progress

    def submit(group: Lane) -> Outcome:
        outcome = Outcome()

        def body() -> None:  # takes and returns nothing: tensors and recipes never pass through Prefect
            share = (part.lane, part.lanes)
            found = make_all(
                group, session.store, session.runtime, listener, wait=False, share=share, abreast=part.abreast
            )
            outcome.made += found.made
            outcome.hits += found.hits

        _call(group, body, retries=2)
        return outcome

    return realise(session.wanted.finals, session.store, session.runtime, listener, submit, part)


def _call(lane: Lane, body: Callable[[], Any], retries: int = 0) -> None:
    # Called, not submitted to a pool of threads: Ctrl-C reaches the stage itself, and not a future that waits.
    name = str(lane[0].artifact) + (f" and {len(lane) - 1} more" if len(lane) > 1 else "")
    prefect.task(
        lambda: body(),  # a closure, not arguments: Prefect would take a state among them for its data
        name=lane[0].stage.name,
        task_run_name=name,
        tags=[LLM_TAG] if asks_llm(lane) and retries else [],
        retries=retries,
        retry_delay_seconds=RETRY_SECONDS,
        retry_condition_fn=worth_a_retry,
        cache_policy=NO_CACHE,
        persist_result=False,
        log_prints=False,
    )()


def _cached(lane: Lane) -> Any:
    return Completed(name="Cached", message=", ".join(f"{recipe.artifact} hit" for recipe in lane))


def _of_prefect(error: BaseException) -> bool:
    """Whether an error comes from Prefect or the HTTP client that it talks through, and not from a stage of ours."""
    if isinstance(error, StageFailed):
        return error.__cause__ is not None and _of_prefect(error.__cause__)
    return type(error).__module__.partition(".")[0] in ("prefect", "httpx", "httpcore") or (
        isinstance(error, RuntimeError) and any(t in str(error) for t in ("Failed to reach API", "Prefect API server"))
    )
