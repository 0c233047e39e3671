"""The same run under Prefect: a real server, real states, and the store alone deciding what is done."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.test_cli import interrupted, listed
from tests.servers import post
from tests.small import overrides
from tests.warm import ROOT, environment, saint


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("world")


def run(world: Path, url: str, *more: str) -> subprocess.CompletedProcess:
    return saint(world, "run", *overrides(world), *more, PREFECT_API_URL=url, PREFECT_HOME=str(world / "prefect"))


def states(url: str) -> list[tuple[str, str, str]]:
    """Name, state and message of the tasks of the newest flow run."""
    (flow,) = post(url, "/flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})
    found = post(url, "/task_runs/filter", {"flow_runs": {"id": {"any_": [flow["id"]]}}})
    assert flow["state"]["name"] == "Completed"
    return [(t["name"], t["state"]["name"], t["state"]["message"] or "") for t in found]


def test_a_run_is_a_flow_with_a_task_per_lane_and_a_hit_is_shown_as_cached(server, world):
    done = run(world, server)
    assert done.returncode == 0, done.stderr[-3000:]
    first = states(server)
    assert {state for _, state, _ in first} == {"Completed"}
    capture = [name for name, _, _ in first if name.startswith("capture/")]
    assert len(capture) == 1 and capture[0].endswith("and 4 more")  # one model pass for all shards

    before = listed(world)["artifacts"]
    assert run(world, server).returncode == 0
    again = states(server)
    assert {state for _, state, _ in again} == {"Cached"} and len(again) == len(first)
    assert all("hit" in message for _, _, message in again)
    assert listed(world)["artifacts"] == before

    assert run(world, server, "sae.k=5").returncode == 0
    mixed = {name.split("/")[0]: state for name, state, _ in states(server)}
    assert mixed["capture"] == "Cached" and mixed["train"] == "Completed"


def test_a_failing_stage_is_three_lines_and_the_same_command_resumes(server, world):
    store = world / "saint-store"
    (sae,) = [r for r in listed(world)["artifacts"] if r["stage"] == "train"][:1]
    weights = next((store / "train" / sae["key"][:2] / sae["key"]).rglob("sae.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    failed = run(world, server, "evaluate.seed=5")
    assert failed.returncode == 1
    said = [line for line in failed.stderr.splitlines() if line.startswith(("stage:", "cause:", "resume:"))]
    assert [line.split(":")[0] for line in said] == ["stage", "cause", "resume"]
    assert said[0] == "stage: evaluate" and "sae.safetensors has digest" in said[1]
    weights.write_bytes(whole)
    assert run(world, server, "evaluate.seed=5").returncode == 0


def test_hydras_launcher_takes_all_jobs_at_once(server, world):
    """``hydra/launcher=prefect``: dry run, then one flow over the union."""
    more = ["-m", *overrides(world), "sae.k=4,6", "hydra/launcher=prefect"]
    env = {"PREFECT_API_URL": server, "PREFECT_HOME": str(world / "prefect")}
    dry = saint(world, "run", *more, "hydra.launcher.dry_run=true", **env)
    assert dry.returncode == 0 and "2 jobs: 38 stages" in dry.stdout and "1 to make" not in dry.stdout.splitlines()[0]
    assert saint(world, "plan", *more, **env).stdout == dry.stdout
    before = len(post(server, "/flow_runs/filter", {}))
    done = saint(world, "run", *more, "hydra.launcher.mode=local", **env)
    assert done.returncode == 0 and "sweep.html" in done.stdout, done.stderr[-2000:]
    assert len(post(server, "/flow_runs/filter", {})) == before + 1
    assert not (world / "multirun.yaml").exists()
    wrong = saint(world, "run", *more, "hydra.launcher.mode=moon", **env)
    assert wrong.returncode == 2 and "hydra.launcher.mode = 'moon', but a run is inline, local or pool" in wrong.stderr


def test_a_run_without_a_worker_is_retried_with_the_entrypoint_that_the_manual_names(server, world):
    reports = world / "saint-store/report"
    before = set(reports.glob("*/*"))
    assert run(world, server, "report.n_cards=7").returncode == 0
    (flow,) = post(server, "/flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})
    (gone,) = set(reports.glob("*/*")) - before
    shutil.rmtree(gone)
    post(server, f"/flow_runs/{flow['id']}/set_state", {"state": {"type": "FAILED"}, "force": True})
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "flow-run", "retry", flow["id"], "--entrypoint", "flows.interpret.interpret"],
        cwd=world, env=environment(PREFECT_API_URL=server, PREFECT_HOME=str(world / "prefect")),
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (gone / "manifest.json").exists()
    (again,) = post(server, "/flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})
    assert again["id"] == flow["id"] and again["run_count"] == 2 and again["state"]["type"] == "COMPLETED"


def test_ctrl_c_ends_a_stage_and_not_only_the_wait_for_it(server, world):
    returned, said, seconds = interrupted(world, signal.SIGINT, PREFECT_API_URL=server, PREFECT_HOME=str(world / "prefect"))
    assert returned == 130 and said.endswith("resume: the same command")
    assert seconds < 90  # 2 s here; training would go on for minutes
    (flow,) = post(server, "/flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})
    assert flow["state"]["name"] == "Crashed"


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_to_the_whole_group_as_a_terminal_sends_it_ends_a_run_with_a_server_of_its_own(world, number, code):
    home = world / f"own-{number.name}"
    returned, said, seconds = interrupted(world, number, group=True, PREFECT_API_URL="", PREFECT_HOME=str(home))
    assert (returned, said) == (code, "interrupted; what was committed stays\nresume: the same command")
    assert seconds < 90  # some seconds here; without its server it would try to reach it for many minutes
    own = [p for p in Path("/proc").glob("[0-9]*/environ") if str(home).encode() in _read(p)]
    assert own == [], "its server ends with it"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


FLAKY = """
import sys
import flows.interpret as interpreting
from flows.plan import plan
from flows.runs import RunRecord
from flows.session import Session
from flows.sweep import jobs
from tasks.realising import make_all

calls, errors = [], {"corpus": ConnectionError("the line was cut"), "lm": ValueError("this will not get better")}

def flaky(lane, *rest, **more):
    calls.append(lane[0].stage.name)
    if calls.count(calls[-1]) == 1 and calls[-1] in errors:
        raise errors[calls[-1]]
    return make_all(lane, *rest, **more)

interpreting.make_all, interpreting.RETRY_SECONDS = flaky, 0.1
one = jobs([sys.argv[1:]])
found = plan(one)
try:
    interpreting.run_here(Session(one, found, RunRecord.new(one, found, [])))
except interpreting.StageFailed as error:
    print(calls, error)
"""


def test_a_lost_connection_is_tried_again_and_a_mistake_is_not(server, world, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FLAKY, *overrides(world), f"backend.root={tmp_path / 'store'}"],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
        env=environment(PREFECT_API_URL=server, PREFECT_HOME=str(world / "prefect")),
    )  # fmt: skip
    assert done.stdout.strip() == "['corpus', 'corpus', 'lm'] lm: this will not get better", done.stderr[-2000:]


def test_a_server_that_does_not_answer_is_told_and_not_waited_for(world):
    done = run(world, "http://127.0.0.1:9/api", "train.seed=4")
    assert done.returncode == 1 and "cause: PREFECT_API_URL = 'http://127.0.0.1:9/api', but" in done.stderr
    assert "runtime.mode=inline" in done.stderr and "resume: the same command" in done.stderr


@pytest.mark.slow
def test_without_a_server_a_run_brings_its_own(tmp_path, world):
    done = saint(
        world, "run", *overrides(world), "train.seed=3", "explain.latents=0:4", PREFECT_HOME=str(tmp_path / "prefect")
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "mean balanced accuracy" in done.stdout or "report:" in done.stdout
    begun = time.monotonic()
    again = saint(world, "run", *overrides(world), "train.seed=3", "explain.latents=0:4")
    assert "nothing to make" in again.stdout and time.monotonic() - begun < 30
