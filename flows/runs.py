"""Records of runs: what was asked, and as it goes, what each process that works on it made, found and waited for.

Layout in the store::

    runs/<id>.json                           what was asked, and how it stands
    runs/<id>/<host>-<pid>-<n>-<i>.jsonl     events of one process, a hundred to a file

Events are appended by nobody but their process, and a file is written whole, so that object stores can keep them too.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from artifacts.errors import ArtifactError
from artifacts.lease import boot_id, process_started
from artifacts.store import Store
from flows.plan import Plan
from flows.sweep import Job
from tasks.asking import paid_now
from tasks.progress import Progress

FOLDER = "runs"
_EVENTS_PER_FILE = 100


class RunRecord(Progress):
    """The record of one run, as one of its processes writes it. A listener: what stages tell becomes events."""

    def __init__(self, store: Store, body: dict[str, Any]) -> None:
        self._store, self.body = store, body
        self.id: str = body["id"]
        self._lock = threading.Lock()
        self._name = f"{FOLDER}/{self.id}/{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:4]}"
        self._begun = time.monotonic()
        self._file, self._lines = 0, list[str]()

    @staticmethod
    def new(jobs: Sequence[Job], found: Plan, typed: Sequence[str], **more: Any) -> RunRecord:
        """Begin the record of a run of some jobs. Raises ``OSError`` when it cannot be written."""
        wanted, several = found.wanted, len(jobs) > 1
        body = {
            "id": f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:4]}",
            "when": now(),
            "command": jobs[0].goal.command if jobs[0].goal else "run",
            "overrides": list(typed),
            "config": jobs[0].pipeline.plain,
            "jobs": [{"overrides": job.overrides, "settings": job.settings} for job in jobs] if several else [],
            "wanted": {label: {n: r.address for n, r in named.items()} for label, named in wanted.named.items()},
            "finals": [r.address for r in wanted.finals],
            "artifacts": [r.address for r in wanted.all()],
            "found": [r.address for r in found.found],
            "status": "running",
            "error": None,
            "seconds": 0.0,
            "process": _me(),
            **more,
        }
        record = RunRecord(jobs[0].pipeline.store, body)
        record._save()
        return record

    @staticmethod
    def joined(store: Store, id: str) -> RunRecord:
        """The record of a run that another process began, to add events to."""
        data = store.backend.read(f"{FOLDER}/{id}.json")
        if data is None:
            raise ArtifactError(f"run {id}, but this store has no record of it; saint ls lists the runs that there are")
        return RunRecord(store, json.loads(data))

    def event(self, what: str, **facts: Any) -> None:
        """Add an event. What fills a disk is the stage's to tell, not its record's: an error here is none."""
        line = json.dumps({"when": now(), "what": what, **facts, "host": socket.gethostname(), "pid": os.getpid()})
        with self._lock, suppress(OSError, ArtifactError):
            self._lines.append(line)
            self._store.backend.write(f"{self._name}-{self._file:03}.jsonl", "".join(f"{x}\n" for x in self._lines).encode())
            if len(self._lines) >= _EVENTS_PER_FILE:
                self._file, self._lines = self._file + 1, []

    def note(self, text: str) -> None:
        self.event("note", text=text)

    def update(self, status: str, error: str | None = None, **more: Any) -> None:
        """Say how the run stands: ``submitted``, ``running``, ``done``, ``failed`` or ``interrupted``."""
        seconds = round(time.monotonic() - self._begun, 1)
        self.body.update(status=status, error=error, seconds=seconds, process=_me(), **more)
        with suppress(OSError, ArtifactError):
            self._save()

    def _save(self) -> None:
        self._store.backend.write(f"{FOLDER}/{self.id}.json", json.dumps(self.body, indent=1).encode())


def now() -> str:
    """The time in UTC, as records have it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def recorded(store: Store) -> list[dict[str, Any]]:
    """All run records, the oldest first. One that still says ``running`` but whose process is gone is ``killed``."""
    paths = [path for path in store.backend.paths(FOLDER) if path.count("/") == 1 and path.endswith(".json")]
    found = [run for path in paths if (run := _read(store, path)) is not None]
    return sorted(found, key=lambda run: (run["when"], run["id"]))  # ids tell the time by the second only


def record_of(store: Store, id: str) -> dict[str, Any] | None:
    """The record of one run, as ``recorded`` has it; None when there is no such run."""
    return _read(store, f"{FOLDER}/{id}.json")


def _read(store: Store, path: str) -> dict[str, Any] | None:
    data = store.backend.read(path)
    if data is None:
        return None
    run = json.loads(data)
    if run["status"] != "running":
        return run
    if _gone(run):
        return {**run, "status": "killed"}
    begun = datetime.fromisoformat(run["when"].replace("Z", "+00:00"))
    return {**run, "seconds": round((datetime.now(UTC) - begun).total_seconds(), 1)}


class Events:
    """What the processes of a run tell, read as it comes: whoever looks every second reads no file twice that is full."""

    def __init__(self, store: Store, id: str) -> None:
        self._store, self._id = store, id
        self._seen: dict[str, int] = {}
        self._lock = threading.Lock()
        self.all: list[dict[str, Any]] = []
        """All that was told so far, in the order of time."""

    def new(self) -> list[dict[str, Any]]:
        """What was told since the last look."""
        found: list[dict[str, Any]] = []
        with self._lock:
            for path in self._store.backend.paths(f"{FOLDER}/{self._id}"):
                seen = self._seen.get(path, 0)
                if seen < _EVENTS_PER_FILE:
                    lines = (self._store.backend.read(path) or b"").splitlines()
                    found += [json.loads(line) for line in lines[seen:]]
                    self._seen[path] = len(lines)
            found.sort(key=lambda event: event["when"])
            self.all = sorted(self.all + found, key=lambda event: event["when"])
        return found


def events(store: Store, id: str) -> list[dict[str, Any]]:
    """What the processes of a run told, in the order of time."""
    return Events(store, id).new()


def told(store: Store, run: dict[str, Any]) -> dict[str, Any]:
    """A run's record with what its events come to: lanes, waits, dollars, tokens per second of the stages."""
    every = events(store, run["id"])
    lanes = [_without(e, "what") for e in every if e["what"] == "lane"]
    made = [e for e in every if e["what"] == "made"]
    usd = sum(paid_now(e["figures"]) for e in made)
    failed = [_without(e, "what") for e in every if e["what"] == "failed"]
    lanes = lanes or run.get("lanes", [])  # where records of 0.1 from before sweeps have them
    return {"jobs": [], **run, "lanes": lanes, "stages": list(_stages(made)), "failures": failed, "usd": round(usd, 4)}


def _stages(made: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    by: dict[str, list[dict[str, Any]]] = {}
    for event in made:
        by.setdefault(event["artifact"].split("/")[0], []).append(event)
    for stage, group in by.items():
        paces = [e["figures"]["tokens_per_second"] for e in group if "tokens_per_second" in e["figures"]]
        yield {
            "stage": stage,
            "made": len(group),
            "seconds": round(sum(e.get("seconds") or 0.0 for e in group), 2),
            "tokens_per_second": round(sum(paces) / len(paces)) if paces else None,
            "hosts": sorted({e["host"] for e in group}),
        }


def _without(event: dict[str, Any], name: str) -> dict[str, Any]:
    return {n: v for n, v in event.items() if n != name}


def _me() -> dict[str, Any]:
    return {"host": socket.gethostname(), "boot": boot_id(), "pid": os.getpid(), "started": process_started(os.getpid())}


def _gone(run: dict[str, Any]) -> bool:
    """Whether the process of a run ended on this host; of other hosts nobody here can tell."""
    process = run.get("process", {})
    if process.get("host") != socket.gethostname():
        return False
    return process["boot"] != boot_id() or process_started(process["pid"]) != process["started"]
