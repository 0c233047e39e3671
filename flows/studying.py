"""The commands that study an SAE in the store: explain, score, compare, ledger."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.keys import Artifact
from artifacts.store import Store
from flows.console import clean, print_json, table
from flows.looking import parsed, store_of
from tasks.choosing import parsed_latents
from tasks.spec import SpecError

if TYPE_CHECKING:
    from artifacts.journal import Journal

ABOUT = {
    "explain": "explain latents of an SAE in the store (train/3f2a...), or of the overrides' own; latents=0:100 takes some",
    "score": "score the explanations of an SAE, or more scorers on explanations that there are (explain/3f2a...)",
    "compare": "SAEs of the store with their Pareto fronts; or explainers or judges, by name; --html PATH, --json",
    "ledger": "US dollars and tokens that LLM requests took, by day, client and model; --record PATH keeps the answers for replay",
}

_WHAT = {"train": "an SAE", "adopt": "one that was imported", "mine": "its windows", "explain": "its explanations"}


def explain(rest: list[str], debug: bool = False) -> int:
    return _study("explain", rest, debug)


def score(rest: list[str], debug: bool = False) -> int:
    return _study("score", rest, debug)


def _study(command: str, rest: list[str], debug: bool) -> int:
    """Plan, work, summary of one command."""
    from flows.goals import Goal
    from flows.running import print_plan, run
    from flows.sweep import jobs, split

    more = {"report": "also evaluate the SAE and make the whole report"} if command == "score" else {}
    flags, names, overrides = parsed(
        command, rest, ABOUT[command], plan="only print what it would find and make", multirun="commas in overrides sweep", **more
    )
    if len(names) > 1:
        raise SpecError(f"{' '.join(names)}, but saint {command} takes one artifact to begin with; name one")
    goal = Goal(command, report=bool(more) and flags.report)
    if names:
        store = store_of([o for o in overrides if o.startswith("backend")])
        artifact = beginning(store, names[0], command)
        goal = replace(goal, address=f"{artifact.stage}/{artifact.key}")
    whose = "score" if goal.settled == "explain" else "explain"  # of explanations that there are, some are scored
    overrides = [f"{whose}.{o}" if o.startswith("latents=") else o for o in overrides]
    each = split(overrides) if flags.multirun else [overrides]
    for one in each:
        goal.check(one)
    found = jobs(each, goal)
    if flags.plan:
        from flows.plan import plan

        print_plan(plan(found))
        return 0
    return run(found, [*names, *(["-m"] if flags.multirun else []), *overrides], debug)


def beginning(store: Store, name: str, command: str) -> Artifact:
    """The artifact that a command begins with. Raises ``SpecError`` for one of another sort."""
    from flows.audit import find
    from flows.goals import TAKES

    artifact = find(store, name)
    if artifact.stage not in TAKES[command]:
        takes = ", ".join(f"{_WHAT[stage]} ({stage}/...)" for stage in TAKES[command])
        raise SpecError(f"{name}, but {artifact} is none of what saint {command} begins with: {takes}; name one of these")
    return artifact


def compare(rest: list[str], debug: bool = False) -> int:
    from flows.comparing import compared

    parser = argparse.ArgumentParser(prog="saint compare", description=ABOUT["compare"], allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.add_argument("--html", metavar="PATH", help="also write a page with plots there")
    parser.add_argument(
        "words", nargs="*", metavar="NAME | name=value",
        help="nothing: all evaluated SAEs; SAEs: these; explanations, scores, runs (and SAEs, for their explanations): what they say; "
        "backend.root=DIR",
    )  # fmt: skip
    flags = parser.parse_intermixed_args(rest)
    overrides = [word for word in flags.words if "=" in word]
    latents = [word for word in overrides if word.startswith("latents=")]
    if odd := [word for word in overrides if word not in latents and not word.startswith(("backend", "runtime"))]:
        raise SpecError(f"{odd[0]}, but saint compare takes latents=... and the store's backend... only; leave it out")
    store = store_of([word for word in overrides if word not in latents])
    names = [word for word in flags.words if "=" not in word]
    if _only_saes(store, names):
        if latents:
            raise SpecError(f"{latents[0]}, but SAEs are compared as wholes; leave it out, or name explanations")
        return _ranked(store, names, flags.html, flags.json)
    some = parsed_latents(_value(latents[-1].partition("=")[2]), "latents") if latents else "all"
    found = compared(store, names, some)
    if flags.html:
        from tasks.reporting.comparison import page

        Path(flags.html).write_text(page(found), "utf-8")
    if flags.json:
        return print_json(found)
    print_comparison(found)
    if flags.html:
        print(f"page: {flags.html}")
    return 0


def _only_saes(store: Store, names: Sequence[str]) -> bool:
    """Whether nothing but SAEs is named, none of them twice."""
    from flows.audit import find
    from flows.runs import recorded

    if names and {"last", *(run["id"] for run in recorded(store))} & set(names):
        return False
    found = [find(store, name) for name in names]
    return all(artifact.stage in ("train", "adopt") for artifact in found) and len(set(found)) == len(names)


def _ranked(store: Store, names: Sequence[str], html: str | None, as_json: bool) -> int:
    from flows.evaluated import ranked
    from tasks.reporting.evaluated import facts, listed, page

    found = ranked(store, names)
    if html:
        Path(html).write_text(page(found), "utf-8")
    if as_json:
        return print_json(found)
    if not found["rows"]:
        print("no SAE of this store was evaluated; saint run makes and evaluates some")
        return 0
    columns = listed(found)
    rows = [[column.text(row) for column in columns] for row in found["rows"]]
    table([column.title for column in columns], rows, [column.title for column in columns if column.right])
    for fact in facts(found):
        print(clean(fact))
    if html:
        print(f"page: {html}")
    return 0


def _value(text: str) -> Any:
    """What was typed for a setting outside of Hydra: a list or number where it is one."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def print_comparison(found: dict[str, Any]) -> None:
    """The tables of a comparison."""
    from tasks.reporting.comparison import beside, facts, means, thirds

    judges = found["of"] == "judges"
    print(f"{'judges of ' + found['explain'] if judges else 'explainers'} on {found['sae']}")
    header, rows = beside(found)
    table(header, rows, header[2:])
    header, rows = means(found)
    if rows:
        table(header, rows, header[1:])
    for pair in found["pairs"]:
        print(f"{clean(pair['first'])} against {clean(pair['second'])}")
        for line in facts(pair):
            print(f"  {clean(line)}")
        header, rows = thirds(pair)
        if rows:
            table(header, rows, header[1:])


def ledger(rest: list[str], debug: bool = False) -> int:
    from artifacts import ledger as books
    from artifacts.journal import Journal

    parser = argparse.ArgumentParser(prog="saint ledger", description=ABOUT["ledger"], allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.add_argument("--record", metavar="PATH", help="also write all answers there, for client=recorded: *.jsonl or *.parquet")
    parser.add_argument("words", nargs="*", metavar="name=value", help="backend.root=DIR")
    flags = parser.parse_intermixed_args(rest)
    if names := [word for word in flags.words if "=" not in word]:
        raise SpecError(f"{names[0]}, but saint ledger takes overrides of the store only; write backend.root=DIR")
    journal = Journal(store_of(flags.words).backend, "journal")
    n_recorded = _recorded(journal, Path(flags.record).expanduser()) if flags.record else 0
    rows: list[dict[str, Any]] = books.rows(journal)
    usd, possibly, unpriced = (sum(row[name] for row in rows) for name in ("usd", "possibly_usd", "n_unpriced"))
    if flags.json:
        recorded = {"n_recorded": n_recorded} if flags.record else {}
        return print_json({"rows": rows, "usd": usd, "possibly_usd": possibly, **recorded})
    header = ("day", "client", "model", "requests", "answered", "tokens in", "tokens out", "dollars", "possibly more")
    if rows:
        table(header, [_ledger_line(row) for row in rows], header[3:])
    more = f", and at most ${possibly:,.4f} for requests whose answers are not here" if possibly else ""
    more += f"; {unpriced:,} answers have no known price" if unpriced else ""
    print(f"${usd:,.4f} in all{more}" if rows else "no LLM was asked for anything in this store")
    if flags.record:
        print(f"{n_recorded:,} answers in {flags.record}; replay them: client=recorded client.path={flags.record}")
    return 0


def _recorded(journal: Journal, path: Path) -> int:
    from tasks.clients.recorded import record

    try:
        return record(journal, path)
    except SpecError as error:
        raise SpecError(f"--record {error}") from None


def _ledger_line(row: dict[str, Any]) -> Sequence[str]:
    def dollars(value: float) -> str:
        return f"{value:,.4f}" if value else ""

    counts = [f"{row[name]:,}" for name in ("n_requests", "n_answered", "input_tokens", "output_tokens")]
    paid = dollars(row["usd"]) + (f" and {row['n_unpriced']:,} of unknown price" if row["n_unpriced"] else "")
    return row["day"], row["kind"], row["model"], *counts, paid, dollars(row["possibly_usd"])
