"""``saint``: the command line. Only parsing and printing; torch and Prefect are imported when a run needs them."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from artifacts.errors import ArtifactError
from flows import looking
from flows.console import clean, print_json, size, table
from flows.looking import parsed
from tasks.spec import SpecError

EXIT_USER, EXIT_WORLD, EXIT_INTERRUPTED, EXIT_TERMINATED = 2, 1, 130, 143

ABOUT = {
    "run": "make everything that is missing, from text to report",
    "plan": "what a run would find and make: tokens, bytes, seconds, dollars; does nothing",
    **looking.ABOUT,
    "report": "print where the latest report lies; with overrides, make theirs first if it is missing",
    "completion": "shell completion: eval \"$(saint completion bash)\"",
}

HELP = """usage: saint COMMAND [options] [name=value ...]

From text and a language model to a sparse autoencoder whose latents are explained and scored.

{commands}

Configuration is by overrides: saint run lm=hf lm.path=MODEL corpus=parquet corpus.path=FILE sae.k=16
  saint run --cfg job         the whole configuration, resolved
  saint run --help            groups and their options
  saint run -m sae.k=8,16     one run for each combination
Options: --json on plan, ls, show and verify; --debug shows tracebacks; backend.root=DIR is the store.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code: 0 done, 1 the world's fault, 2 the user's, 130 or 143 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP.format(commands="\n".join(f"  {name:12}{about}" for name, about in ABOUT.items())))
        return 0
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(version("saint-sae"))
        return 0
    command, rest = arguments[0], arguments[1:]
    debug = "--debug" in rest
    try:
        if command not in ABOUT:
            raise SpecError(f"{command!r}, but saint has the commands {', '.join(ABOUT)}; use one of them")
        plain = [a for a in rest if a != "--debug"]
        return _COMMANDS[command](plain) if command in looking.ABOUT else _COMMANDS[command](plain, debug)
    except SpecError as error:
        return _failed(error, EXIT_USER, debug)
    except BrokenPipeError:  # whoever read our output has enough of it (saint ls | head)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ArtifactError, OSError) as error:
        return _failed(error, EXIT_WORLD, debug)
    except KeyboardInterrupt as stop:
        print("interrupted; what was committed stays\nresume: the same command", file=sys.stderr)
        return EXIT_TERMINATED if isinstance(stop, Terminated) else EXIT_INTERRUPTED


class Terminated(KeyboardInterrupt):
    """SIGTERM, as batch systems send it before they kill: ends a run as Ctrl-C does."""


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    def stop(number: int, frame: Any) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _failed(error: BaseException, code: int, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exception(error)
    print(f"error: {clean(str(error))}", file=sys.stderr)
    return code


def _plan(rest: list[str], debug: bool) -> int:
    from flows.config import load
    from flows.plan import plan

    flags, names, overrides = parsed("plan", rest, ABOUT["plan"], json="print the plan as JSON")
    _only_overrides(names, "plan")
    found = plan(load(overrides))
    if flags.json:
        return print_json(found.json)
    _print_plan(found)
    return 0


def _only_overrides(names: list[str], command: str) -> None:
    if names:
        raise SpecError(f"{names[0]}, but saint {command} takes overrides only; write name=value")


def _print_plan(found: Any) -> None:
    rows = [
        (
            line.stage,
            line.n,
            line.cached or "",
            line.missing or "",
            f"{line.n_tokens:,}" if line.n_tokens else "",
            size(line.bytes) if line.bytes else "",
            f"~{line.seconds:,.0f} s" if line.seconds else "",
            "" if not line.missing or line.usd == 0 else "?" if line.usd is None else f"${line.usd:,.2f}",
        )
        for line in found.lines
    ]
    header = ("stage", "artifacts", "found", "to make", "tokens", "bytes", "time", "cost")
    table(header, rows, "artifacts found to make tokens bytes time cost")
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


def _run(rest: list[str], debug: bool) -> int:
    if any(a.startswith("-") for a in rest):
        return _through_hydra(rest, debug)
    return run_once(rest, debug)


def _through_hydra(rest: list[str], debug: bool) -> int:
    """``--help``, ``--cfg``, ``--info``, ``-m`` and Hydra's other flags, as its users know them."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from flows.config import explained, in_grammar

    codes: list[int] = []

    def job(config: Any) -> None:
        from hydra.core.hydra_config import HydraConfig

        codes.append(run_once(list(HydraConfig.get().overrides.task), debug))

    sweep = not {"-m", "--multirun"}.isdisjoint(rest)
    argv, sys.argv = sys.argv, ["saint run", *(in_grammar(a, sweep) for a in rest)]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, and go out in our words
    try:
        hydra.main(version_base="1.3", config_path="pkg://conf", config_name="config")(job)()
    except (HydraException, OmegaConfBaseException) as error:
        raise SpecError(explained(error, [a for a in rest if "=" in a])) from None
    finally:
        sys.argv = argv
    return max(codes, default=0)


def run_once(overrides: list[str], debug: bool = False) -> int:
    """One run: plan, work, summary. Returns the exit code."""
    from flows.config import load
    from flows.console import display
    from flows.interpret import ServerFailed, has_server, interpret
    from flows.plan import plan
    from flows.realise import StageFailed, realise
    from flows.runs import RunRecord

    begun = time.monotonic()
    try:
        p = load(overrides)
        found = plan(p)
        _print_plan(found)
        sys.stdout.flush()
        p.store.backend.check_writable()
        record = RunRecord(p, found, overrides)
    except SpecError as error:
        return _failed(error, EXIT_USER, debug)
    except ArtifactError as error:
        return _failed(error, EXIT_WORLD, debug)
    status, failure = "interrupted", None
    try:
        if found.todo or has_server():
            with _ended_by_sigterm(), display() as progress:
                if p.runtime.mode == "inline":
                    realise(found.wanted.reports, p.store, p.runtime, progress, finished=record.finished)
                else:
                    interpret(p.plain, progress, record.finished)
        status = "done"
    except (StageFailed, ServerFailed) as error:
        stage, cause = (error.stage, error.__cause__) if isinstance(error, StageFailed) else ("run", error)
        status, failure = "failed", " ".join(clean(str(cause) or type(cause).__name__).split())
        if debug or p.runtime.debug:
            import traceback

            traceback.print_exception(error)
        print(f"stage: {stage}\ncause: {failure}\nresume: the same command", file=sys.stderr)
        return EXIT_USER if isinstance(cause, SpecError) else EXIT_WORLD
    finally:
        record.update(status, failure)
    _print_summary(p, found.wanted, time.monotonic() - begun)
    return 0


def _print_summary(p: Any, wanted: Any, seconds: float) -> None:
    from flows.summary import lines

    for hookpoint, named in wanted.named.items():
        for line in lines(p.store, hookpoint, named):
            print(clean(line))
    print(f"{seconds:,.0f} s in all")


def _report(rest: list[str], debug: bool) -> int:
    from flows.audit import latest_reports
    from flows.config import load
    from flows.recipes import recipes

    flags, names, overrides = parsed("report", rest, ABOUT["report"], open="also open it in a browser")
    _only_overrides(names, "report")
    if all(override.startswith("backend.") for override in overrides):
        found = latest_reports(looking.store_of(overrides))
    else:
        if code := run_once(overrides, debug):
            return code
        p = load(overrides)
        found = [p.store.open(page.artifact).path / "report.html" for page in recipes(p).reports]
    for path in found:
        print(path)
        if flags.open:
            import webbrowser

            webbrowser.open(path.as_uri())
    return 0


def _completion(rest: list[str], debug: bool) -> int:
    from flows.completion import script

    print(script(rest[0] if rest else "bash"))
    return 0


_COMMANDS = {
    "run": _run, "plan": _plan, "report": _report, "completion": _completion,
    **{name: getattr(looking, name) for name in looking.ABOUT},
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
