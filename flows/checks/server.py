"""The Prefect server: plain requests to its REST API, so that nothing of Prefect is imported and each ends in time."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flows.checks.base import Check, Status
from flows.server import LANE, LLM_TAG, POOLS, WATCHER, ZOMBIES

CONNECT_SECONDS, ANSWER_SECONDS = 3.0, 10.0
"""A server that is there takes a connection at once, and answers when it has time."""

DEPLOYMENTS = (WATCHER, LANE)

SKEW_SECONDS = 5.0
"""A server further away in time than this takes workers for dead, and runs for late."""

SQLITE_WORKERS = 4
"""Workers online above which SQLite over many connections makes runs wait for one another (benchmarks/README.md)."""


def server(environ: Mapping[str, str], pooled: bool = False, asks_llm: bool = False) -> Iterator[Check]:
    """``pooled``: the run that is meant needs work pools; without them it is wrong, not only worth a warning."""
    url = environ.get("PREFECT_API_URL", "").rstrip("/")
    if not url:
        if pooled:
            yield Check("server", "wrong", "runtime.mode = 'pool', but PREFECT_API_URL is not set", _START)
        else:
            yield Check("server", "ok", "PREFECT_API_URL is not set: a run brings a server of its own")
        return
    import httpx

    try:
        patience = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
        with httpx.Client(timeout=patience, headers=headers(environ), follow_redirects=True) as client:
            yield from Server(client, url).checks("wrong" if pooled else "warning", asks_llm)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        said = f"PREFECT_API_URL = {url!r}, but it does not answer ({str(error) or type(error).__name__})"
        yield Check("server", "wrong", said, _START)
    except _Strange as error:
        yield Check("server", "wrong", f"PREFECT_API_URL = {url!r}, but {error}", error.todo)


_START = "start the server (deployments/), correct PREFECT_API_URL, or unset it"


class _Strange(Exception):
    """An answer that our Prefect server does not give."""

    todo = "let it name Prefect's API, as in http://127.0.0.1:4200/api"


class _Refused(_Strange):
    todo = "set PREFECT_API_AUTH_STRING (or PREFECT_API_KEY) to what it asks for"


def headers(environ: Mapping[str, str]) -> dict[str, str]:
    """What Prefect's own client sends to a server that asks for a password."""
    if password := environ.get("PREFECT_API_AUTH_STRING"):
        return {"Authorization": "Basic " + base64.b64encode(password.encode()).decode()}
    key = environ.get("PREFECT_API_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}


class _Busy(_Strange):
    todo = "ask again; if it stays so, look at the server's log, and at its database (deployments/server.env)"


class Server:
    """A server that answers, asked one thing after the other."""

    def __init__(self, client: Any, url: str) -> None:
        self.client, self.url = client, url
        self.now: datetime | None = None
        """The server's clock at its last answer."""

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """What the server says; None for what it does not have. A body makes it a POST."""
        for patience in (0.2, 0.5, 1.0, None):
            answer = self.client.request("GET" if body is None else "POST", self.url + path, json=body)
            if answer.status_code != 503 or patience is None:
                break
            time.sleep(patience)  # SQLite, and another request was writing
        with suppress(KeyError, ValueError):
            self.now = parsedate_to_datetime(answer.headers["date"])
        if answer.status_code == 404:
            return None
        if answer.status_code >= 400:
            kind = {401: _Refused, 403: _Refused, 503: _Busy}.get(answer.status_code, _Strange)
            raise kind(f"{path} is answered with {answer.status_code} {answer.reason_phrase}")
        try:
            return answer.json()
        except ValueError:
            raise _Strange(f"{path} is answered with something that is not JSON") from None

    def checks(self, bad: Status, asks_llm: bool) -> Iterator[Check]:
        yield self.version()
        yield from self.skew()
        online = {}
        for pool in POOLS:
            check, online[pool] = self.pool(pool, bad)
            yield check
        yield from self.workers(online, bad)
        yield from self.database(sum(len(names or ()) for names in online.values()))
        yield self.deployments(bad)
        yield self.automation()
        yield from self.limit(asks_llm)

    def version(self) -> Check:
        from packaging.version import Version

        theirs, ours = self.ask("/admin/version"), metadata.version("prefect")
        if not isinstance(theirs, str):
            raise _Strange("what answers there is no Prefect server")
        if theirs == ours:
            return Check("server", "ok", f"Prefect {theirs} at {self.url}")
        status: Status = "wrong" if Version(theirs) < Version(ours) else "warning"  # it refuses fields that it does not know
        return Check("server", status, f"Prefect {theirs} at {self.url}, but {ours} here", "install the same version on both")

    def skew(self) -> Iterator[Check]:
        if self.now is None:
            return
        seconds = self.now.timestamp() - time.time()
        said = f"the server's clock is {abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} ours"
        if abs(seconds) > SKEW_SECONDS:
            yield Check("clocks", "warning", said + ": workers look dead and runs late", "set both by NTP")
        else:
            yield Check("clocks", "ok", "the server's clock and ours agree")

    def pool(self, name: str, bad: Status) -> tuple[Check, list[str] | None]:
        """The check, and what the workers online are called with the seconds since their last sign; None for no pool."""
        found = self.ask(f"/work_pools/{name}")
        if found is None:
            return Check(f"pool {name}", bad, f"there is no work pool {name}", "saint deploy"), None
        workers = self.ask(f"/work_pools/{name}/workers/filter", {}) or []
        online = [f"{w['name']} ({self._ago(w.get('last_heartbeat_time'))})" for w in workers if w.get("status") == "ONLINE"]
        if found.get("is_paused"):
            said, todo = f"work pool {name} is paused: nothing in it starts", f"prefect work-pool resume {name}"
            return Check(f"pool {name}", bad, said, todo), online
        return Check(f"pool {name}", "ok", f"{len(online)} of {len(workers)} known workers online"), online

    def _ago(self, when: str | None) -> str:
        if not when:
            return "never heard of"
        now = self.now.timestamp() if self.now else time.time()
        return f"heard of {max(0, now - datetime.fromisoformat(when).timestamp()):.0f} s ago"

    def workers(self, online: Mapping[str, list[str] | None], bad: Status) -> Iterator[Check]:
        if all(names is None for names in online.values()):
            return
        nobody: Status = bad if not any(online.values()) else "warning"
        for pool, names in online.items():
            if names:
                yield Check(f"workers {pool}", "ok", ", ".join(names))
            elif names is not None:
                yield Check(f"workers {pool}", nobody, f"no worker of pool {pool} is online", f"saint worker --pool {pool}")

    def database(self, n_workers: int) -> Iterator[Check]:
        kind = database_kind(self.ask("/admin/settings"), self.url)
        if kind is None:
            return
        if kind == "SQLite" and n_workers > SQLITE_WORKERS:
            said = f"SQLite, and {n_workers} workers that write to it at once: they wait for one another"
            yield Check("database", "warning", said, "PostgreSQL, or one connection (deployments/server.env)")
        else:
            yield Check("database", "ok", kind)

    def deployments(self, bad: Status) -> Check:
        version = metadata.version("saint-sae")
        found = {name: self.ask(f"/deployments/name/{name}") for name in DEPLOYMENTS}
        if absent := [name for name, one in found.items() if one is None]:
            return Check("deployments", bad, f"{', '.join(absent)} not there", "saint deploy")
        told = {name: {tag for tag in one.get("tags") or [] if tag.startswith("saint-")} for name, one in found.items()}
        if other := [name for name, tags in told.items() if tags and f"saint-{version}" not in tags]:
            return Check("deployments", bad, f"{', '.join(other)} of another version than ours ({version})", "saint deploy")
        return Check("deployments", "ok", ", ".join(found) + (f" of version {version}" if all(told.values()) else ""))

    def automation(self) -> Check:
        found = self.ask("/automations/filter", {"automations": {"name": {"any_": [ZOMBIES]}}}) or []
        if any(one.get("enabled") for one in found):
            return Check("dead runs", "ok", f"the automation {ZOMBIES!r} is on")
        what = "is off" if found else "is not there"
        said = f"the automation {ZOMBIES!r} {what}: a run whose machine died stays Running for ever"
        return Check("dead runs", "warning", said, "saint deploy")

    def limit(self, asks_llm: bool) -> Iterator[Check]:
        found = self.ask(f"/concurrency_limits/tag/{LLM_TAG}")
        if found is not None:
            yield Check("llm limit", "ok", f"at most {found['concurrency_limit']} stages with the tag {LLM_TAG} at once")
        elif asks_llm:
            said = f"no limit on the tag {LLM_TAG}: every stage that asks the LLM asks at once"
            yield Check("llm limit", "warning", said, "saint deploy")


def database_kind(settings: Any, url: str) -> str | None:
    """What a server's settings tell of its database; None where they do not tell, since the address is kept secret.

    A server on this machine is known by SQLite's write-ahead log, which is there while the database is open.
    """
    settings = settings or {}
    driver = ((settings.get("server") or {}).get("database") or {}).get("driver") or ""
    for mark, kind in (("postgresql", "PostgreSQL"), ("sqlite", "SQLite")):
        if driver.startswith(mark):
            return kind
    here = urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")
    return "SQLite" if here and Path(settings.get("home", ""), "prefect.db-wal").exists() else None
