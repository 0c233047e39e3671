"""The commands that look at a store: ls, show, why, verify, gc. Data comes from ``flows.audit``; this prints it."""

from __future__ import annotations

import argparse
import re
from typing import Any

from artifacts.store import Store
from flows.console import clean, print_json, size, table
from tasks.spec import SpecError

ABOUT = {
    "ls": "artifacts, runs and leftovers of the store",
    "show": "one artifact, or one run ('last'), with its metrics",
    "logs": "what a run ('last') did, step by step: stages, seconds, tokens/s, host, device, dollars",
    "why": "why two artifacts differ: every field, followed back through their inputs",
    "verify": "every byte against its manifest; names file and chunk; exit code 1 if any is wrong",
    "gc": "delete what crashes left, with --unwanted also what no run rests on; or the artifacts that are named",
}


_TELLING = {
    "n_sentences", "n_documents", "n_layers", "d_model", "n_rows", "n_latents", "fvu", "l0", "ce_loss_recovered",
    "dead_fraction", "n_ok", "n", "usd", "mean", "control_mean",
}  # fmt: skip
"""Figures that ``ls`` shows first."""


def parsed(command: str, rest: list[str], about: str, **flags: str) -> tuple[argparse.Namespace, list[str], list[str]]:
    """Flags, plain names and overrides of a command."""
    parser = argparse.ArgumentParser(prog=f"saint {command}", description=about, allow_abbrev=False)
    for name, what in flags.items():
        parser.add_argument(*(["-m"] if name == "multirun" else []), f"--{name.replace('_', '-')}", action="store_true", help=what)
    parser.add_argument("words", nargs="*", metavar="NAME | name=value", help="artifacts, runs, or overrides")
    found = parser.parse_intermixed_args(rest)
    overrides = [w for w in found.words if "=" in w]
    return found, [w for w in found.words if "=" not in w], overrides


def words_apart(words: list[str]) -> tuple[list[str], list[str]]:
    """Words of a command that takes no overrides but of where and how it runs, and those overrides. Texts may hold a ``=``."""
    overrides = [word for word in words if re.match(r"(backend|runtime)(\.\w+)?=", word)]
    return [word for word in words if word not in overrides], overrides


def store_of(overrides: list[str]) -> Store:
    """The store that some overrides mean; other stages' mistakes do not matter here."""
    from flows.composing import composed
    from flows.places import place

    found = place(composed(overrides)["backend"])
    if not found.exists():
        raise SpecError(
            f"backend.root = {found.where!r}, but there is no store; saint run makes one, backend.root=DIR names another"
        )
    return found.store()


def ls(rest: list[str]) -> int:
    from flows.audit import listed

    flags, names, overrides = parsed("ls", rest, ABOUT["ls"], json="print as JSON")
    found = listed(store_of(overrides), names[0] if names else None)
    if flags.json:
        return print_json(found)
    rows = [
        (f"{r['stage']}/{r['key'][:12]}", r["when"], size(r.get("bytes")), f"{r.get('seconds') or 0:.1f}", _figures(r))
        for r in found["artifacts"]
    ]
    table(("artifact", "when", "size", "seconds", "figures"), rows, ("size", "seconds"))
    for run in found["runs"][-10:]:
        print(f"run {run['id']}: {run['status']}, {run['seconds']} s  {' '.join(run['overrides'])}")
    for orphan in found["orphans"]:
        print(f"unfinished: {orphan['artifact']}, {size(orphan['bytes'])} (a run goes on from it; saint gc --yes frees it)")
    return 0


def _figures(row: dict[str, Any]) -> str:
    if "corrupt" in row:
        return "corrupt: saint verify"
    plain = {n: v for n, v in row["summary"].items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    plain = dict(sorted(plain.items(), key=lambda item: item[0] not in _TELLING))
    return "  ".join(f"{n} {v:.4g}" if isinstance(v, float) else f"{n} {v:,}" for n, v in list(plain.items())[:5])


def show(rest: list[str]) -> int:
    from flows.audit import shown

    flags, names, overrides = parsed("show", rest, ABOUT["show"], json="print as JSON")
    found = shown(store_of(overrides), names[0] if names else "last")
    if flags.json:
        return print_json(found)
    if "run" in found:
        _print_run(found["run"])
        return 0
    from rich.console import Console
    from rich.pretty import Pretty

    Console().print(Pretty(next(iter(found.values())), expand_all=False, max_string=200))
    return 0


def _print_run(run: dict[str, Any]) -> None:
    where = f" in the {run['mode']}" if run.get("mode") == "pool" else ""
    print(f"run {run['id']}: {run['status']}{where}, begun {run['when']}, {run['seconds']} s, ${run['usd']:.4f}")
    print(f"saint {run.get('command', 'run')} {' '.join(clean(o) for o in run['overrides'])}")
    if run.get("flow_run"):
        print(f"Prefect's flow run {run['flow_run']}")
    for job in run["jobs"]:
        print(f"  job {clean(' '.join(job['overrides']))}")
    made = sum(row["made"] for row in run["stages"])
    print(f"{len(run['artifacts'])} artifacts: {len(run['found'])} were there, {made} made")
    rows = [
        (r["stage"], r["made"], f"{r['seconds']:.1f}", f"{r['tokens_per_second']:,}" if r["tokens_per_second"] else "",
         ", ".join(r["hosts"])) for r in run["stages"]
    ]  # fmt: skip
    table(("stage", "made", "seconds", "tokens/s", "hosts"), rows, ("made", "seconds", "tokens/s"))
    for failure in run["failures"]:
        print(f"failed: {failure['stage']} on {failure['host']}: {clean(failure['error'])}")
    if run.get("error"):
        print(f"error: {clean(run['error'])}")
    for label, stages in run["metrics"].items():
        found = {**stages.get("evaluate", {})}
        figures = [f"{n} {found[n]:.4g}" for n in ("fvu", "l0", "ce_loss_recovered") if found.get(n) is not None]
        print(f"{label}: {', '.join(figures) or 'not evaluated yet'}")
    print(f"saint logs {run['id']} tells every step; --json gives all of this and the configuration")


def logs(rest: list[str]) -> int:
    from flows.running import told_as
    from flows.runs import events, recorded

    flags, names, overrides = parsed("logs", rest, ABOUT["logs"], json="print as JSON")
    store = store_of(overrides)
    runs = [run["id"] for run in recorded(store)]
    if not runs:
        raise SpecError("logs, but this store has no run yet; saint run makes one")
    name = names[0] if names and names[0] != "last" else runs[-1]
    if name not in runs:
        raise SpecError(f"{name}, but this store has no such run; saint ls lists those that there are")
    found = events(store, name)
    if flags.json:
        return print_json({"run": name, "events": found})
    for event in found:
        if line := told_as(event):
            print(f"{event['when']}  {clean(line)}")
    return 0


def why(rest: list[str]) -> int:
    from flows import audit

    flags, names, overrides = parsed("why", rest, ABOUT["why"], json="print as JSON")
    if len(names) != 2:
        raise SpecError(f"saint why takes two artifacts, but {len(names)} are named; saint ls lists them")
    found = audit.why(store_of(overrides), *names)
    if flags.json:
        return print_json(found)
    if not found:
        print("the same artifact")
    for row in found:
        print(f"{row['at']}: {row['field']} = {row['left']!r} | {row['right']!r}")
    return 0


def verify(rest: list[str]) -> int:
    from flows.audit import verified

    flags, names, overrides = parsed("verify", rest, ABOUT["verify"], json="print as JSON")
    found = verified(store_of(overrides), names)
    if flags.json:
        print_json(found)
    else:
        for fault in found["faults"]:
            print(clean(fault["why"]))
        print(f"{found['checked']} artifacts checked, {len(found['faults'])} faults")
    return 1 if found["faults"] else 0


def gc(rest: list[str]) -> int:
    from flows.audit import collect, garbage

    flags, names, overrides = parsed(
        "gc", rest, ABOUT["gc"], yes="delete; without it, only list", unwanted="also artifacts that no recorded run rests on"
    )
    store = store_of(overrides)
    if flags.yes:
        print(f"{size(collect(store, flags.unwanted, names))} freed")
        return 0
    found = garbage(store, flags.unwanted, names)
    for row in found["orphans"] + found["unwanted"]:
        print(f"{row['artifact']}  {size(row['bytes'])}")
    total = sum(row["bytes"] for row in found["orphans"] + found["unwanted"])
    print(f"{size(total)} could be freed; saint gc --yes does it")
    return 0


