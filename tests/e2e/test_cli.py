"""The command line on a small world: a whole run, then every way of looking at it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.small import overrides
from tests.warm import cold, environment, saint


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("world")


def run(world: Path, *more: str) -> subprocess.CompletedProcess:
    return saint(world, "run", *overrides(world), "runtime.mode=inline", *more)


@pytest.fixture(scope="module")
def first(world) -> subprocess.CompletedProcess:
    done = cold(world, "run", *overrides(world), "runtime.mode=inline")
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def listed(world: Path, *more: str) -> dict:
    return json.loads(saint(world, "ls", "--json", *more).stdout)


def test_a_run_prints_its_plan_and_what_came_out(first):
    assert " to make, about" in first.stdout
    assert "FVU" in first.stdout and "mean balanced accuracy" in first.stdout and "report.html" in first.stdout


def test_a_second_run_finds_everything_and_computes_nothing(world, first):
    before = listed(world)["artifacts"]
    again = run(world)
    assert again.returncode == 0 and "nothing to make" in again.stdout
    assert listed(world)["artifacts"] == before
    record = json.loads(saint(world, "show", "last", "--json").stdout)["run"]
    assert record["status"] == "done" and record["lanes"] == []


def test_plan_says_what_is_missing_and_writes_nothing(world, first):
    names = sorted(p.name for p in world.rglob("*"))
    found = json.loads(saint(world, "plan", "--json", *overrides(world), "sae.k=5").stdout)
    stages = {s["stage"]: s for s in found["stages"]}
    assert stages["capture"]["missing"] == 0 and stages["capture"]["cached"] == 5
    assert stages["train"]["missing"] == 1 and stages["train"]["n_tokens"] == 40000
    assert found["missing"] == sum(s["missing"] for s in found["stages"]) and found["total"]["seconds"] > 0
    assert sorted(p.name for p in world.rglob("*")) == names


def test_show_gives_metrics_and_the_way_to_the_files(world, first):
    record = json.loads(saint(world, "show", "last", "--json").stdout)["run"]
    metrics = record["metrics"]["layers.1"]
    assert 0 < metrics["evaluate"]["fvu"] < 1 and metrics["train"]["n_tokens"] > 39_000
    (row,) = [r for r in listed(world)["artifacts"] if r["stage"] == "evaluate"]
    shown = json.loads(saint(world, "show", row["key"][:10], "--json").stdout)["artifact"]
    assert Path(world, shown["path"], "metrics.json").exists()
    assert shown["metrics"]["fvu"]["value"] == row["summary"]["fvu"]
    assert saint(world, "show", "last").returncode == 0


def test_why_names_the_field_at_the_root(world, first):
    assert run(world, "train.seed=9").returncode == 0
    scores = [r["key"] for r in listed(world)["artifacts"] if r["stage"] == "score"]
    said = saint(world, "why", f"score/{scores[0][:12]}", f"score/{scores[1][:12]}").stdout
    assert "seed = 0 | 9" in said and "train" in said


def test_verify_finds_a_flipped_byte_and_a_run_that_needs_it_stops(world, first, tmp_path):
    assert saint(world, "verify").returncode == 0
    chunk = next(p for p in (world / "saint-store" / "capture").rglob("c/0/0") if p.parts[-4] == "activations")
    data = bytearray(chunk.read_bytes())
    data[5000] ^= 4
    chunk.write_bytes(data)
    done = saint(world, "verify", "--json")
    (fault,) = json.loads(done.stdout)["faults"]
    assert done.returncode == 1 and fault["stage"] == "capture"
    assert fault["file"].endswith("activations/c/0/0") and fault["chunk"]
    stopped = run(world, "train.seed=10")
    assert stopped.returncode == 1
    assert "cause: capture/" in stopped.stderr and "resume: the same command" in stopped.stderr
    data[5000] ^= 4
    chunk.write_bytes(data)
    assert saint(world, "verify").returncode == 0


def test_gc_lists_first_and_deletes_when_told(world, first):
    orphan = world / "saint-store" / "train" / "aa" / ("a" * 64) / "attempts" / "20260101T000000-x" / "scratch"
    orphan.mkdir(parents=True)
    (orphan / "half.bin").write_bytes(b"x" * 1000)
    assert "1.0 kB could be freed" in saint(world, "gc").stdout and orphan.exists()
    assert "1.0 kB freed" in saint(world, "gc", "--yes").stdout and not orphan.exists()
    assert run(world).returncode == 0 and "nothing to make" in run(world).stdout


def test_the_report_command_prints_the_path(world, first):
    path = saint(world, "report", *overrides(world), "runtime.mode=inline").stdout.strip().splitlines()[-1]
    text = Path(world, path).read_text()
    assert saint(world, "report").stdout.strip() == path  # without overrides: the latest
    assert "default-src 'none'" in text and "http://" not in text.replace("http://www.w3.org/", "")


def test_help_configuration_multirun_and_completion_work(world, first):
    assert "saint run" in cold(world, "--help").stdout
    assert "== Configuration groups ==" in saint(world, "run", "--help").stdout
    assert "kind: topk" in saint(world, "run", "--cfg", "job").stdout
    done = saint(world, "run", "-m", *overrides(world), "runtime.mode=inline", "train.seed=0,9")
    assert done.returncode == 0 and "2 jobs: 38 stages, 31 distinct, 30 found, 0 model passes" in done.stdout, done.stderr
    assert "complete" in saint(world, "completion", "bash").stdout
    script = saint(world, "completion", "bash").stdout + '\nCOMP_WORDS=(saint pl); COMP_CWORD=1; _saint; echo "${COMPREPLY[@]}"'
    assert subprocess.run(["bash", "-c", script], capture_output=True, text=True).stdout.strip() == "plan"


def interrupted(world: Path, number: signal.Signals, *more: str, group: bool = False, **env: str) -> tuple[int, str, float]:
    """Exit code, last lines and seconds to the end of a long training that gets a signal, or whose process ``group`` does."""
    store = world / f"{number.name}{'-group' * group}-store"  # empty: its first checkpoint says that training goes on
    command = [
        sys.executable, "-m", "flows.cli", "run", *overrides(world), "train.n_tokens=90000000",
        "runtime.checkpoint_seconds=0.2", f"backend.root={store}", *more,
    ]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=world, env=environment(**env),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=group,
    )  # fmt: skip
    limit = time.monotonic() + 120
    while not any(store.glob("train/*/*/attempts/*/scratch/*")) and time.monotonic() < limit:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    begun = time.monotonic()
    (os.killpg if group else os.kill)(process.pid, number)
    _, said = process.communicate(timeout=200)
    seconds = time.monotonic() - begun
    assert "Traceback" not in said, said
    assert listed(world, f"backend.root={store}")["runs"][-1]["status"] == "interrupted"
    assert not any((store / "leases").glob("*.json"))  # whoever comes next need not wait
    return process.returncode, "\n".join(said.splitlines()[-2:]), seconds


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_ends_at_once_and_says_how_to_go_on(world, first, number, code):
    returned, said, seconds = interrupted(world, number, "runtime.mode=inline")
    assert (returned, said) == (code, "interrupted; what was committed stays\nresume: the same command")
    assert seconds < 90  # a second here; training would go on for minutes


ENDING = """
import atexit, sys, time
from flows.cli import program
atexit.register(lambda: (print("ending", flush=True), time.sleep(3), print("ended", flush=True)))
sys.argv = ["saint", "--version"]
sys.exit(program())
"""


@pytest.mark.parametrize("presses, code, last", [(1, 0, "ended"), (2, -signal.SIGINT, "ending")])
def test_ctrl_c_while_a_command_ends_has_no_traceback_and_pressed_again_ends_it_at_once(presses, code, last):
    process = subprocess.Popen(
        [sys.executable, "-c", ENDING], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    read = [process.stdout.readline() for _ in range(2)]
    assert read[1] == "ending\n", read
    for _ in range(presses):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)  # two at once are one to a process
    out, said = process.communicate(timeout=200)
    assert (process.returncode, said) == (code, "") and [*read, *out.splitlines()][-1].strip() == last


def test_mistakes_are_one_line_and_exit_code_2(world):
    for arguments, message in [
        (("rum",), "'rum', but saint has the commands run, plan"),
        (("run", "sae.kk=1"), "sae.kk=1, but there is no sae.kk"),
        (("run", "--cfg", "job", "sae.kk=1"), "sae.kk=1, but there is no sae.kk"),
        (("run", "-m", "sae=nonesuch"), "sae = 'nonesuch', but conf/sae/ has "),
        (("show", "ffffffffffff"), "no artifact of this store is called so"),
        (("ls", "backend.root=nowhere"), "there is no store"),
    ]:
        done = (cold if arguments == ("rum",) else saint)(world, *arguments)
        assert done.returncode == 2 and message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
