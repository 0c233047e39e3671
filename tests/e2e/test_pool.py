"""Runs on work pools: a real server, real workers, lanes that share the work."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from artifacts.store import Store
from flows.runs import events, recorded
from tests.servers import ROOT, post
from tests.workplace import Workplace, alive, children, digests, flow_states, kill, made, tidy, until, workplace

LAYERS = "capture.hookpoints=[layers.0],[layers.1]"
FACTORS = "sae.expansion_factor=2,4"
FEW = ("explain.latents=0:6", "report.n_cards=2", "train.n_tokens=10000")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with workplace(tmp_path_factory.mktemp("lab")) as found:
        found.open()
        yield found


def ran(place: Workplace, arguments: list[str]) -> subprocess.CompletedProcess:
    done = place.saint(*arguments)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done


def stages(store: Store, what: str = "made") -> dict[str, int]:
    found: dict[str, int] = {}
    for event in (e for run in recorded(store)[-1:] for e in events(store, run["id"]) if e["what"] == what):
        stage = event["artifact"].split("/")[0]
        found[stage] = found.get(stage, 0) + 1
    return found


def makers(store: Store) -> dict[str, set[int]]:
    """Processes that made something in the last run, by stage."""
    found: dict[str, set[int]] = {}
    for event in events(store, recorded(store)[-1]["id"]):
        if event["what"] == "made":
            found.setdefault(event["artifact"].split("/")[0], set()).add(event["pid"])
    return found


def test_a_sweep_on_the_pool_is_one_pass_by_two_lanes_and_later_only_what_is_new(place, tmp_path):
    store = Store.at(tmp_path / "store")
    first = ran(place, place.sweep(tmp_path / "store", LAYERS, FACTORS, *FEW))
    assert "4 jobs: 76 stages, 59 distinct, 0 found, 1 model pass" in first.stdout
    assert "CE loss recovered" in first.stdout and "sweep.html" in first.stdout
    assert stages(store)["capture"] == 10 and stages(store)["train"] == 4
    lanes, watchers = place.jobs(tmp_path / "store")
    by = makers(store)
    asked_for = [f for f in flow_states(place) if f["name"].startswith(f"{recorded(store)[-1]['id']} lane ")]
    assert len(asked_for) >= 2 and lanes and watchers  # whether the second begins while anything is left hangs on the machine
    assert by["report"] == by["explain"] == set(watchers)  # what needs no GPU is not given to one
    assert recorded(store)[-1]["status"] == "done"

    more = ran(place, place.sweep(tmp_path / "store", "capture.hookpoints=[layers.0],[layers.2]", "sae.expansion_factor=2,8", *FEW))
    assert "1 model pass" in more.stdout and stages(store)["capture"] == 5 and stages(store)["train"] == 3

    again = ran(place, place.sweep(tmp_path / "store", LAYERS, FACTORS, *FEW))
    assert "nothing to make" in again.stdout
    tidy(store)


@pytest.mark.special
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_twelve_jobs_on_a_real_server_then_one_layer_and_one_factor_more(request, tmp_path, database):
    """Three layers by four factors on two workers; then only what is new; then nothing."""
    url = request.getfixturevalue("postgres_url") if database == "postgres" else None
    layers, factors = "capture.hookpoints=[layers.0],[layers.1],[layers.2]", "sae.expansion_factor=2,4,8,16"
    with workplace(tmp_path / "lab", url) as lab:
        lab.open()
        store = Store.at(tmp_path / "store")
        first = ran(lab, lab.sweep(tmp_path / "store", layers, factors))
        assert "12 jobs: 228 stages, 153 distinct, 0 found, 1 model pass" in first.stdout
        assert first.stdout.count("layers.") >= 12 and "sweep.html" in first.stdout
        assert stages(store)["capture"] == 15 and stages(store)["train"] == 12 and sum(stages(store).values()) == 153
        by = makers(store)
        assert len(by["capture"] | by["train"] | by["encode"] | by["evaluate"] | by["mine"]) == 2  # both lanes had a share
        (flow,) = [f for f in flow_states(lab) if "lane" not in f["name"]]
        shown = post(lab.server.url, "/artifacts/filter", {"artifacts": {"key": {"any_": ["sweep"]}}})
        assert flow["id"] in {a["flow_run_id"] for a in shown} and "expansion_factor" in shown[0]["data"]

        kinds = {a["type"] for a in post(lab.server.url, "/artifacts/filter", {"limit": 200})}
        assert kinds == {"markdown", "progress"}  # lanes tell how far they are

        layers, factors = layers + ",[layers.1.mlp]", factors + ",3"
        more = ran(lab, lab.sweep(tmp_path / "store", layers, factors))
        assert "20 jobs" in more.stdout and "1 model pass" in more.stdout
        assert stages(store)["capture"] == 5 and stages(store)["train"] == 8  # one layer's shards, and what is new of 4 x 5

        again = ran(lab, lab.sweep(tmp_path / "store", layers, factors))
        assert "nothing to make" in again.stdout
        tidy(store)


@pytest.mark.slow
def test_a_run_can_be_left_and_joined_and_the_same_command_joins_it_too(place, tmp_path):
    arguments = place.sweep(tmp_path / "store", LAYERS, "sae.expansion_factor=4")
    going = place.start(*arguments)
    line = until(lambda: next((text for text in going.said()[0].splitlines() if "is submitted" in text), None))
    run = line.split()[1]
    going.send_signal(signal.SIGINT)
    _, said = going.communicate(timeout=200)
    assert going.returncode == 130 and f"join it again: saint follow {run}" in said
    joined = place.start(*arguments)
    followed = place.saint("follow", run, f"backend.root={tmp_path / 'store'}")
    out, _ = joined.communicate(timeout=200)
    assert joined.returncode == 0 and f"run {run} is making this already; following it" in out
    assert followed.returncode == 0 and f"run {run} is done" in followed.stdout
    assert [r["id"] for r in recorded(Store.at(tmp_path / "store"))] == [run]
    logged = place.saint("logs", run, f"backend.root={tmp_path / 'store'}")
    assert "train/" in logged.stdout and "tokens/s" in logged.stdout and "a lane began on" in logged.stdout


@pytest.mark.slow
def test_a_lane_that_is_killed_is_replaced_and_the_run_succeeds(place, tmp_path):
    more = ("sae.expansion_factor=4", "train.n_tokens=400000")
    ran(place, place.sweep(tmp_path / "quiet", LAYERS, *more, mode="inline"))
    going = place.start(*place.sweep(tmp_path / "store", LAYERS, *more))
    lane = until(lambda: place.jobs(tmp_path / "store")[0] if (tmp_path / "store").exists() else None)[0]
    time.sleep(1)
    assert kill([lane]) == 1
    out, said = going.communicate(timeout=200)
    assert going.returncode == 0, out[-2000:] + said[-2000:]
    store = Store.at(tmp_path / "store")
    tidy(store)
    assert digests(store) == digests(Store.at(tmp_path / "quiet"))


@pytest.mark.slow
def test_a_lane_that_fails_is_told_once_and_what_does_not_rest_on_it_is_made(place, tmp_path):
    ran(place, place.sweep(tmp_path / "store", "capture.hookpoints=[layers.0]", mode="inline"))
    store = Store.at(tmp_path / "store")
    (lm,) = [a for a in store.artifacts() if a.stage == "lm"]
    weights = store.open(lm).path / "model.safetensors"
    weights = weights if weights.exists() else next(store.open(lm).path.rglob("*.json"))
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    done = place.saint(*place.sweep(tmp_path / "store", LAYERS, "sae.k=4,5"))
    assert done.returncode == 1 and "has digest" in done.stderr and "resume: the same command" in done.stderr
    assert "capture" in done.stderr and recorded(store)[-1]["status"] == "failed"
    assert stages(store).get("train") == 1  # the other layer's, whose activations are there
    assert len([e for e in events(store, recorded(store)[-1]["id"]) if e["what"] == "failed" and e["stage"] == "capture"]) <= 2


@pytest.mark.slow
def test_a_run_that_died_with_its_worker_is_found_dead_by_the_server(place, tmp_path):
    """Killed before its first heartbeat has come: nobody is left who could tell."""
    shorter = "from flows.deploy import zombies; zombies(75)"
    subprocess.run([sys.executable, "-c", shorter], env=place.env, cwd=ROOT, check=True)
    going = place.start(*place.sweep(tmp_path / "store", LAYERS, "train.n_tokens=3000000"))
    watcher = until(
        lambda: (tmp_path / "store").exists() and place.jobs(tmp_path / "store")[0] and place.jobs(tmp_path / "store")[1]
    )[0]
    kill([watcher, *place.crew()])
    going.kill()
    going.communicate()
    (run,) = recorded(Store.at(tmp_path / "store"))

    def states():
        return {f["name"]: f["state"]["type"] for f in flow_states(place) if f["name"].startswith(run["id"])}

    assert states()[run["id"]] == "RUNNING"
    until(lambda: set(states().values()) <= {"CRASHED", "CANCELLED"}, why="the server still believes in it")
    assert place.saint("deploy").returncode == 0
    place.close()
    place.open()


@pytest.mark.slow
def test_a_run_that_is_cancelled_takes_its_lanes_with_it(place, tmp_path):
    going = place.start(*place.sweep(tmp_path / "store", LAYERS, "train.n_tokens=30000000"))
    lanes = until(lambda: (tmp_path / "store").exists() and place.jobs(tmp_path / "store")[0])
    (run,) = recorded(Store.at(tmp_path / "store"))
    subprocess.run([sys.executable, "-m", "prefect", "flow-run", "cancel", run["flow_run"]], env=place.env, check=True)
    _, said = going.communicate(timeout=200)
    assert going.returncode == 1 and "ended as cancelled" in said, said[-2000:]
    until(lambda: not any(alive(pid) for pid in [*lanes, *place.jobs(tmp_path / "store")[0]]), why="a lane goes on")
    assert recorded(Store.at(tmp_path / "store"))[0]["status"] == "interrupted"
    assert list(Store.at(tmp_path / "store").backend.paths("leases")) == []


@pytest.mark.slow
def test_a_retry_from_prefect_goes_on_from_what_the_store_has(place, tmp_path):
    """Also what the UI's retry button does: the same flow run, scheduled again."""
    going = place.start(*place.sweep(tmp_path / "store", LAYERS, "sae.expansion_factor=4", "train.n_tokens=400000"))
    watcher = until(
        lambda: (tmp_path / "store").exists() and any("train/" in a for a in made(Store.at(tmp_path / "store")))
        and place.jobs(tmp_path / "store")[1]
    )[0]  # fmt: skip
    lanes = place.jobs(tmp_path / "store")[0]
    kill([watcher])
    out, said = going.communicate(timeout=200)
    assert going.returncode == 1 and "resume: the same command" in said, out[-1000:] + said[-1000:]
    kill(lanes)
    before = made(Store.at(tmp_path / "store"))
    (run,) = recorded(Store.at(tmp_path / "store"))
    flow = next(f for f in flow_states(place) if f["name"] == run["id"])
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "flow-run", "retry", flow["id"]], env=place.env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    until(lambda: recorded(Store.at(tmp_path / "store"))[0]["status"] == "done")
    store = Store.at(tmp_path / "store")
    assert before.items() <= made(store).items()
    tidy(store)


def test_a_worker_with_other_code_is_refused_before_it_makes_anything(place, tmp_path):
    """Its keys would be others: both versions are named, and nothing is written under them."""
    other = tmp_path / "other"
    for name in ("flows", "tasks", "artifacts", "conf", "deployments"):
        shutil.copytree(ROOT / name, other / name, ignore=shutil.ignore_patterns("__pycache__"))
    stage = other / "tasks/train.py"
    stage.write_text(stage.read_text().replace('@stage("train", version=1', '@stage("train", version=2'))
    place.close()
    place.open(code=other)
    try:
        done = place.saint(*place.sweep(tmp_path / "store", LAYERS))
    finally:
        place.close()
        place.open()
    assert done.returncode == 1 and "the keys of stage train differ" in done.stderr, done.stdout + done.stderr
    assert done.stderr.count("saint 0.1.0") == 2
    assert list(Store.at(tmp_path / "store").artifacts()) == []


def test_a_worker_without_the_package_is_named(place, tmp_path):
    (tmp_path / "bare/flows").mkdir(parents=True)
    (tmp_path / "bare/flows/__init__.py").touch()
    place.close()
    path = f"{Path(sys.executable).parent}:{place.env['PATH']}"  # a worker that is not ours starts what is called python
    worker = subprocess.Popen(
        [sys.executable, "-m", "prefect", "worker", "start", "--pool", "cpu", "--type", "process"],
        env={**place.env, "PATH": path, "PYTHONPATH": str(tmp_path / "bare"), "PREFECT_WORKER_QUERY_SECONDS": "2"},
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        done = place.saint(*place.sweep(tmp_path / "store", LAYERS))
    finally:
        worker.kill()
        worker.wait()
        place.open()
    assert done.returncode == 1 and "its worker has no saint, or another one; install the same version there" in done.stderr
    assert list(Store.at(tmp_path / "store").artifacts()) == []


@pytest.mark.slow
def test_a_schedule_runs_by_itself_with_the_values_it_was_given(place, tmp_path):
    done = place.saint(
        "deploy", "--cron", "* * * * *", "--name", "nightly", "-m", *place.overrides, f"backend.root={tmp_path / 'store'}",
        "sae.k=3,4", "runtime.lane_idle_seconds=5",
    )  # fmt: skip
    assert done.returncode == 0 and "deployment interpret/nightly: 2 jobs, '* * * * *' in UTC" in done.stdout, done.stderr
    store = Store.at(tmp_path / "store")
    until(lambda: (tmp_path / "store").exists() and any(r["status"] == "done" for r in recorded(store)))
    followed = place.saint("follow", recorded(store)[0]["id"], f"backend.root={tmp_path / 'store'}")
    assert followed.returncode == 0 and "is done" in followed.stdout
    subprocess.run([sys.executable, "-m", "prefect", "deployment", "delete", "interpret/nightly"], env=place.env, check=True)
    assert stages(store).get("train", 0) in (0, 2) and made(store)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["deploy", "--cron", "at noon"], "--cron 'at noon', but it is no cron expression; try"),
        (["deploy", "--cron", "0 2 * * *", "--timezone", "Europe/Berln"], "--timezone 'Europe/Berln', but there is no such"),
        (["deploy", "--cron", "0 2 * * *", "--name", "a/b"], "--name 'a/b', but a deployment's name has letters"),
        (["worker", "--pool", "nonesuch"], "--pool 'nonesuch', but the server at http://127.0.0.1"),
        (["worker", "--n", "-1"], "--n -1, but it counts workers or jobs; use 0 or more"),
        (["deploy", "sae.k=3"], "sae.k=3, but only a schedule takes overrides; add --cron"),
        (["follow", "nonesuch"], "nonesuch, but this store has no such run"),
    ],
)
def test_mistakes_are_told_before_anything_is_changed(place, tmp_path, arguments, said):
    (tmp_path / "store").mkdir()
    more = [f"backend.root={tmp_path / 'store'}"] if arguments[0] == "follow" else []
    done = place.saint(*arguments, *more)
    assert done.returncode == 2 and said in done.stderr, done.stderr


def test_a_pool_or_deployment_that_is_not_there_is_told_before_work_starts(place, tmp_path):
    arguments = place.sweep(tmp_path / "store", LAYERS)
    assert subprocess.run(
        [sys.executable, "-m", "prefect", "deployment", "delete", "lane/gpu"], env=place.env, capture_output=True
    ).returncode == 0  # fmt: skip
    done = place.saint(*arguments)
    assert done.returncode == 2 and "has no deployment lane/gpu; make it with: saint deploy" in done.stderr
    assert place.saint("deploy").returncode == 0
    done = place.saint(*arguments, PREFECT_API_URL="http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES="0")
    assert done.returncode == 1 and "PREFECT_API_URL = 'http://127.0.0.1:9/api', but" in done.stderr
    assert list(Store.at(tmp_path / "store").artifacts()) == []


@pytest.mark.slow
@pytest.mark.parametrize("deaf", [False, True], ids=["as a service", "from a shell that ignores SIGINT"])
def test_workers_that_are_told_to_stop_let_their_jobs_end(place, tmp_path, deaf):
    place.close()
    place.employ("cpu")
    if deaf:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    place.employ("gpu", "--n", "2")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    going = place.start(*place.sweep(tmp_path / "store", LAYERS, "train.n_tokens=1500000"))
    until(lambda: (tmp_path / "store").exists() and place.jobs(tmp_path / "store")[0])
    time.sleep(5)
    worker = place.workers["gpu"]
    worker.terminate()
    lanes = place.jobs(tmp_path / "store")[0]
    assert any(alive(pid) for pid in lanes) and worker.poll() is None
    assert worker.wait(280) == 0 and not any(alive(pid) for pid in lanes)
    store = Store.at(tmp_path / "store")
    assert not any(e["what"] == "failed" for e in events(store, recorded(store)[-1]["id"]))
    place.employ("gpu", "--n", "2")
    _, said = going.communicate(timeout=280)
    assert going.returncode == 0, said[-2000:]
    assert set(made(store).values()) == {1}
    place.close()
    place.open()


def test_a_stopped_worker_is_started_again(place):
    before = [pid for pid in children(place.workers["gpu"].pid)]
    kill(before)
    until(lambda: len(set(children(place.workers["gpu"].pid)) - set(before)) >= 2)
