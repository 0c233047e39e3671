"""``saint ui``: who may come in, and the server. Gradio is imported when the page is made, in an environment without its variables."""

from __future__ import annotations

import argparse
import ipaddress
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import Any

from flows.looking import store_of, words_apart
from tasks.spec import SpecError

ABOUT = {"ui": "a page in the browser to find latents, understand them and steer with them; --host, --port, --auth, --share, --open"}

_MOST_WAITING = 64
"""Requests that wait for their turn; beyond it people are told to come again."""

_MOST_AT_ONCE = 8
"""Requests of one sort that are worked on at a time."""

_MOST_UPLOADED = "256kb"
"""Of a file: a recipe is a few kB."""


@dataclass(frozen=True)
class Access:
    """Where the page is served, and to whom."""

    host: str = "127.0.0.1"
    port: int = 7860
    users: tuple[tuple[str, str], ...] = ()
    """Name and password; none lets in whoever reaches the address."""

    share: bool = False
    """Also through a tunnel of Gradio's, at an address anybody can reach."""

    @property
    def local(self) -> bool:
        """Whether only this machine reaches it."""
        return not self.share and is_loopback(self.host)

    def check(self) -> None:
        """Raise ``SpecError`` where strangers could come in."""
        if self.local or self.users:
            return
        where = "--share" if self.share else f"--host {self.host}"
        raise SpecError(
            f"{where}, but then others than you reach the page, and whoever does can use the model and read the corpus; add "
            "--auth-file FILE with lines of user:password, or leave it out and look at http://127.0.0.1 (from elsewhere by ssh -L)"
        )


def ui(rest: list[str], debug: bool = False) -> int:
    flags, names, overrides = _parsed(rest)
    users = users_of(flags.auth, flags.auth_file)
    access = Access(flags.host, flags.port, users, flags.share)
    access.check()
    require_gradio()
    from flows.composing import composed
    from flows.shelves import browsable
    from flows.ui.state import State
    from tasks.kinds import validated
    from tasks.spec import Runtime

    store = store_of(overrides)
    runtime = validated(Runtime, composed(overrides)["runtime"], "runtime")
    state = State(store, browsable(store, names), runtime, flags.dtype)
    state.index(state.names[0])  # seconds that nobody then waits for in the browser
    page, address = serve(state, access, flags.open)
    print(f"saint ui: {address}" + ("" if access.users else " (for this machine only)"))
    if not access.local and not access.share:
        print("note: nothing is encrypted on its way; put a server that speaks https in front, or use ssh -L")
    print("stop it with Ctrl-C", flush=True)
    try:
        Event().wait()
    finally:
        page.close(verbose=False)
    return 0


def serve(state: Any, access: Access, open_: bool = False) -> tuple[Any, str]:
    """Start the page; returns it (``close`` stops it) and its address. Raises ``SpecError``."""
    access.check()
    require_gradio()
    from starlette.middleware import Middleware

    from flows.ui.page import Policy, page, style

    middleware = [Middleware(Policy, hosts=_hosts(access))]
    shown = page(state)
    shown.queue(max_size=_MOST_WAITING, default_concurrency_limit=_MOST_AT_ONCE, api_open=False)
    try:
        _, local, shared = shown.launch(
            server_name=access.host, server_port=access.port, share=access.share, auth=list(access.users) or None,
            inbrowser=open_, prevent_thread_lock=True, quiet=True, show_error=False, footer_links=[], run_history=False,
            allowed_paths=[], blocked_paths=[], enable_monitoring=False, strict_cors=True, ssr_mode=False, pwa=False,
            mcp_server=False, max_file_size=_MOST_UPLOADED, state_session_capacity=256,
            app_kwargs={"middleware": middleware, "docs_url": None, "redoc_url": None, "openapi_url": None},
            **style(),
        )  # fmt: skip
    except OSError as error:
        if "port" not in str(error):
            raise
        raise SpecError(f"--port {access.port}, but something else listens there; choose another") from None
    return shown, shared or local


def require_gradio() -> None:
    """See that Gradio is there, and that no variable of the environment opens what is to stay shut.

    Raises ``SpecError`` where it is not installed.
    """
    if find_spec("gradio") is None:
        raise SpecError("saint ui, but Gradio is not installed; pip install 'saint-sae[ui]'")
    # It takes from there: addresses, sharing, folders to serve, MCP, reloading, a mode in which visitors change the program.
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own, which nothing else reaches."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:  # a name may mean anything, tomorrow something else
        return False


def users_of(typed: str | None, file: str | None) -> tuple[tuple[str, str], ...]:
    """Names and passwords. Raises ``SpecError`` for what is none, and for a file that others can read."""
    if typed is not None and file is not None:
        raise SpecError("--auth and --auth-file, but one says it all; leave one out")
    if typed is not None:
        return (_user(typed, "--auth"),)
    if file is None:
        return ()
    path = Path(file).expanduser()
    if not path.is_file():
        raise SpecError(f"--auth-file {file}, but there is no such file; write one with lines of user:password")
    if os.name == "posix" and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SpecError(f"--auth-file {file}, but others on this machine can read it; chmod 600 {file}")
    lines = [line for line in path.read_text("utf-8").splitlines() if line.strip() and not line.startswith("#")]
    found = dict(_user(line, f"--auth-file {file}") for line in lines)
    if not found:
        raise SpecError(f"--auth-file {file}, but nobody is in it; write lines of user:password")
    return tuple(found.items())


def _user(line: str, where: str) -> tuple[str, str]:
    name, colon, password = line.partition(":")
    if not (name.strip() and colon and password):
        none = "colon" if not colon else "password" if name.strip() else "user"  # what was typed may be a secret, and is not repeated
        raise SpecError(f"{where}, but what it gives has no {none}; write user:password, neither of them empty")
    return name.strip(), password


def _hosts(access: Access) -> tuple[str, ...]:
    """Names that a browser may call the page by: on this machine alone no other, so that no foreign site's name can be made to
    point at it (DNS rebinding)."""
    return ("127.0.0.1", "localhost", "[::1]", access.host) if access.local else ()


def _parsed(rest: Sequence[str]) -> tuple[argparse.Namespace, list[str], list[str]]:
    parser = argparse.ArgumentParser(prog="saint ui", description=ABOUT["ui"], allow_abbrev=False)
    add = parser.add_argument
    about = "train/3f2a, adopt/90c1; without one all that have windows. backend.root=DIR, runtime.device=cpu"
    add("words", nargs="*", metavar="SAE", help=about)
    add("--host", default="127.0.0.1", help="address to listen on; any but this machine's own needs --auth (127.0.0.1)")
    add("--port", type=int, default=7860, help="port (7860)")
    add("--auth", metavar="USER:PASSWORD", help="who may come in; others on this machine can see it in the list of processes")
    add("--auth-file", metavar="FILE", help="the same from a file, a line each")
    add("--share", action="store_true", help="also at a public address, through Gradio's servers; needs --auth")
    add("--open", action="store_true", help="open a browser")
    add("--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="precision of the language model (float32)")
    flags = parser.parse_intermixed_args(list(rest))
    if not 0 < flags.port < 65536:
        raise SpecError(f"--port {flags.port}, but ports are 1 to 65535; choose one of them")
    return flags, *words_apart(flags.words)
