"""``saint``: the command line. Only parsing and printing; torch and Prefect are imported when a run needs them."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from artifacts.errors import ArtifactError
from tasks.spec import SpecError

EXIT_USER, EXIT_WORLD, EXIT_INTERRUPTED = 2, 1, 130

ABOUT = {
    "run": "make everything that is missing, from text to report",
    "plan": "what a run would find and make: tokens, bytes, seconds, dollars; does nothing",
    "ls": "artifacts, runs and leftovers of the store",
    "show": "one artifact, or one run ('last'), with its metrics",
    "why": "why two artifacts differ: every field, followed back through their inputs",
    "verify": "every byte against its manifest; names file and chunk; exit code 1 if any is wrong",
    "gc": "delete what crashed attempts left, and with --unwanted what no run rests on",
    "report": "make the report if it is missing, and print where it lies",
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
    """Entry point. Returns the exit code: 0 done, 1 the world's fault, 2 the user's, 130 interrupted."""
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
        return _COMMANDS[command]([a for a in rest if a != "--debug"], debug)
    except SpecError as error:
        return _failed(error, EXIT_USER, debug)
    except (ArtifactError, OSError) as error:
        return _failed(error, EXIT_WORLD, debug)
    except KeyboardInterrupt:
        print("interrupted; what was committed stays\nresume: the same command", file=sys.stderr)
        return EXIT_INTERRUPTED


def _failed(error: BaseException, code: int, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exception(error)
    print(f"error: {_clean(str(error))}", file=sys.stderr)
    return code


def _clean(text: str) -> str:
    """Without control characters: what came from a corpus or an API must not drive a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def _parsed(command: str, rest: list[str], **flags: str) -> tuple[argparse.Namespace, list[str], list[str]]:
    """Flags, plain names and overrides of a command."""
    parser = argparse.ArgumentParser(prog=f"saint {command}", description=ABOUT[command], allow_abbrev=False)
    for name, about in flags.items():
        parser.add_argument(f"--{name}", action="store_true", help=about)
    parser.add_argument("words", nargs="*", metavar="NAME | name=value", help="artifacts, runs, or overrides")
    found = parser.parse_intermixed_args(rest)
    overrides = [w for w in found.words if "=" in w]
    return found, [w for w in found.words if "=" not in w], overrides


def _store(overrides: list[str]) -> Any:
    """The store that some overrides mean; other stages' mistakes do not matter here."""
    from artifacts.store import Store
    from flows.config import composed

    root = composed(overrides)["backend"]["root"]
    if not os.path.isdir(os.path.expanduser(root)):
        raise SpecError(f"backend.root = {root!r}, but there is no store; saint run makes one, backend.root=DIR names another")
    return Store.at(root)


def _json(value: Any) -> int:
    print(json.dumps(value, indent=1, default=str))
    return 0


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]], right: str = "") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(name, justify="right" if name in right.split() else "left", no_wrap=name != "figures")
    for row in rows:
        table.add_row(*(Text(_clean(str(cell))) for cell in row))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _plan(rest: list[str], debug: bool) -> int:
    from flows.config import load
    from flows.plan import plan

    flags, names, overrides = _parsed("plan", rest, json="print the plan as JSON")
    _only_overrides(names, "plan")
    found = plan(load(overrides))
    if flags.json:
        return _json(found.json)
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
    _table(header, rows, "artifacts found to make tokens bytes time cost")
    total = found.json["total"]
    if found.todo:
        print(
            f"{len(found.todo)} to make, about {size(total['bytes'])}, {total['seconds']:,.0f} s and ${total['usd']:,.2f}"
            " (seconds: of earlier runs here, or guessed)"
        )
    else:
        print("nothing to make: every wanted artifact is in the store")


def size(n: float | None) -> str:
    """Bytes as a person reads them."""
    n = float(n or 0)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n < 1000 or unit == "TB":
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return ""


def _run(rest: list[str], debug: bool) -> int:
    if any(a.startswith("-") for a in rest):
        return _through_hydra(rest, debug)
    return run_once(rest, debug)


def _through_hydra(rest: list[str], debug: bool) -> int:
    """``--help``, ``--cfg``, ``--info``, ``-m`` and Hydra's other flags, as its users know them."""
    import hydra

    from flows.config import in_grammar

    codes: list[int] = []

    def job(config: Any) -> None:
        from hydra.core.hydra_config import HydraConfig

        codes.append(run_once(list(HydraConfig.get().overrides.task), debug))

    argv, sys.argv = sys.argv, ["saint run", *(in_grammar(a) for a in rest)]
    try:
        hydra.main(version_base="1.3", config_path="pkg://conf", config_name="config")(job)()
    finally:
        sys.argv = argv
    return max(codes, default=0)


def run_once(overrides: list[str], debug: bool = False) -> int:
    """One run: plan, work, summary. Returns the exit code."""
    from flows.config import load
    from flows.console import display
    from flows.interpret import has_server, interpret
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
        record = RunRecord(p, found.wanted, overrides)
    except SpecError as error:
        return _failed(error, EXIT_USER, debug)
    except ArtifactError as error:
        return _failed(error, EXIT_WORLD, debug)
    status, failure = "interrupted", None
    try:
        if found.todo or has_server():
            with display() as progress:
                if p.runtime.mode == "inline":
                    realise(found.wanted.reports, p.store, p.runtime, progress, finished=record.finished)
                else:
                    interpret(p.plain, progress, record.finished)
        status = "done"
    except StageFailed as error:
        status, failure = "failed", _clean(str(error.__cause__))
        _failed(error, 1, True) if debug or p.runtime.debug else None
        print(f"stage: {error.stage}\ncause: {failure}\nresume: the same command", file=sys.stderr)
        return EXIT_USER if isinstance(error.__cause__, SpecError) else EXIT_WORLD
    finally:
        record.save(status, failure)
    _print_summary(p, found.wanted, time.monotonic() - begun)
    return 0


def _print_summary(p: Any, wanted: Any, seconds: float) -> None:
    from flows.summary import lines

    for hookpoint, named in wanted.named.items():
        for line in lines(p.store, hookpoint, named):
            print(_clean(line))
    print(f"{seconds:,.0f} s in all")


def _report(rest: list[str], debug: bool) -> int:
    from flows.config import load
    from flows.recipes import recipes

    _, names, overrides = _parsed("report", rest)
    _only_overrides(names, "report")
    code = run_once(overrides, debug)
    if code == 0:
        p = load(overrides)
        for page in recipes(p).reports:
            print(p.store.open(page.artifact).path / "report.html")
    return code


def _ls(rest: list[str], debug: bool) -> int:
    from flows.audit import listed

    flags, names, overrides = _parsed("ls", rest, json="print as JSON")
    found = listed(_store(overrides), names[0] if names else None)
    if flags.json:
        return _json(found)
    rows = [
        (f"{r['stage']}/{r['key'][:12]}", r["when"], size(r.get("bytes")), f"{r.get('seconds') or 0:.1f}", _figures(r))
        for r in found["artifacts"]
    ]
    _table(("artifact", "when", "size", "seconds", "figures"), rows, "size seconds")
    for run in found["runs"][-10:]:
        print(f"run {run['id']}: {run['status']}, {run['seconds']} s  {' '.join(run['overrides'])}")
    for orphan in found["orphans"]:
        print(f"left by a crash: {orphan['artifact']}, {size(orphan['bytes'])} (saint gc --yes frees it)")
    return 0


def _figures(row: dict[str, Any]) -> str:
    if "corrupt" in row:
        return "corrupt: saint verify"
    plain = {n: v for n, v in row["summary"].items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    return "  ".join(f"{n} {v:.4g}" if isinstance(v, float) else f"{n} {v:,}" for n, v in list(plain.items())[:5])


def _show(rest: list[str], debug: bool) -> int:
    from flows.audit import shown

    flags, names, overrides = _parsed("show", rest, json="print as JSON")
    found = shown(_store(overrides), names[0] if names else "last")
    if flags.json:
        return _json(found)
    from rich.console import Console
    from rich.pretty import Pretty

    Console().print(Pretty(next(iter(found.values())), expand_all=False, max_string=200))
    return 0


def _why(rest: list[str], debug: bool) -> int:
    from flows.audit import why

    flags, names, overrides = _parsed("why", rest, json="print as JSON")
    if len(names) != 2:
        raise SpecError(f"saint why takes two artifacts, but {len(names)} are named; saint ls lists them")
    found = why(_store(overrides), *names)
    if flags.json:
        return _json(found)
    if not found:
        print("the same artifact")
    for row in found:
        print(f"{row['at']}: {row['field']} = {row['left']!r} | {row['right']!r}")
    return 0


def _verify(rest: list[str], debug: bool) -> int:
    from flows.audit import verified

    flags, names, overrides = _parsed("verify", rest, json="print as JSON")
    found = verified(_store(overrides), names)
    if flags.json:
        _json(found)
    else:
        for fault in found["faults"]:
            print(_clean(fault["why"]))
        print(f"{found['checked']} artifacts checked, {len(found['faults'])} faults")
    return 1 if found["faults"] else 0


def _gc(rest: list[str], debug: bool) -> int:
    from flows.audit import collect, garbage

    flags, _, overrides = _parsed(
        "gc", rest, yes="delete; without it, only list", unwanted="also artifacts that no recorded run rests on"
    )
    store = _store(overrides)
    if flags.yes:
        print(f"{size(collect(store, flags.unwanted))} freed")
        return 0
    found = garbage(store, flags.unwanted)
    for row in found["orphans"] + found["unwanted"]:
        print(f"{row['artifact']}  {size(row['bytes'])}")
    total = sum(row["bytes"] for row in found["orphans"] + found["unwanted"])
    print(f"{size(total)} could be freed; saint gc --yes does it")
    return 0


def _completion(rest: list[str], debug: bool) -> int:
    from flows.completion import script

    print(script(rest[0] if rest else "bash"))
    return 0


_COMMANDS = {
    "run": _run, "plan": _plan, "ls": _ls, "show": _show, "why": _why, "verify": _verify, "gc": _gc,
    "report": _report, "completion": _completion,
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
