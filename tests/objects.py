"""A real S3 server on loopback for tests, which can be made to fail.

moto answers, behind a WSGI layer that makes conditional writes atomic (moto looks, then writes) and misbehaves on
request. In front of it runs a door: a TCP forwarder in a process of its own, which can be killed and started again,
so that the server goes away in the middle of a request and comes back with its data.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}

SERVER = """
import json, logging, re, threading, time
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
logging.getLogger("werkzeug").setLevel(logging.ERROR)
moto = DomainDispatcherApplication(create_backend_app)
mode, seen, write = {}, [], threading.Lock()
# mode: ignore=[headers to overlook]  lose=/pattern/ (do it, drop the reply, once)  fail=[status, times]  slow=seconds

def app(environ, start):
    method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
    if path == "/-/mode":
        mode.clear(); mode.update(json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))))
        start("200 OK", []); return [b""]
    if path == "/-/seen":
        start("200 OK", []); return [json.dumps(seen).encode()]
    seen.append(f"{method} {path}")
    for header in mode.get("ignore", []):
        environ.pop("HTTP_" + header.upper().replace("-", "_"), None)
    if mode.get("fail") and mode["fail"][1] > 0:
        mode["fail"][1] -= 1
        start(f"{mode['fail'][0]} No", [("Content-Length", "0")]); return [b""]
    if mode.get("slow") and method in ("GET", "PUT") and re.search(mode.get("where", ""), path):
        time.sleep(mode["slow"])
    if method == "PUT":
        with write:
            answer = b"".join(moto(environ, lose(environ, start)))
    else:
        answer = b"".join(moto(environ, start))
    return [answer]

def lose(environ, start):
    if mode.get("lose") and re.search(mode["lose"], environ["PATH_INFO"]):
        def dropped(status, headers, exc_info=None):
            if status.startswith("200"):
                mode.pop("lose")
                environ["werkzeug.socket"].shutdown(2)
            return start(status, headers)
        return dropped
    return start

server = make_server("127.0.0.1", 0, app, threaded=True)
print(server.port, flush=True)
server.serve_forever()
"""

DOOR = """
import asyncio, sys
port, behind = int(sys.argv[1]), int(sys.argv[2])
async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()
async def visit(reader, writer):
    to, out = await asyncio.open_connection("127.0.0.1", behind)
    await asyncio.gather(pump(reader, out), pump(to, writer))
async def main():
    server = await asyncio.start_server(visit, "127.0.0.1", port)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


def _started(program: str, *arguments: str) -> tuple[subprocess.Popen, int]:
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.strip().isdigit(), f"it did not start: {line}"
    return process, int(line)


class S3:
    """One server with its door."""

    def __init__(self) -> None:
        self._server, self._behind = _started(SERVER)
        self._door, self.port = _started(DOOR, "0", str(self._behind))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def slam(self) -> None:
        """Kill the door: every connection breaks, and nothing answers."""
        self._door.send_signal(signal.SIGKILL)
        self._door.wait()

    def reopen(self) -> None:
        """Answer again, at the same port and with the same data."""
        self._door, _ = _started(DOOR, str(self.port), str(self._behind))

    def mode(self, **mode: object) -> None:
        """How to misbehave from now on; without arguments, not at all."""
        self._ask("/-/mode", json.dumps(mode).encode())

    def seen(self) -> list[str]:
        """Every request so far, as ``METHOD /path``."""
        return json.loads(self._ask("/-/seen"))

    def make_bucket(self, name: str) -> None:
        self._ask(f"/{name}", method="PUT")

    def stop(self) -> None:
        for process in (self._door, self._server):
            process.kill()
            process.wait()

    def _ask(self, path: str, data: bytes | None = None, method: str | None = None) -> bytes:
        request = urllib.request.Request(f"http://127.0.0.1:{self._behind}{path}", data, method=method)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return answer.read()


@pytest.fixture(scope="session")
def s3_server():
    """A server for all tests of a session."""
    pytest.importorskip("obstore", reason="an S3 store needs obstore: pip install 'saint-sae[s3]'")
    pytest.importorskip("moto", reason="tests of an S3 store need moto[server]: pip install 'saint-sae[dev]'")
    found = S3()
    yield found
    found.stop()


@pytest.fixture
def s3(s3_server, monkeypatch):
    """The server, behaving, with credentials in the environment."""
    for name in [n for n in os.environ if n.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    yield s3_server
    s3_server.mode()


_n = [0]


def bucket(s3: S3) -> str:
    """A new, empty bucket."""
    _n[0] += 1
    name = f"bucket-{os.getpid()}-{_n[0]}"
    s3.make_bucket(name)
    return name


def store(s3: S3, name: str, cache: Path, **more: object):
    """A store in a bucket, as a host with that cache folder sees it."""
    from artifacts.backends.objects import Objects
    from artifacts.store import Store

    return Store(Objects(name, "some/prefix", s3.url, cache=cache, **{"patience": 30, **more}))


def until(condition, seconds: float = 30) -> None:
    """Wait for something; an error when it does not come."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.01)
