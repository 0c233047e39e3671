"""Progress of a lane as artifacts of its flow run, at most one call a second: what Prefect's UI shows of long work."""

from __future__ import annotations

import re
import time
from typing import Any

from flows.console import said
from tasks.progress import Progress, Running

_SECONDS = 1.0


class Mirror(Progress):
    """A listener that keeps one progress artifact for each bar. The server's troubles are no trouble of the stage's."""

    def __init__(self, prefix: str) -> None:
        self._prefix, self._n = prefix, 0
        self._open: dict[int, tuple[Any, float]] = {}

    def started(self, bar: Running) -> None:
        from prefect.artifacts import create_progress_artifact

        if bar.total:
            name = re.sub(r"[^a-z0-9]+", "-", f"{self._prefix} {bar.label}".lower()).strip("-")  # all that Prefect takes
            artifact = self._tried(create_progress_artifact, progress=0.0, key=name, description=bar.label)
            self._open[id(bar)] = (artifact, time.monotonic())

    def advanced(self, bar: Running) -> None:
        artifact, last = self._open.get(id(bar), (None, 0.0))
        if artifact is not None and time.monotonic() - last >= _SECONDS:
            self._open[id(bar)] = (artifact, time.monotonic())
            self._update(artifact, bar, min(99.9, 100 * bar.done / (bar.total or 1)))

    def finished(self, bar: Running) -> None:
        artifact, _ = self._open.pop(id(bar), (None, 0.0))
        if artifact is not None:
            self._update(artifact, bar, 100.0)

    def _update(self, artifact: Any, bar: Running, percent: float) -> None:
        from prefect.artifacts import update_progress_artifact

        self._tried(update_progress_artifact, artifact, progress=percent, description=f"{bar.label}  {said(bar.figures)}")

    @staticmethod
    def _tried(call: Any, *args: Any, **fields: Any) -> Any:
        import httpx
        from prefect.exceptions import PrefectException

        try:
            return call(*args, **fields)
        except (httpx.HTTPError, PrefectException, OSError):
            return None

