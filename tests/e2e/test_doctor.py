"""``saint doctor`` against a real Prefect server: each fact is absent first, then made, then seen."""

from __future__ import annotations

import os
from importlib import metadata

import pytest

from flows.checks import server as checking
from flows.doctor import doctor
from tests.servers import post


def delete(url: str, path: str) -> None:
    post(url, path, None, "DELETE")


def patch(url: str, path: str, body: dict) -> None:
    post(url, path, body, "PATCH")


@pytest.fixture
def ours(monkeypatch) -> str:
    """Names of our own for all that doctor looks for: the server belongs to other tests too."""
    monkeypatch.setattr(checking, "POOLS", ("doctor-gpu", "doctor-cpu"))
    monkeypatch.setattr(checking, "DEPLOYMENTS", ("doctor/pool",))
    monkeypatch.setattr(checking, "ZOMBIES", "doctor: runs that died")
    monkeypatch.setattr(checking, "LLM_TAG", "doctor-llm")
    return f"saint-{metadata.version('saint-sae')}"


def told(url: str) -> dict[str, tuple[str, str]]:
    found = checking.server({"PREFECT_API_URL": url}, asks_llm=True)
    return {check.name: (check.status, check.found) for check in found}


AUTOMATION = {
    "name": "doctor: runs that died",
    "enabled": True,
    "trigger": {
        "type": "event", "posture": "Proactive", "expect": ["prefect.flow-run.heartbeat"], "threshold": 1, "within": 180,
        "match": {"prefect.resource.id": "prefect.flow-run.*"}, "for_each": ["prefect.resource.id"],
    },
    "actions": [{"type": "change-flow-run-state", "state": "CRASHED"}],
}  # fmt: skip


def test_what_a_real_server_lacks_and_what_it_has(server, ours):
    found = told(server)
    assert found["server"][0] == found["clocks"][0] == "ok" and found["database"] == ("ok", "SQLite")
    absent = ("pool doctor-gpu", "pool doctor-cpu", "deployments", "dead runs", "llm limit")
    assert {found[name][0] for name in absent} == {"warning"} and "workers doctor-gpu" not in found

    flow = post(server, "/flows/", {"name": "doctor"})["id"]
    deployment = post(server, "/deployments/", {"name": "pool", "flow_id": flow, "tags": [ours]})["id"]
    automation = post(server, "/automations/", AUTOMATION)["id"]
    post(server, "/concurrency_limits/", {"tag": "doctor-llm", "concurrency_limit": 2})
    for pool in checking.POOLS:
        post(server, "/work_pools/", {"name": pool, "type": "process"})
        post(server, f"/work_pools/{pool}/workers/heartbeat", {"name": f"{pool}-0", "heartbeat_interval_seconds": 60})
    try:
        found = told(server)
        assert {status for status, _ in found.values()} == {"ok"}, found
        assert "doctor-gpu-0 (heard of" in found["workers doctor-gpu"][1]

        patch(server, "/work_pools/doctor-cpu", {"is_paused": True})
        patch(server, f"/automations/{automation}", {"enabled": False})
        patch(server, f"/deployments/{deployment}", {"tags": ["saint-0.0.1"]})
        found = told(server)
        assert "is paused" in found["pool doctor-cpu"][1] and found["pool doctor-cpu"][0] == "warning"
        assert "is off" in found["dead runs"][1] and "of another version" in found["deployments"][1]
    finally:
        for path in ("/work_pools/doctor-gpu", "/work_pools/doctor-cpu", f"/flows/{flow}", f"/automations/{automation}"):
            delete(server, path)
        delete(server, "/concurrency_limits/tag/doctor-llm")


def test_an_address_without_api_is_told_from_a_server_that_is_down(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PREFECT_API_URL", server.removesuffix("/api"))
    assert doctor([f"backend.root={tmp_path / 'store'}"]) == 1
    assert "let it name Prefect's API" in capsys.readouterr().out
    monkeypatch.setenv("PREFECT_API_URL", server)
    assert doctor([f"backend.root={tmp_path / 'store'}"]) == 0, capsys.readouterr().out


@pytest.mark.special
def test_postgres_is_recognised(postgres_url, tmp_path):
    from tests.servers import prefect_server

    assert os.environ.get("PREFECT_API_URL") is None
    with prefect_server(tmp_path, postgres_url) as running:
        assert told(running.url)["database"] == ("ok", "PostgreSQL")
