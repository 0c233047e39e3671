"""The Prefect server: settings that Prefect reads when it is imported, and what is said when it cannot be used.

Imports no Prefect, so that settings can be made in time.
"""

from __future__ import annotations

import os

POOLS = {
    "gpu": "stages that compute; one worker to a GPU",
    "cpu": "runs that watch over lanes, and ask LLMs; they mostly wait",
}
WATCHER, LANE = "interpret/pool", "lane/gpu"
"""Deployments, as deployments/prefect.yaml has them."""

ZOMBIES = "saint: runs that died"
LLM_TAG = "llm"

QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # a failure is told by us, once; the server keeps the rest
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_CLIENT_MAX_RETRIES": "12",  # SQLite under several writers: wait rather than lose a flow
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # a server of one's own, on a machine that has other work
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "60",  # three of them missed, and a run is taken for dead
}
"""What the user has set stays."""


def apply() -> None:
    """Set what is not set yet."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def has_server() -> bool:
    """Whether the environment names a Prefect server; without one, Prefect starts its own for the time of the run."""
    return bool(os.environ.get("PREFECT_API_URL"))


class ServerFailed(RuntimeError):
    """Prefect's server could not be used. What was committed stays."""


KEPT = "the run could not be kept there", "start that server, unset the variable, or use runtime.mode=inline"
ASKED = "it gives no answer that helps", "start that server, or correct the address (it ends in /api)"


def unusable(error: BaseException, what: tuple[str, str] = ASKED) -> ServerFailed:
    """An error of Prefect's or its HTTP client's in our grammar: what could not be had of the server, and what to do."""
    where = os.environ.get("PREFECT_API_URL", "")
    said = str(error).strip().splitlines() or [type(error).__name__]
    return ServerFailed(f"PREFECT_API_URL = {where!r}, but {what[0]} ({said[0]}); {what[1]}")
