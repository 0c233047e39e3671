"""A run as its user sees it: the plan, the work or its submission, what came out. ``saint run`` and ``saint follow``."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from artifacts.store import Store
from flows.console import clean, display, size, table
from flows.plan import Plan, plan
from flows.realise import StageFailed, realise
from flows.runs import Events, RunRecord, record_of
from flows.server import ServerFailed, has_server
from flows.session import Session
from flows.signals import hear
from flows.summary import lines
from flows.sweep import Job, repeated
from tasks.asking import paid_now
from tasks.spec import SpecError

EXIT_USER, EXIT_WORLD, EXIT_INTERRUPTED = 2, 1, 130
_FOLLOW_SECONDS = 1.0
_SERVER_SECONDS = 300.0
"""For which a server may be away while its run is followed."""

_ENDED = {"done": "COMPLETED", "failed": "FAILED", "killed": "CRASHED"}


class Terminated(KeyboardInterrupt):
    """SIGTERM, as batch systems send it before they kill, or SIGHUP of a terminal that closes: ends a run as Ctrl-C does."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number


def run(jobs: Sequence[Job], typed: Sequence[str], debug: bool = False) -> int:
    """Plan, work, summary. Returns the exit code."""
    begun = time.monotonic()
    runtime, store = jobs[0].pipeline.runtime, jobs[0].pipeline.store
    found = plan(jobs)
    print_plan(found, repeated(jobs))
    sys.stdout.flush()
    store.backend.check_writable()
    if runtime.mode == "pool" and found.todo:
        return _in_pool(jobs, found, typed, debug)
    if found.todo or (has_server() and runtime.mode == "local"):
        session = Session(jobs, found, RunRecord.new(jobs, found, typed, mode=runtime.mode))
        if code := _worked(session, debug or runtime.debug):
            return code
    else:
        RunRecord.new(jobs, found, typed, mode=runtime.mode).update("done")
    print_summary(store, found, time.monotonic() - begun)
    return 0


def _worked(session: Session, debug: bool) -> int:
    """Do the work in this process; the exit code."""
    try:
        with _ended_by_signals(), display() as shown:
            session.display = shown
            if session.runtime.mode == "inline":
                with session.told():
                    realise(session.wanted.finals, session.store, session.runtime, session.progress)
            else:
                from flows.interpret import run_here

                run_here(session)
    except (StageFailed, ServerFailed) as error:
        if isinstance(error, ServerFailed):
            session.record.update("failed", str(error))
        return _failed(error, debug)
    return 0


def _failed(error: Exception, debug: bool) -> int:
    failures = [error, *error.others] if isinstance(error, StageFailed) else [error]
    if debug:
        import traceback

        traceback.print_exception(error)
    for failure in failures:
        stage, cause = (failure.stage, failure.__cause__) if isinstance(failure, StageFailed) else ("run", failure)
        said = " ".join(clean(str(cause) or type(cause).__name__).split())
        print(f"stage: {stage}\ncause: {said}", file=sys.stderr)
    if all(isinstance(failure.__cause__, SpecError) for failure in failures):  # the same command would fail again
        print("what was made until here stays: mend the command, and it goes on from there", file=sys.stderr)
        return EXIT_USER
    print("resume: the same command", file=sys.stderr)
    return EXIT_WORLD


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    def stop(number: int) -> None:
        raise Terminated(number)

    undo = hear(stop)
    try:
        yield
    finally:
        undo()


# in the pool


def _in_pool(jobs: Sequence[Job], found: Plan, typed: Sequence[str], debug: bool) -> int:
    from flows.pool import going, submit

    store = jobs[0].pipeline.store
    try:
        id = going(store, found.wanted.finals)
        if id is not None:
            said = f"run {id} is making this already; following it"
        else:
            session = Session(jobs, found, RunRecord.new(jobs, found, typed, mode="pool", status="submitted"))
            id = session.record.id
            try:
                page = submit(session)
            except BaseException as error:
                session.record.update("failed", " ".join(str(error).split()))
                raise
            said = f"run {id} is submitted; Ctrl-C leaves it going, saint follow {id} joins it again\n{page}"
        return follow(store, id, found, said)
    except ServerFailed as error:
        return _failed(error, debug)


def follow(store: Store, id: str, found: Plan | None = None, said: str = "") -> int:
    """Say something, then show what a run in the pool does until it has ended. Returns the exit code."""
    run = record_of(store, id)
    if run is None:
        raise SpecError(f"{id}, but this store has no such run; saint ls lists those that there are")
    from flows.pool import GOING

    begun, told = time.monotonic(), Events(store, id)
    try:
        if said:
            print(said, flush=True)
        with display() as progress, progress.bar(f"run {id}", len(set(run["artifacts"]) - set(run["found"])), "artifacts") as bar:
            while True:
                state = _standing(store, id, progress)
                for event in told.new():
                    bar.advance(event["what"] == "made")
                    if line := told_as(event):
                        progress.note(clean(line))
                if state[0] not in GOING:
                    break
                time.sleep(_FOLLOW_SECONDS)
    except KeyboardInterrupt:
        print(f"left; the run goes on. join it again: saint follow {id}", file=sys.stderr)
        return EXIT_INTERRUPTED
    run = record_of(store, id) or run
    if state[0] != "COMPLETED":
        said = clean(run.get("error") or state[1])
        print(f"run {id} ended as {state[0].lower()}\ncause: {said}\nresume: the same command", file=sys.stderr)
        return EXIT_WORLD
    if found is not None:
        print_summary(store, found, time.monotonic() - begun)
    else:
        print(f"run {id} is done; saint show {id}")
    return 0


def _standing(store: Store, id: str, progress: Any) -> tuple[str, str]:
    """State of a run and what is said of it: the server's word, but for a process that is gone from this host."""
    from flows.pool import status

    limit, told = time.monotonic() + _SERVER_SECONDS, False
    while True:
        run = record_of(store, id) or {}
        if run.get("status") in _ENDED:
            return _ENDED[run["status"]], run.get("error") or "the process that watched over it was killed"
        if not has_server():
            raise SpecError(f"{id} goes on in a pool, but PREFECT_API_URL names no server; export the address of yours")
        try:
            return status(id, run.get("flow_run")) or ("LOST", "the Prefect server knows nothing of it")
        except ServerFailed as error:
            if time.monotonic() > limit:
                raise
            if not told:
                told = True
                progress.note(f"{error}; waiting for it")
            time.sleep(_FOLLOW_SECONDS)


def told_as(event: dict[str, Any]) -> str:
    """An event as a line of a log."""
    where = f"{event['host']}:{event['pid']}"
    match event["what"]:
        case "made":
            stage, key = event["artifact"].split("/")
            figures = event.get("figures", {})
            pace = f", {figures['tokens_per_second']:,} tokens/s" if "tokens_per_second" in figures else ""
            cost = f", ${usd:.4f}" if (usd := paid_now(figures)) else ""
            device = f" ({event['device']})" if event.get("device") else ""
            return f"{stage}/{key[:12]} made in {event.get('seconds') or 0:.1f} s on {where}{device}{pace}{cost}"
        case "failed":
            return f"{event['stage']} failed on {where}: {event['error']}"
        case "note":
            return event["text"]
        case "waiting" | "device taken" | "device freed":
            return f"{where}: {event['what']} {'for ' if event['what'] == 'waiting' else ''}{event['device']}"
        case "lane began":
            return f"a lane began on {where}, at part {event['number'] + 1} of {event.get('of', 1)}"
    return ""


# what is printed


def print_plan(found: Plan, notes: Sequence[str] = ()) -> None:
    """The table of stages, and what it comes to."""
    rows = [
        (
            line.stage,
            line.n,
            line.cached or "",
            line.missing or "",
            f"{line.n_tokens:,}" if line.n_tokens else "",
            size(line.bytes) if line.bytes else "",
            f"~{line.seconds:,.0f} s" if line.seconds else "",
            "" if not line.missing or line.usd == 0 else "?" if line.usd is None else f"${line.usd:,.{2 if line.usd >= 0.1 else 4}f}",
        )
        for line in found.lines
    ]
    if found.n_jobs > 1:
        n_saes = sum(line.missing for line in found.lines if line.stage == "train")
        shared = f", {n_saes} SAEs in {found.reads} read{'s' * (found.reads > 1)} of the activations" * (n_saes > found.reads)
        print(
            f"{found.n_jobs} jobs: {found.n_recipes} stages, {sum(line.n for line in found.lines)} distinct, "
            f"{len(found.found)} found, {found.passes} model {'pass' if found.passes == 1 else 'passes'}{shared}"
        )
    for note in notes:
        print(note)
    header = ("stage", "artifacts", "found", "to make", "tokens", "bytes", "time", "cost")
    table(header, rows, header[1:])
    total = found.json["total"]
    if found.todo:
        cost = "a cost that nobody knows yet" if total["usd"] is None else f"${total['usd']:,.2f}"
        if total["bytes"] is None:
            what = f"of a size that is known once the model is here, and {cost}"
        else:
            what = f"about {size(total['bytes'])}, {total['seconds']:,.0f} s and {cost} (seconds: of earlier runs here, or guessed)"
        print(f"{len(found.todo)} to make, {what}")
    else:
        print("nothing to make: every wanted artifact is in the store")


def print_summary(store: Store, found: Plan, seconds: float) -> None:
    """What came out: each hookpoint of a single run in words, the table of a sweep."""
    page = found.wanted.finals[-1]
    if page.stage.name == "compare":
        from tasks.compare import lines as compared

        opened = store.open(page.artifact)
        header, rows = compared(opened.summary["rows"])
        table(header, rows, header[1:])
        print(f"sweep: {opened.path / 'sweep.html'}")
    else:
        for label, named in found.wanted.named.items():
            for line in lines(store, label, named):
                print(clean(line))
    print(f"{seconds:,.0f} s in all")

