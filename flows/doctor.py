"""``saint doctor``: is this machine, its store and its server fit for the run that is meant?

Reads, and tries out the store's promises in a folder of its own that goes again. Never talks to the LLM API.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from artifacts.backends.local import Local
from artifacts.errors import ArtifactError
from flows.checks.base import Check, from_error
from flows.checks.gpus import built_for, cards, gpus, guards
from flows.checks.install import origin, origins, packages, python, requirements
from flows.checks.server import server
from flows.checks.store import bucket, leftovers, local, room
from flows.looking import parsed
from tasks.spec import SpecError

ABOUT = "whether this machine, its store and its server are fit for the run that is meant"

MARKS = {"ok": "✓", "warning": "!", "wrong": "✗"}


def doctor(rest: list[str]) -> int:
    """The command. Returns 1 if anything is wrong, else 0."""
    flags, names, overrides = parsed("doctor", rest, ABOUT, json="print as JSON")
    if names:
        raise SpecError(f"{names[0]}, but saint doctor takes overrides only; write name=value")
    found = []
    for check in checks(overrides, os.environ):
        found.append(check)
        if not flags.json:
            _print(check)
    n_wrong = sum(check.status == "wrong" for check in found)
    if flags.json:
        from flows.console import print_json

        print_json({"checks": [asdict(check) for check in found], "wrong": n_wrong})
    else:
        n_warnings = sum(check.status == "warning" for check in found)
        print(f"{len(found)} checks, {n_wrong} wrong, {n_warnings} warnings")
    return 1 if n_wrong else 0


def _print(check: Check) -> None:
    """One at a time, as they are known: a server that does not answer keeps nobody from reading the rest."""
    from flows.console import clean

    print(f"{MARKS[check.status]} {check.name:17}{clean(check.found)}", flush=True)
    if check.todo:
        print(f"{'':19}-> {clean(check.todo)}", flush=True)


def checks(overrides: Sequence[str], environ: Mapping[str, str]) -> Iterator[Check]:
    """Everything there is to say about a run with these overrides in this environment."""
    yield python()
    yield from packages(requirements())
    yield origin(origins())
    config, p, check = configured(overrides)
    yield check
    runtime, client = config.get("runtime", {}), config.get("client", {})
    if runtime.get("mode") == "inline":
        yield Check("server", "ok", "runtime.mode = 'inline': the run needs none")
    else:
        yield from server(environ, runtime.get("mode") == "pool", client.get("kind", "none") != "none")
    yield from gpus(cards(), built_for(), str(runtime.get("device", "auto")), environ.get("CUDA_VISIBLE_DEVICES"))
    yield from guards()
    yield from stored(config, p)
    yield from asking(client, p)


def configured(overrides: Sequence[str]) -> tuple[dict[str, Any], Any, Check]:
    """The plain configuration (empty if it does not compose), the pipeline (None if it is not valid), and the check."""
    from flows.composing import composed
    from flows.config import pipeline

    config: dict[str, Any] = {}
    try:
        config = composed(overrides)
        return config, pipeline(config), Check("configuration", "ok", " ".join(overrides) or "the default one")
    except (SpecError, ArtifactError) as error:
        return config, None, from_error("configuration", error)


def stored(config: Mapping[str, Any], p: Any) -> Iterator[Check]:
    """The store of a configuration, and the room that its run would take in it."""
    place = config.get("backend", {})
    if p is None:  # a store can be looked at whatever else is wrong with the configuration
        if place.get("kind") == "local" and isinstance(place.get("root"), str):
            yield from local(Path(place["root"]))
        return
    try:
        backend = p.store.backend
        yield from local(backend.root) if isinstance(backend, Local) else bucket(backend, p.backend.where)
        from flows.plan import plan
        from flows.sweep import Job

        needed = plan([Job((), {}, p)]).json["total"]["bytes"]
        if isinstance(backend, Local):
            yield room(backend.root, needed)
        yield from leftovers(p.store)
    except (SpecError, ArtifactError, OSError) as error:
        yield from_error("store", error)


def asking(client: Mapping[str, Any], p: Any) -> Iterator[Check]:
    """Whether an LLM can be asked, by what is set here; nobody is asked."""
    from tasks.kinds import decode
    from tasks.spec import Runtime

    kind = client.get("kind", "none")
    if kind == "none":
        yield Check("llm", "ok", "client is none: no LLM is asked, and no key is needed")
        return
    try:
        found = decode("tasks.clients", client, "client")
        found.check(p.runtime if p is not None else Runtime())
        yield Check("llm", "ok", f"{kind}: {'credentials are set' if found.PAID else 'no key is needed'}")
    except SpecError as error:
        yield from_error("llm", error)
