"""Graphics cards, by nvidia-smi and by what torch was built for. Nothing of CUDA is started, torch is not imported."""

from __future__ import annotations

import fcntl
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from flows.checks.base import Check
from tasks import devices

_QUERY = ("index", "name", "memory.total", "memory.used", "driver_version")

OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
"""Of each major version of CUDA, on Linux; within one, an older driver runs newer builds."""


def cards() -> list[dict[str, str]] | str | None:
    """The cards of this machine by nvidia-smi; None without that program, a text when it fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits"],
            capture_output=True, text=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode:
        return (done.stdout + done.stderr).strip() or f"exit code {done.returncode}"
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
    return [dict(zip(_QUERY, row, strict=True)) for row in rows if len(row) == len(_QUERY)]


def built_for() -> str | None:
    """The CUDA that torch was built for, None for a build without, ``""`` where torch is not installed."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return ""
    text = Path(spec.origin).with_name("version.py").read_text()
    found = re.search(r"^cuda[^=]*= *['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    return found[1] if found else None


def gpus(
    found: list[dict[str, str]] | str | None, cuda: str | None, device: str, visible: str | None = None
) -> Iterator[Check]:
    """``device`` is ``runtime.device``, ``visible`` is CUDA_VISIBLE_DEVICES."""
    wanted = device.startswith("cuda")
    if isinstance(found, str):
        yield Check("gpu", "wrong", f"nvidia-smi fails: {' '.join(found.split())[:200]}", "mend the driver, or reboot")
    elif not found:
        said = "nvidia-smi lists no card" if found is not None else "no nvidia-smi, so no NVIDIA card"
        todo = "use runtime.device=auto" if wanted else ""
        yield Check("gpu", "wrong" if wanted else "ok", said + (f", but runtime.device = {device!r}" if wanted else ""), todo)
    else:
        if not cuda:
            yield Check(
                "gpu", "wrong", f"{len(found)} card(s), but this torch was built without CUDA, so they lie idle",
                "install the CUDA build of torch",
            )  # fmt: skip
        elif (driver := _number(found[0]["driver_version"])) < (least := OLDEST_DRIVER.get(int(cuda.partition(".")[0]), 0)):
            yield Check(
                "gpu", "wrong", f"driver {driver:g}, but torch was built for CUDA {cuda}, which needs {least} or newer",
                "update the driver, or install a build of torch for an older CUDA",
            )  # fmt: skip
        if visible is not None and visible.strip() in ("", "-1"):
            said = f"CUDA_VISIBLE_DEVICES = {visible!r} hides every card"
            yield Check("gpu", "wrong" if wanted else "warning", said, "unset it, or use runtime.device=cpu")
        for card in found:
            yield Check("gpu", "ok", _said(card) + (f"; torch for CUDA {cuda}" if cuda else ""))


def guards(folder: Path | None = None) -> Iterator[Check]:
    """Which devices a job holds at this moment."""
    for path in sorted((folder or devices.folder()).glob("*.lock")):
        with suppress(OSError), open(path, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield Check("device", "ok", f"{path.stem} is held by {devices.holder(path)}; a second job waits for it")


def _number(version: str) -> float:
    """The first number of a version; infinite where there is none, so that what is not known is not complained of."""
    found = re.match(r"\d+", version)
    return float(found[0]) if found else float("inf")


def _said(card: dict[str, str]) -> str:
    try:
        total, used = (float(card[name]) / 1024 for name in ("memory.total", "memory.used"))
        memory = f"{used:.1f} of {total:.0f} GiB in use"
    except ValueError:  # "[N/A]", as of a card that is cut into instances
        memory = "memory unknown"
    return f"cuda:{card['index']} {card['name']}, {memory}"
