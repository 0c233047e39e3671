"""Records of runs: ``<store>/runs/<id>.json``, what was asked, what was made and what was found. Written as a run goes."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from artifacts.lease import boot_id, process_started
from artifacts.store import Store
from flows.config import Pipeline
from flows.plan import Plan
from flows.realise import LaneRecord

FOLDER = "runs"


class RunRecord:
    """The record of one run. Rewritten whole after every lane, so that a killed run tells how far it came."""

    def __init__(self, p: Pipeline, found: Plan, overrides: list[str]) -> None:
        todo = set(found.todo)
        self.id = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:4]}"
        self.path = p.store.backend.work(FOLDER) / f"{self.id}.json"
        self.lanes: list[dict[str, Any]] = []
        self.begun = time.monotonic()
        self.body: dict[str, Any] = {
            "id": self.id,
            "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "overrides": overrides,
            "config": p.plain,
            "wanted": {h: {n: f"{r.stage.name}/{r.key}" for n, r in named.items()} for h, named in found.wanted.named.items()},
            "artifacts": [f"{r.stage.name}/{r.key}" for r in found.wanted.all()],
            "found": [f"{r.stage.name}/{r.key}" for r in found.wanted.all() if r not in todo and p.store.find(r.artifact)],
            "process": _me(),
        }
        self.save("running")

    def finished(self, lane: LaneRecord) -> None:
        """A lane has come to its end."""
        body = asdict(lane)
        for name in ("made", "hits"):
            body[name] = [f"{a['stage']}/{a['key']}" for a in body[name]]
        self.lanes.append(body)
        self.update("running")

    def update(self, status: str, error: str | None = None) -> None:
        """Write the record if it can be written: what fills a disk is the stage's to tell, not its record's."""
        with suppress(OSError):
            self.save(status, error)

    def save(self, status: str, error: str | None = None) -> None:
        """Write the record: ``running``, ``done``, ``failed`` or ``interrupted``."""
        seconds = round(time.monotonic() - self.begun, 1)
        text = json.dumps({**self.body, "status": status, "error": error, "seconds": seconds, "lanes": self.lanes}, indent=1)
        draft = self.path.with_suffix(".tmp")
        draft.write_text(text)
        os.replace(draft, self.path)


def recorded(store: Store) -> list[dict[str, Any]]:
    """All run records, the oldest first. One that still says ``running`` but whose process is gone is ``killed``."""
    folder = Path(store.backend.folder(FOLDER))
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))] if folder.exists() else []
    return [{**run, "status": "killed"} if run["status"] == "running" and _gone(run) else run for run in found]


def _me() -> dict[str, Any]:
    return {"host": socket.gethostname(), "boot": boot_id(), "pid": os.getpid(), "started": process_started(os.getpid())}


def _gone(run: dict[str, Any]) -> bool:
    """Whether the process of a run ended on this host; of other hosts nobody here can tell."""
    process = run.get("process", {})
    if process.get("host") != socket.gethostname():
        return False
    return process["boot"] != boot_id() or process_started(process["pid"]) != process["started"]
