"""Real servers for tests and benchmarks, each a process of its own on 127.0.0.1 that ends with its context."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
START_SECONDS = 240
ANSWER_SECONDS = 180  # a server that many write to lets one wait for a minute and more; Prefect's own client asks 12 times


class PostgresMissing(RuntimeError):
    """PostgreSQL's programs are not on this machine; a test skips with the message as its reason."""


def env_file(path: Path) -> dict[str, str]:
    """The variables of a ``deployments/*.env`` file: NAME=value lines and comments, as systemd and compose read them."""
    lines = (line.strip() for line in path.read_text().splitlines())
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def post(url: str, path: str, body: Mapping[str, Any] | None, method: str = "POST") -> Any:
    """What the REST API below ``url`` answers; an error's text comes with the exception."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
            said = answer.read()
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{path}: {error.code} {error.read().decode(errors='replace')[:500]}") from None
    return json.loads(said) if said else None


class PrefectServer:
    """A Prefect server that can be killed and started again with the same port and database."""

    def __init__(self, home: Path, env: Mapping[str, str]) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home, self.env = home, dict(env)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.log = home / "server.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and return when the server answers."""
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        with open(self.log, "ab") as log:  # a session of its own, so that Ctrl-C in a test run reaches us and not it
            self.process = subprocess.Popen(command, env=self.env, stdout=log, stderr=log, start_new_session=True)
        limit = time.monotonic() + START_SECONDS
        while True:
            try:
                urllib.request.urlopen(self.url + "/health", timeout=10).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > limit:
                    raise RuntimeError(f"no Prefect server:\n{self.log.read_text()[-3000:]}") from None
                time.sleep(0.2)

    def cpu_seconds(self) -> float:
        """Processor time of the server so far."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """SIGKILL, as a power cut or the kernel's out-of-memory killer would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that does not end it."""
        try:
            self._end(signal.SIGTERM)
        except subprocess.TimeoutExpired:
            self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)
        self.process.wait(60)


@contextmanager
def prefect_server(
    home: Path, database: str | None = None, *, plain: bool = False, **env: str
) -> Iterator[PrefectServer]:
    """A running Prefect server with the settings of ``deployments/server.env``; ``env`` is laid over them.

    ``database`` is a SQLAlchemy URL such as ``postgres`` gives; None is SQLite in ``home``. ``plain`` leaves out
    server.env, all but what keeps the server from telling its makers.
    """
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    ours = env_file(ROOT / "deployments/server.env")
    if plain:
        ours = {name: ours[name] for name in ("DO_NOT_TRACK", "PREFECT_SERVER_ANALYTICS_ENABLED")}
    settings = {**outside, **ours, "PREFECT_HOME": str(home)}
    if database:
        settings["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = database
        settings["PREFECT_SERVER_DATABASE_DRIVER"] = database.partition(":")[0]  # the address is secret, this is told
    server = PrefectServer(home, {**settings, **env})
    try:
        server.start()
        yield server
    finally:
        server.stop()


def one_connection(folder: Path) -> str:
    """A SQLite database that Prefect opens one connection to (deployments/server.env says why): no request is refused."""
    (folder / ":memory:").mkdir(parents=True, exist_ok=True)
    return f"sqlite+aiosqlite:///{folder}/:memory:/prefect.db"


def postgres_programs() -> Path:
    """The folder of initdb and postgres. Raises ``PostgresMissing``."""
    newest = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name), reverse=True)
    on_path = shutil.which("initdb")
    for folder in [*newest, *([Path(on_path).resolve().parent] if on_path else [])]:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise PostgresMissing("no initdb and postgres in /usr/lib/postgresql or PATH; install postgresql")


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A throwaway PostgreSQL with a database that has what Prefect asks for; gives its asyncpg URL.

    Its log lies in ``folder``. Raises ``PostgresMissing``.
    """
    programs = postgres_programs()
    folder.mkdir(parents=True, exist_ok=True)
    # Not in ``folder``: PostgreSQL runs as another user when we are root, and pytest's folders are for ours alone
    # (each new pytest of the same user takes the rights of others away again).
    with tempfile.TemporaryDirectory(prefix="saint-postgres-") as data:
        as_who: list[str] = []
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            if not shutil.which("setpriv"):
                raise PostgresMissing("no setpriv, and PostgreSQL does not run as root; run the tests as another user")
            user = "postgres" if subprocess.run(["id", "postgres"], capture_output=True).returncode == 0 else "nobody"
            as_who = ["setpriv", f"--reuid={user}", f"--regid={_group(user)}", "--clear-groups"]
            shutil.chown(data, user)
        _checked([*as_who, programs / "initdb", "-D", data, "-U", "prefect", "-A", "trust", "-E", "UTF8", "--no-sync"])
        yield from _running(as_who, programs, data, folder / "postgres.log")


def _running(as_who: list[str], programs: Path, data: str, log_file: Path) -> Iterator[str]:
    port = free_port()
    options = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "shared_buffers": "64MB"}
    with open(log_file, "wb") as log:
        process = subprocess.Popen(
            [*as_who, programs / "postgres", "-D", data, *(f"-c{name}={value}" for name, value in options.items())],
            stdout=log, stderr=log, cwd="/", start_new_session=True,
        )  # fmt: skip
    try:
        at = ["-h", "127.0.0.1", "-p", str(port), "-U", "prefect"]
        limit = time.monotonic() + START_SECONDS
        while subprocess.run([programs / "pg_isready", *at], capture_output=True).returncode:
            if process.poll() is not None or time.monotonic() > limit:
                raise RuntimeError(f"no PostgreSQL:\n{log_file.read_text()[-3000:]}")
            time.sleep(0.1)
        _checked([programs / "createdb", *at, "prefect"])
        _checked([programs / "psql", *at, "-d", "prefect", "-qc", "CREATE EXTENSION IF NOT EXISTS pg_trgm"])
        yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/prefect"
    finally:
        process.send_signal(signal.SIGINT)  # its "fast" shutdown: does not wait for clients
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(30)


def _group(user: str) -> str:
    return subprocess.run(["id", "-gn", user], capture_output=True, text=True, check=True).stdout.strip()


def _checked(command: list[Any]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}:\n{done.stderr or done.stdout}")
