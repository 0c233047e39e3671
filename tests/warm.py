"""``saint`` as a process of its own that starts at once: forked from one that has already imported what a run imports.

A cold one spends some six seconds of processor time on torch, transformers, matplotlib and Prefect's dependencies, more than
the small worlds of tests take. Pids, signals, exit codes, environment and both streams are a process's own, as ever. Prefect itself is
never imported beforehand: it reads its settings from the environment then. Whatever is about imports goes by ``cold``.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["tests.warmed"])


def environment(**more: str) -> dict[str, str]:
    """That of this process, with what children of tests need."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


class Started:
    """A process that runs; as much of ``subprocess.Popen`` as tests use. Both of its streams go to files."""

    def __init__(self, function: Callable[..., object], arguments: Sequence[object], cwd: Path, env: Mapping[str, str]) -> None:
        self.args = [function.__name__, *map(str, arguments)]
        self._streams = [tempfile.NamedTemporaryFile("r+", prefix="saint-", suffix=name) for name in (".out", ".err")]  # noqa: SIM115
        names = [file.name for file in self._streams]
        self._process = _forks.Process(target=_be, args=(function, list(arguments), str(cwd), dict(env), names))
        self._process.start()
        self.pid: int = self._process.pid  # type: ignore[assignment]

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self._process.is_alive():
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self._process.exitcode

    def said(self) -> tuple[str, str]:
        """What it has said until now, on stdout and on stderr."""
        return tuple(Path(file.name).read_text("utf-8", "replace") for file in self._streams)  # type: ignore[return-value]

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        return self.said()


def calling(function: Callable[..., object], *arguments: object, cwd: Path = ROOT, **env: str) -> Started:
    """A process that calls a function of a module, and ends with what it returns for an exit code."""
    return Started(function, arguments, cwd, environment(**env))


def start(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> Started:
    """A command that goes on."""
    return Started(command, arguments, cwd, environment() if env is None else env)


def command(*arguments: str) -> int:
    from flows.cli import program

    sys.argv = ["saint", *arguments]
    return program()


def saint(world: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess:
    """A command, to its end, in the folder ``world``."""
    going = start(*arguments, cwd=world, env=environment(**env))
    try:
        out, said = going.communicate(280)
    except BaseException:
        going.kill()
        raise
    assert "Traceback" not in said, said
    return subprocess.CompletedProcess(going.args, going.returncode, out, said)


def cold(world: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess:
    """The same by a Python that starts from nothing, as a user's does."""
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        cwd=world, env=environment(**env), capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done


def _be(function: Callable[..., object], arguments: list, cwd: str, env: dict[str, str], streams: list[str]) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for number, file in enumerate([os.open(os.devnull, os.O_RDONLY), *(os.open(name, os.O_WRONLY | os.O_APPEND) for name in streams)]):
        os.dup2(file, number)
    try:
        code = function(*arguments)
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves them out, and Prefect ends a server that it began there
    sys.exit(code)
