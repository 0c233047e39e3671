"""What can be held of the deployment files without a machine to deploy to."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.servers import ROOT, env_file

FILES = ROOT / "deployments"
ENVS = sorted(FILES.glob("*.env"))
UNITS = sorted(FILES.glob("*.service"))


@pytest.fixture
def no_prefect(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def understood(monkeypatch, settings: dict[str, str]) -> dict[str, str]:
    """What the installed Prefect makes of some variables; those that it does not know are absent."""
    from prefect.settings import Settings

    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return Settings().to_environment_variables(exclude_unset=True, include_secrets=True)


def prefects(settings: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in settings.items() if name.startswith("PREFECT_")}


@pytest.mark.parametrize("path", ENVS, ids=lambda p: p.name)
def test_every_variable_is_a_setting_of_this_prefect_and_a_legal_one(path, monkeypatch, no_prefect):
    wanted = env_file(path)
    assert set(prefects(wanted)) <= set(understood(monkeypatch, prefects(wanted)))
    assert set(wanted) - set(prefects(wanted)) == {"DO_NOT_TRACK"}  # the SDK's own, and others'


def test_a_name_that_prefect_does_not_know_would_be_seen(monkeypatch, no_prefect):
    assert "PREFECT_SERVER_DATABASE_TIMEOUTS" not in understood(monkeypatch, {"PREFECT_SERVER_DATABASE_TIMEOUTS": "1"})


def test_settings_that_are_in_several_files_agree():
    from flows.server import QUIET

    server, worker = (env_file(FILES / name) for name in ("server.env", "worker.env"))
    assert {n: server[n] for n in server.keys() & worker.keys()} == {n: worker[n] for n in server.keys() & worker.keys()}
    assert "PREFECT_CLIENT_MAX_RETRIES" in server.keys() & worker.keys() & QUIET.keys()
    for settings in (server, worker):
        assert {n: settings[n] for n in QUIET.keys() & settings.keys()} == {n: QUIET[n] for n in QUIET.keys() & settings.keys()}


@pytest.mark.parametrize("path", ENVS, ids=lambda p: p.name)
def test_an_env_file_says_the_same_to_a_shell_and_to_systemd(path):
    done = subprocess.run(["sh", "-c", f". {path} && set"], capture_output=True, text=True, env={}, check=True)
    seen = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    assert {name: seen[name].strip("'") for name in env_file(path)} == env_file(path)


def test_a_folder_called_memory_makes_prefect_open_one_connection_to_a_file(tmp_path, no_prefect):
    """What server.env says of SQLite; a Prefect that does otherwise opens several, as without it."""
    import asyncio

    from prefect.server.database.configurations import AioSqliteConfiguration
    from sqlalchemy import text

    (tmp_path / ":memory:").mkdir()

    async def connections() -> int:
        engine = await AioSqliteConfiguration(f"sqlite+aiosqlite:///{tmp_path}/:memory:/prefect.db").engine()
        async with engine.connect() as connection:
            await connection.execute(text("CREATE TABLE kept (x)"))
        await engine.dispose()
        return engine.pool.size() + engine.pool._max_overflow

    assert asyncio.run(connections()) == 1
    assert b"CREATE TABLE kept" in (tmp_path / ":memory:/prefect.db").read_bytes()


def compose() -> dict:
    return yaml.safe_load((FILES / "docker-compose.yml").read_text())


def test_the_server_in_a_container_has_our_settings_and_is_reached_from_its_machine_alone(monkeypatch, no_prefect):
    services = compose()["services"]
    server = services["server"]
    assert server["env_file"] == "server.env" and not set(env_file(FILES / "server.env")) & set(server["environment"])
    assert set(server["environment"]) <= set(understood(monkeypatch, server["environment"]))
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:4200:4200"]
    assert all("healthcheck" in service and service["restart"] for service in services.values())


def test_every_volume_that_is_used_is_declared():
    found = compose()
    used = {volume.split(":")[0] for service in found["services"].values() for volume in service.get("volumes", [])}
    assert used == set(found["volumes"])


def test_parts_of_an_address_make_the_address_that_prefect_connects_to(monkeypatch, no_prefect):
    from prefect.settings import Settings

    for name, value in compose()["services"]["server"]["environment"].items():
        monkeypatch.setenv(name, "secret" if name.endswith("PASSWORD") else value)
    url = Settings().server.database.connection_url.get_secret_value()
    assert url == "postgresql+asyncpg://prefect:secret@postgres:5432/prefect"


def test_the_image_copies_what_the_wheel_holds_and_has_compose_s_target():
    import tomllib

    text = (FILES / "Dockerfile").read_text()
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    for name in [*wheel, "pyproject.toml", "constraints.txt", "README.md", "LICENSE"]:
        assert (ROOT / name).exists() and name in text
    assert f"AS {compose()['services']['server']['build']['target']}\n" in text


def unit(path: Path) -> configparser.ConfigParser:
    found = configparser.ConfigParser(strict=False, interpolation=None)  # a name may come twice
    found.optionxform = str
    found.read_string(path.read_text())
    return found


@pytest.mark.parametrize("path", UNITS, ids=lambda p: p.name)
def test_a_unit_stops_gently_and_starts_again(path):
    service = unit(path)["Service"]
    assert service["KillMode"] == "mixed" and service["Restart"] == "on-failure" and "TimeoutStopSec" in service
    assert unit(path)["Install"]["WantedBy"] == "multi-user.target"


def test_there_are_two_units_and_the_workers_read_worker_env():
    assert [path.name for path in UNITS] == ["saint-server.service", "saint-worker@.service"]
    assert "EnvironmentFile=/etc/saint/worker.env" in UNITS[1].read_text()
    assert unit(UNITS[1])["Service"]["ExecStart"].endswith("/saint worker --pool %i")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze on this machine")
@pytest.mark.parametrize("path", UNITS, ids=lambda p: p.name)
def test_systemd_finds_no_fault_in_a_unit(path, tmp_path):
    program = tmp_path / "program"  # it asks that ExecStart be there, and ours is where SAINT will be installed
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = path.read_text()
    start = unit(path)["Service"]["ExecStart"].split()[0]
    copy = tmp_path / path.name.replace("@.", "@gpu.")
    copy.write_text(text.replace(start, str(program)))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, timeout=200)
    about_ours = [line for line in (done.stderr + done.stdout).splitlines() if path.stem.rstrip("@") in line]
    assert not about_ours and "Unknown" not in done.stderr, done.stderr
