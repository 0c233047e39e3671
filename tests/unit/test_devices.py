"""Device guards: one job to a device, given back by the kernel when its holder dies."""

from __future__ import annotations

import os
import select
import subprocess
import sys

import pytest

from artifacts.store import Store
from tasks import devices
from tasks.devices import before_freed, guard_name, guarded
from tasks.progress import Progress
from tasks.realising import make_all
from tasks.spec import Runtime, Spec
from tasks.stage import stage
from tests.servers import ROOT
from tests.unit.test_realise import Told

HOLD = """
import sys, time
from tasks.devices import guarded
from tasks.progress import Progress
from tasks.spec import Runtime
with guarded(Runtime(guard="card", gpu_share=len(sys.argv) > 1), Progress()):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.fixture
def holder(tmp_path):
    """Starts processes that hold the guard ``card``; ends them."""
    started = []

    def start(*arguments: str) -> subprocess.Popen:
        env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
        process = subprocess.Popen([sys.executable, "-c", HOLD, *arguments], env=env, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def silent(process: subprocess.Popen, seconds: float = 1.5) -> bool:
    """Whether a process says nothing for a while."""
    return not select.select([process.stdout], [], [], seconds)[0]


def test_a_second_job_waits_until_the_first_is_dead(holder):
    first = holder()
    assert first.stdout.readline() == "held\n"
    second = holder()
    assert silent(second)
    first.kill()
    assert second.stdout.readline() == "held\n"


def test_jobs_that_share_hold_it_together_but_not_beside_one_that_does_not(holder):
    one, other = holder("share"), holder("share")
    assert one.stdout.readline() == other.stdout.readline() == "held\n"
    alone = holder()
    assert silent(alone)


def test_who_waits_is_told_for_whom(holder, monkeypatch):
    first = holder()
    first.stdout.readline()
    told, polls = Told(), []
    monkeypatch.setattr(devices.time, "sleep", lambda s: polls.append(s) or ((len(polls) > 2 and first.kill()) or first.poll()))
    with guarded(Runtime(guard="card"), told):
        pass
    assert len(told.notes) == 1 and told.notes[0].startswith(f"card is used by process {first.pid} since")
    assert [what for what, _ in told.events] == ["waiting", "device taken", "device freed"]


def test_a_process_goes_in_again_where_it_is_already(tmp_path):
    told = Told()
    with guarded(Runtime(guard="card"), told), guarded(Runtime(guard="card"), told):
        pass
    assert [what for what, _ in told.events] == ["device taken", "device freed"]


@pytest.mark.parametrize(
    "runtime, visible, name",
    [
        ({"device": "cpu"}, None, None),
        ({"device": "mps"}, None, None),
        ({}, None, "GPU-a"),
        ({"device": "cuda:1"}, None, "GPU-b"),
        ({}, "1", "GPU-b"),
        ({"device": "cuda:1"}, "1,0", "GPU-a"),
        ({}, "GPU-xyz", "GPU-xyz"),
        ({"device": "cuda:5"}, None, None),
        ({"device": "cpu", "guard": "mine"}, None, "mine"),
    ],
)
def test_a_card_has_one_name_however_it_is_called(monkeypatch, runtime, visible, name):
    monkeypatch.setattr(devices, "cards", lambda: ["GPU-a", "GPU-b"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert guard_name(Runtime(**runtime)) == name


def test_cards_are_read_from_the_driver_without_cuda(tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho GPU-1\necho GPU-2\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    devices.cards.cache_clear()
    assert devices.cards() == ["GPU-1", "GPU-2"]
    devices.cards.cache_clear()
    monkeypatch.setenv("PATH", "/nowhere")
    assert devices.cards() == []
    devices.cards.cache_clear()


def test_only_stages_for_a_gpu_take_the_guard_and_their_manifest_names_it(tmp_path):
    @stage("computing", version=1, tags=("gpu",))
    def computing(job):
        return {}

    @stage("reading", version=1)
    def reading(job):
        return {}

    store, told, runtime = Store.at(tmp_path / "s"), Told(), Runtime(guard="card")
    for recipe in (reading(Spec()), computing(Spec())):
        make_all([recipe], store, runtime, told)
        if recipe.stage is reading:
            assert "device taken" not in [what for what, _ in told.events]
    assert store.find(computing(Spec()).artifact).made_by["device"] == "card"
    assert "device" not in store.find(reading(Spec()).artifact).made_by
    assert [what for what, _ in told.events if "device" in what] == ["device taken", "device freed"]


def test_what_is_to_be_forgotten_is_before_the_device_is_given_back_and_not_sooner():
    told, runtime = Told(), Runtime(guard="card")

    def forget():
        told.event("forgotten", held="card" in devices._held)

    with guarded(runtime, told):
        with guarded(runtime, told):
            before_freed(runtime, forget)
            before_freed(runtime, forget)
        assert [what for what, _ in told.events] == ["device taken"]
    assert [what for what, _ in told.events] == ["device taken", "forgotten", "device freed"]
    before_freed(Runtime(device="cpu"), forget)  # no guard, nothing to wait for


def test_silence_is_the_default():
    with guarded(Runtime(device="cpu"), Progress()):
        assert devices._held == {}
