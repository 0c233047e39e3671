"""Pages in a real browser: Debian's Chromium, driven by playwright.

A test asks for ``visit``: ``page = visit(url, width=390, scheme="dark")`` is a page of playwright, and when the test has
ended it is held to what holds for every page of SAINT, whatever it shows: no other host was asked for anything, no script
failed, no dialog came up and the console has no error. ``served(folder)`` is where a file has an address with a host.

The browser is a module's: while playwright's synchronous side is open, ``asyncio.run`` is not to be had in its thread.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

TELEPHONE, DESK = 390, 1280
"""Widths, in CSS pixels. What is narrower than 500 is emulated as a telephone."""


class Served:
    """A folder under an address of this machine, and what was asked of it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.paths: list[str] = []


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    class Handler(SimpleHTTPRequestHandler):
        def log_request(self, *_: object) -> None:
            if self.path != "/favicon.ico":  # browsers ask for it unasked
                found.paths.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    found = Served(f"http://127.0.0.1:{server.server_port}/")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()


class Visits:
    """Opens pages, each in a context of its own, and remembers what they did."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.contexts: list[BrowserContext] = []
        self.hosts: set[str] = set()
        """Hosts that were visited on purpose; of files, the empty one."""
        self.asked: list[str] = []
        """URLs, in order."""
        self.troubles: list[str] = []

    def __call__(self, url: str, *, width: int = DESK, height: int = 900, scheme: str = "light", **options: Any) -> Page:
        """A new page at a URL. ``scheme``: light or dark; ``options`` are those of a context of playwright."""
        telephone = {"is_mobile": True, "has_touch": True} if width < 500 else {}
        context = self.browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, **{**telephone, **options}
        )
        self.contexts.append(context)
        context.on("request", lambda request: self.asked.append(request.url))
        context.on("weberror", lambda error: self.troubles.append(str(error.error)))
        context.on("console", self._said)
        context.on("dialog", lambda dialog: (self.troubles.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page = context.new_page()
        page.on("websocket", lambda socket: self.asked.append(socket.url))
        self.hosts.add(urlsplit(url).netloc)
        page.goto(url)
        return page

    def _said(self, message: Any) -> None:
        if message.type == "error" and "favicon.ico" not in message.location.get("url", ""):
            self.troubles.append(f"console: {message.text}")

    def end(self) -> None:
        for context in self.contexts:
            context.close()
        asked = {urlsplit(url).netloc for url in self.asked if not url.startswith(("data:", "blob:", "about:"))}
        assert asked == self.hosts, f"asked another host: {asked - self.hosts}"
        assert not self.troubles, self.troubles


def width_of(page: Page) -> int:
    """How wide a page is, in CSS pixels: its window's width, or more if anything sticks out.

    It is never compared with ``innerWidth``, which on a telephone grows with a page that is too wide.
    """
    return page.evaluate("document.documentElement.scrollWidth")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright here")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium here")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visits]:
    visits = Visits(browser)
    yield visits
    visits.end()


@pytest.fixture
def served() -> Iterator[Callable[[Path], Served]]:
    """Serves folders until the end of the test."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield lambda folder: stack.enter_context(serving(folder))
