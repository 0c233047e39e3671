"""A terminal that closes, as a shell and the kernel tell of it: to the process alone, to its group, once, twice, or not at all."""

from __future__ import annotations

import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from flows.signals import hear
from tests.small import overrides
from tests.warm import environment
from tests.workplace import until

LONG = ("train.n_tokens=90000000", "runtime.checkpoint_seconds=0.2")


@pytest.fixture
def lab(tmp_path):
    return tmp_path, [*overrides(tmp_path), *LONG, f"backend.root={tmp_path / 'store'}"]


def under_way(store: Path) -> bool:
    return any(store.glob("train/*/*/attempts/*/scratch/*"))


def listed(folder: Path) -> dict:
    command = [sys.executable, "-m", "flows.cli", "ls", f"backend.root={folder / 'store'}", "--json"]
    return json.loads(subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=True).stdout)


def of_home(home: Path) -> list[str]:
    """Processes that have this PREFECT_HOME."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            found += [entry.parent.name] if f"PREFECT_HOME={home}".encode() in entry.read_bytes() else []
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.parametrize("shell", [False, True], ids=["alone in its terminal", "as a job of a shell"])
def test_a_run_whose_terminal_closes_ends_as_by_ctrl_c_and_leaves_no_server(lab, shell):
    """The shell sends SIGHUP to its jobs and dies; the kernel sends another to those in the foreground."""
    folder, typed = lab
    home = folder / "own"
    command = [sys.executable, "-m", "flows.cli", "run", *typed]
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        env = environment(PREFECT_API_URL="", PREFECT_HOME=str(home))
        if shell:
            os.execvpe("bash", ["bash", "--norc", "-i"], env)
        os.execvpe(command[0], command, env)
    if shell:
        os.write(terminal, f"{shlex.join(command)}\n".encode())
    os.set_blocking(terminal, False)

    def read_until_under_way() -> bool:  # or the terminal fills up, and who writes to it waits
        with suppress(BlockingIOError):
            os.read(terminal, 1 << 16)
        return under_way(folder / "store")

    until(read_until_under_way)
    assert len(of_home(home)) >= 2, "a run, and its server"
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    if not shell:
        assert os.waitstatus_to_exitcode(status) == 129
    until(lambda: not of_home(home), why="its server stays")
    assert listed(folder)["runs"][-1]["status"] == "interrupted"
    assert not any((folder / "store/leases").glob("*.json"))


@pytest.mark.slow
def test_what_hang_ups_do_more_than_once_and_under_nohup(lab):
    folder, typed = lab
    command = [sys.executable, "-m", "flows.cli", "run", *typed, "runtime.mode=inline"]
    process = subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )  # fmt: skip
    until(lambda: under_way(folder / "store"))
    process.send_signal(signal.SIGHUP)
    time.sleep(2)
    assert process.poll() is None, "nohup keeps it going"
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 143 and said.endswith("resume: the same command\n") and "Traceback" not in said

    process = subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    until(lambda: listed(folder)["runs"][-1]["status"] == "running" and any((folder / "store/leases").glob("*.json")))
    for _ in range(20):
        process.send_signal(signal.SIGHUP)
        time.sleep(0.02)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 129 and said.endswith("resume: the same command\n") and "Traceback" not in said
    assert listed(folder)["runs"][-1]["status"] == "interrupted"
    assert not any((folder / "store/leases").glob("*.json"))


def test_signals_are_heard_and_then_as_they_were():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    told: list[int] = []
    try:
        undo = hear(told.append)
        undo()
        assert {number: signal.getsignal(number) for number in before} == before
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as some batch scripts leave it
        undo = hear(told.append)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGHUP):
            os.kill(os.getpid(), number)
        assert told == [signal.SIGTERM], "a hang-up after it adds nothing"
        undo()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        hear(told.append)()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, "nohup"
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
