"""``saint doctor``: every check is seen to pass, and to fail on the thing that it is there for."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from importlib import metadata
from pathlib import Path

import httpx
import pytest
import yaml

from artifacts.backends.local import Local
from artifacts.backends.memory import Memory
from artifacts.errors import StoreUnwritable
from artifacts.keys import Artifact, Key
from artifacts.lease import Lease
from artifacts.store import Store
from flows.checks import gpus, install, server, store
from flows.checks.base import from_error
from flows.doctor import asking, checks, doctor
from tasks import devices
from tasks.progress import Progress
from tasks.spec import Runtime, SpecError
from tests.servers import free_port
from tests.unit.test_import_rules import ROOT, loaded_after

# --- the installation


@pytest.mark.parametrize("version, status", [((3, 10), "wrong"), ((3, 11), "ok"), ((3, 13), "ok"), ((3, 14), "wrong")])
def test_python_is_one_that_hydra_runs_on(version, status):
    assert install.python(version).status == status


def test_packages_are_held_against_what_saint_asks_for():
    assert any(r.startswith("fastapi") and "<0.151" in r for r in install.requirements())
    (fine,) = install.packages(install.requirements())
    assert fine.status == "ok"

    def version(name: str) -> str:
        if name == "torch":
            raise metadata.PackageNotFoundError(name)
        return {"fastapi": "0.165.0"}.get(name) or metadata.version(name)

    bad = {check.found.split()[0]: check for check in install.packages(install.requirements(), version)}
    assert set(bad) == {"fastapi", "torch"} and all(check.status == "wrong" for check in bad.values())
    assert "0.165.0, but SAINT needs" in bad["fastapi"].found and "fastapi" in bad["fastapi"].todo
    assert [check.status for check in install.packages([])] == ["warning"]


def test_a_package_of_the_same_name_in_front_of_ours_is_told(tmp_path):
    assert install.origin(install.origins()).status == "ok"
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/__init__.py").touch()
    program = "from flows.doctor import checks; print(*[c for c in checks([], {}) if c.name == 'modules'])"
    env = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert "status='wrong'" in done.stdout and f"conf of {tmp_path}" in done.stdout, done.stderr


# --- GPUs


def smi(folder: Path, monkeypatch, script: str) -> list:
    """The checks on a machine whose nvidia-smi is a script."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return gpus.cards()


H200S = "echo '0, NVIDIA H200, 143771, 10240, 570.124.06'; echo '1, NVIDIA H200, [N/A], [N/A], 570.124.06'"


def test_cards_are_listed_and_a_torch_without_cuda_is_told(tmp_path, monkeypatch):
    cards = smi(tmp_path, monkeypatch, H200S)
    first, second = gpus.gpus(cards, "12.8", "auto")
    assert first.status == second.status == "ok" and "memory unknown" in second.found
    assert first.found == "cuda:0 NVIDIA H200, 10.0 of 140 GiB in use; torch for CUDA 12.8"
    bad, *_ = gpus.gpus(cards, None, "auto")
    assert bad.status == "wrong" and "without CUDA" in bad.found and "CUDA build of torch" in bad.todo


def test_a_driver_too_old_for_torch_and_cards_that_are_hidden_are_told(tmp_path, monkeypatch):
    cards = smi(tmp_path, monkeypatch, H200S)
    old, *_ = gpus.gpus(cards, "13.0", "auto")
    assert old.status == "wrong" and "driver 570, but torch was built for CUDA 13.0, which needs 580" in old.found
    hidden, *_ = gpus.gpus(cards, "12.8", "auto", visible="")
    assert hidden.status == "warning" and "hides every card" in hidden.found
    assert next(c.status for c in gpus.gpus(cards, "12.8", "cuda", visible="-1")) == "wrong"
    assert {c.status for c in gpus.gpus(cards, "12.8", "cuda", visible="1")} == {"ok"}


def test_a_device_that_a_job_holds_is_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "folder", lambda: tmp_path)
    assert list(gpus.guards()) == []
    with devices.guarded(Runtime(guard="GPU-1234"), Progress()):
        (check,) = gpus.guards()
        assert check.status == "ok" and f"GPU-1234 is held by process {os.getpid()}" in check.found
    assert list(gpus.guards()) == []


def test_a_broken_driver_is_told(tmp_path, monkeypatch):
    (check,) = gpus.gpus(smi(tmp_path, monkeypatch, "echo 'Driver/library version mismatch'; exit 18"), "12.8", "auto")
    assert check.status == "wrong" and "version mismatch" in check.found


def test_no_card_is_wrong_only_for_a_run_that_wants_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus.cards() is None
    assert [c.status for c in gpus.gpus(None, None, "auto")] == ["ok"]
    assert [c.status for c in gpus.gpus(None, None, "cuda:1")] == ["wrong"]
    assert [c.status for c in gpus.gpus([], "12.8", "cuda")] == ["wrong"]


def test_what_torch_was_built_for_is_known_without_importing_it():
    import torch

    assert gpus.built_for() == torch.version.cuda


# --- the server

GOOD = {
    "/admin/version": metadata.version("prefect"),
    "/admin/settings": {"server": {"database": {"connection_url": None, "driver": "postgresql+asyncpg"}}},
    **{f"/work_pools/{pool}": {"name": pool, "is_paused": False} for pool in server.POOLS},
    **{
        f"/work_pools/{pool}/workers/filter": [
            {"name": f"{pool}-here", "status": "ONLINE", "last_heartbeat_time": "2026-11-21T10:00:00Z"}
        ]
        for pool in server.POOLS
    },
    **{f"/deployments/name/{name}": {"tags": [f"saint-{metadata.version('saint-sae')}"]} for name in server.DEPLOYMENTS},
    "/automations/filter": [{"name": server.ZOMBIES, "enabled": True}],
    "/concurrency_limits/tag/llm": {"concurrency_limit": 2},
}


def told(bad: str = "warning", asks_llm: bool = True, late: float = 0.0, **other) -> dict[str, tuple[str, str, str]]:
    """Status, finding and remedy by name of check, of a server with some answers changed; None is a 404."""
    answers = {**GOOD, **other}

    def answer(request: httpx.Request) -> httpx.Response:
        found = answers.get(request.url.path.removeprefix("/api"))
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=late), usegmt=True)
        return httpx.Response(200 if found is not None else 404, json=found, headers={"date": date})

    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        found = server.Server(client, "http://here/api").checks(bad, asks_llm)
        return {check.name: (check.status, check.found, check.todo) for check in found}


def test_a_server_with_all_that_saint_deploys_is_well():
    found = told()
    assert {status for status, _, _ in found.values()} == {"ok"} and found["database"][1] == "PostgreSQL"
    assert "gpu-here (heard of" in found["workers gpu"][1]


@pytest.mark.parametrize(
    "name, other, said",
    [
        ("server", {"/admin/version": "3.99.0"}, "3.99.0"),
        ("pool gpu", {"/work_pools/gpu": None}, "there is no work pool gpu"),
        ("pool cpu", {"/work_pools/cpu": {"is_paused": True}}, "is paused"),
        ("workers gpu", {"/work_pools/gpu/workers/filter": []}, "no worker of pool gpu is online"),
        ("deployments", {"/deployments/name/lane/gpu": None}, "lane/gpu not there"),
        ("deployments", {"/deployments/name/interpret/pool": {"tags": ["saint-0.0.1"]}}, "interpret/pool of another version"),
        ("dead runs", {"/automations/filter": []}, "is not there"),
        ("dead runs", {"/automations/filter": [{"enabled": False}]}, "is off"),
        ("llm limit", {"/concurrency_limits/tag/llm": None}, "no limit on the tag llm"),
    ],
)
def test_what_a_server_lacks_is_told_with_its_remedy(name, other, said):
    status, found, todo = told(**other)[name]
    assert status == "warning" and said in found and todo


def test_names_are_those_that_deploy_makes():
    from flows import deploy

    found = yaml.safe_load((ROOT / "deployments/prefect.yaml").read_text())["deployments"]
    names = [f"{one['entrypoint'].rpartition('.')[2]}/{one['name']}" for one in found]
    assert sorted(server.DEPLOYMENTS) == sorted(names)
    assert set(server.POOLS) == set(deploy.POOLS) and server.ZOMBIES == deploy.ZOMBIES
    untagged = {f"/deployments/name/{name}": {"tags": ["saint"]} for name in names}
    assert told(**untagged)["deployments"][:2] == ("ok", ", ".join(server.DEPLOYMENTS))


def test_a_run_in_pools_needs_them_and_somebody_who_works():
    nobody = {f"/work_pools/{pool}/workers/filter": [] for pool in server.POOLS}
    assert told("wrong", **nobody)["workers cpu"][0] == "wrong"
    one = told("wrong", **{"/work_pools/gpu/workers/filter": []})
    assert one["workers gpu"][0] == "warning" and one["workers cpu"][0] == "ok"
    assert told("wrong", **{"/work_pools/gpu": None})["pool gpu"][0] == "wrong"


def test_an_old_server_refuses_what_a_newer_client_says():
    assert told(**{"/admin/version": "3.1.0"})["server"][0] == "wrong"


@pytest.mark.parametrize("late, status", [(0, "ok"), (90, "warning"), (-90, "warning")])
def test_a_server_in_another_time_is_told(late, status):
    found = told(late=late)["clocks"]
    assert found[0] == status and (not late or ("ahead" if late > 0 else "behind") in found[1])


def test_sqlite_is_enough_until_many_workers_write_to_it():
    sqlite = {"/admin/settings": {"server": {"database": {"driver": "sqlite+aiosqlite"}}}}
    assert told(**sqlite)["database"][:2] == ("ok", "SQLite")
    workers = [{"name": f"gpu-{i}", "status": "ONLINE", "last_heartbeat_time": None} for i in range(8)]
    status, found, todo = told(**sqlite, **{"/work_pools/gpu/workers/filter": workers})["database"]
    assert status == "warning" and "9 workers" in found and "PostgreSQL" in todo


def test_a_database_that_the_server_keeps_secret_is_known_by_its_file(tmp_path):
    settings = {"home": str(tmp_path), "server": {"database": {"driver": None, "connection_url": "**********"}}}
    assert server.database_kind(settings, "http://127.0.0.1:4200/api") is None
    (tmp_path / "prefect.db-wal").touch()
    assert server.database_kind(settings, "http://127.0.0.1:4200/api") == "SQLite"
    assert server.database_kind(settings, "http://elsewhere:4200/api") is None


def test_a_server_that_does_not_answer_keeps_nobody_waiting(monkeypatch):
    assert server.CONNECT_SECONDS + server.ANSWER_SECONDS < 15
    monkeypatch.setattr(server, "ANSWER_SECONDS", 0.5)
    refusing = {"PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api"}
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        begun = time.monotonic()
        for env in (refusing, {"PREFECT_API_URL": f"http://127.0.0.1:{silent.getsockname()[1]}/api"}):
            (check,) = server.server(env)
            assert check.status == "wrong" and "PREFECT_API_URL = 'http" in check.found and "start the server" in check.todo
        assert time.monotonic() - begun < 8


def test_without_an_address_a_run_brings_its_own_server_unless_it_is_meant_for_pools():
    assert [c.status for c in server.server({})] == ["ok"]
    assert [c.status for c in server.server({}, pooled=True)] == ["wrong"]


def test_a_server_that_asks_for_a_password_is_told_from_one_that_is_strange_or_busy(monkeypatch):
    monkeypatch.setattr(server.time, "sleep", lambda seconds: None)
    for code, todo in ((401, "PREFECT_API_AUTH_STRING"), (503, "ask again"), (500, "name Prefect's API")):
        transport = httpx.MockTransport(lambda request, code=code: httpx.Response(code))
        with httpx.Client(transport=transport) as client, pytest.raises(server._Strange, match=str(code)) as error:
            list(server.Server(client, "http://here/api").checks("warning", False))
        assert todo in error.value.todo


def test_a_server_that_is_busy_for_a_moment_is_asked_again():
    answers = iter([503, 503, 200])
    transport = httpx.MockTransport(lambda request: httpx.Response(next(answers), json="3.8.8"))
    with httpx.Client(transport=transport) as client:
        assert server.Server(client, "http://here/api").ask("/admin/version") == "3.8.8"


def test_a_password_is_sent_as_prefect_sends_it():
    assert server.headers({"PREFECT_API_AUTH_STRING": "admin:pass"}) == {"Authorization": "Basic YWRtaW46cGFzcw=="}
    assert server.headers({}) == {}


# --- the store


def named(found) -> dict:
    return {check.name: check for check in found}


def test_a_good_place_is_well_and_nothing_stays_in_it(tmp_path):
    for root in (tmp_path, tmp_path / "not/yet"):
        found = named(store.local(root))
        assert {check.status for name, check in found.items() if name != "file system"} == {"ok"}
        assert {"store", "create-if-absent", "compare-and-swap", "flock", "fsync", "file system"} == set(found)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_told():  # /proc refuses root too, which tests may be
    (check,) = store.local(Path("/proc/saint-store"))
    assert check.status == "wrong" and "cannot be written" in check.found and "backend.root=" in check.todo


def test_a_lock_that_keeps_nobody_out_is_found(tmp_path, monkeypatch):
    assert store.flock(tmp_path).status == "ok"
    monkeypatch.setattr(fcntl, "flock", lambda file, how: None)
    assert store.flock(tmp_path).status == "wrong" and "took a lock that we hold" in store.flock(tmp_path).found

    def refused(file, how):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refused)
    assert store.flock(tmp_path).status == "wrong" and "function not implemented" in store.flock(tmp_path).found


class Linkless(Local):
    """A file system without hard links."""

    def create(self, path, data):
        raise PermissionError(1, "Operation not permitted")


class Overwriting(Memory):
    """Create that does not look, as an object store that ignores conditions."""

    def create(self, path, data):
        self._objects[path] = data
        return True


class Trusting(Memory):
    """Swap that looks and then writes, without a lock in between."""

    def swap(self, path, expected, data):
        if self.read(path) != expected:
            return False
        time.sleep(0.05)
        self._objects[path] = data
        return True


def test_broken_promises_of_a_place_are_found(tmp_path):
    assert {c.status for c in store.promises(Memory())} == {"ok"}
    assert named(store.promises(Overwriting()))["create-if-absent"].status == "wrong"
    (linkless,) = store.promises(Linkless(tmp_path))
    assert linkless.status == "wrong" and "operation not permitted" in linkless.found
    found = named(store.promises(Trusting()))["compare-and-swap"]
    assert found.status == "wrong" and "of 9 writers" in found.found


def test_a_bucket_is_written_to_and_its_promises_tried():
    memory = Memory()
    assert {c.status for c in store.bucket(memory, "s3://here/saint")} == {"ok"} and list(memory.paths()) == []
    unwritable = from_error("store", StoreUnwritable("backend = 's3://x', but nobody is there; start it"))
    assert (unwritable.status, unwritable.todo) == ("wrong", "start it")


def test_a_slow_disk_is_told(tmp_path, monkeypatch):
    assert store.fsync(tmp_path).status == "ok"
    monkeypatch.setattr(store.os, "fsync", lambda file: time.sleep(0.12))
    assert store.fsync(tmp_path).status == "warning"


MOUNTS = r"""/dev/sda / ext4 rw 0 0
tmpfs /dev/shm tmpfs rw 0 0
srv:/a /mnt/a nfs rw,vers=3,nolock,local_lock=all 0 0
srv:/b /mnt/b nfs4 rw,vers=4.2,local_lock=none 0 0
srv:/c /mnt/with\040space nfs rw,vers=3,local_lock=none 0 0
mds:/l /mnt/l lustre rw,lazystatfs 0 0
mds:/m /mnt/l/m lustre rw,flock 0 0
"""


@pytest.mark.parametrize(
    "place, status, said",
    [
        ("/home/me/store", "ok", "ext4 at /"),
        ("/dev/shm/store", "warning", "next boot"),
        ("/mnt/a/store", "warning", "one machine only"),
        ("/mnt/b", "ok", "nfs4 at /mnt/b"),
        ("/mnt/with space/x", "ok", "nfs at /mnt/with space"),
        ("/mnt/l/x", "warning", "without -o flock"),
        ("/mnt/l/m/x", "ok", "lustre at /mnt/l/m"),
        ("/mnt/bc", "ok", "ext4 at /"),
    ],
)
def test_a_file_system_whose_locks_do_not_reach_far_is_told(place, status, said):
    check = store.file_system(Path(place), MOUNTS)
    assert check.status == status and said in check.found


def test_too_little_room_is_told_before_a_run_fills_the_disk(tmp_path):
    assert [store.room(tmp_path, need, 10**9).status for need in (10**6, 95 * 10**7, 2 * 10**9, None)] == [
        "ok", "warning", "wrong", "ok",
    ]  # fmt: skip
    assert store.room(tmp_path / "not/yet", 1).status == "ok"


def test_what_the_dead_left_is_counted(tmp_path):
    kept = Store(Local(tmp_path))
    assert [c.status for c in store.leftovers(kept)] == ["ok", "ok"]
    lease = Lease.acquire(kept.backend, Artifact("train", Key("a" * 64)))
    assert "1 held, none by a dead process" in named(store.leftovers(kept))["leases"].found
    lease.release()
    dead = subprocess.run([sys.executable, "-c", HELD, str(tmp_path)], env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert dead.returncode == 9
    found = named(store.leftovers(kept))
    assert found["leases"].status == "warning" and found["leases"].found.startswith("1 of processes that died")
    assert found["leftovers"].found == "1 unfinished attempts, 3 B" and "gc --yes" in found["leftovers"].todo


HELD = """
import os, sys
from artifacts.store import Store
from artifacts.keys import Artifact, Key
from artifacts.lease import Lease
store = Store.at(sys.argv[1])
artifact = Artifact("train", Key("b" * 64))
Lease.acquire(store.backend, artifact)
folder = store.backend.work(f"{store.home(artifact)}/attempts/one/data")
(folder / "half").write_bytes(b"abc")
os._exit(9)
"""


# --- the whole


def test_an_error_in_our_grammar_becomes_a_fact_and_a_remedy():
    check = from_error("x", SpecError("sae.k = 0, but it must be positive; use 16"))
    assert (check.found, check.todo) == ("sae.k = 0, but it must be positive", "use 16")
    assert from_error("x", SpecError("no remedy")).found == "no remedy"


def test_a_key_is_missed_only_by_a_run_that_asks_and_never_printed(monkeypatch, capsys, tmp_path):
    root = f"backend.root={tmp_path / 'store'}"
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_IDENTITY_TOKEN", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [c.status for c in asking({"kind": "none"}, None)] == ["ok"]
    assert doctor([root, "client=anthropic_batch"]) == 1
    assert "ANTHROPIC_API_KEY is not set" in capsys.readouterr().out
    monkeypatch.setenv("ANTHROPIC_API_KEY", "very-secret")
    assert doctor([root, "client=anthropic_batch", "--json"]) == 0
    printed = capsys.readouterr().out
    found = {c["name"]: c for c in json.loads(printed)["checks"]}
    assert found["llm"]["status"] == "ok" and "very-secret" not in printed


def test_a_configuration_that_does_not_compose_is_one_fault_among_the_rest(tmp_path):
    found = named(checks([f"backend.root={tmp_path}", "sae.knn=3"], {}))
    assert found["configuration"].status == "wrong" and "sae.knn" in found["configuration"].found
    found = named(checks([f"backend.root={tmp_path}", "capture.hookpoints=[]"], {}))
    assert found["configuration"].status == "wrong" and found["flock"].status == "ok" and "disk" not in found


def test_a_run_without_prefect_needs_no_server(tmp_path):
    env = {"PREFECT_API_URL": "http://127.0.0.1:9/api"}
    where = f"backend.root={tmp_path}"
    assert named(checks([where, "runtime.mode=inline"], env))["server"].status == "ok"
    assert named(checks([where], env))["server"].status == "wrong"


def test_the_command_prints_marks_facts_and_remedies_and_makes_no_store(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert doctor([f"backend.root={tmp_path / 'store'}"]) == 0
    printed = capsys.readouterr().out
    assert "✓ flock" in printed and printed.splitlines()[-1].endswith("checks, 0 wrong, 0 warnings")
    assert not (tmp_path / "store").exists()
    assert doctor(["backend.root=/proc/nothing"]) == 1
    assert "✗ store" in capsys.readouterr().out
    with pytest.raises(SpecError, match="overrides only"):
        doctor(["everything"])


def test_doctor_imports_nothing_heavy(tmp_path):
    program = "from flows.doctor import doctor; assert doctor(['--json']) in (0, 1)"
    assert loaded_after(program, tmp_path) == set()
