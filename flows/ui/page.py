"""The page around the tabs, and what may never happen in it: a request to another host, a way in beside the page."""

from __future__ import annotations

import re
from typing import Any

import gradio as gr

from flows.ui import browse, steer
from flows.ui.rendering import text
from flows.ui.state import State
from tasks.reporting.pages import text_of as report_text

_FONT = ["system-ui", "Segoe UI", "sans-serif"]
_MONO = ["ui-monospace", "DejaVu Sans Mono", "Menlo", "monospace"]

POLICY = "; ".join(
    (
        "default-src 'self'",
        # what Gradio is made of: inline scripts, templates compiled in the browser
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)
"""What a browser lets the page do: whatever gets into it by mistake reaches no other host."""

_HEADERS = {
    "content-security-policy": POLICY, "referrer-policy": "no-referrer", "x-content-type-options": "nosniff",
}  # fmt: skip

_BESIDE = re.compile(r"(/gradio_api)?/(call(/.*)?|api(/.*)?|run/(?!predict/?$).*)")
"""Paths by which programs call a handler by its name; the page never does."""

_KEPT_SECONDS = 3600
"""After which what visitors uploaded is deleted."""


def page(state: State) -> gr.Blocks:
    """All of it. No handler of any tab can be called by name from outside."""
    with gr.Blocks(title="SAINT", analytics_enabled=False, fill_width=True, delete_cache=(_KEPT_SECONDS, _KEPT_SECONDS)) as found:
        tabs = gr.Tabs(elem_id="tabs")
        with tabs, gr.Tab("Browse", id="browse"):
            browsed = browse.tab(state)
        with tabs, gr.Tab("Steer", id="steer", render_children=True):
            steer.tab(state, tabs, browsed)
    for handler in found.fns.values():
        handler.api_visibility = "private"
    return found


def style() -> dict[str, Any]:
    """Looks, for ``launch``: fonts of the reader's own machine, and the report's styles for what we draw ourselves."""
    theme = gr.themes.Default(primary_hue="cyan", neutral_hue="stone", radius_size="sm", font=_FONT, font_mono=_MONO).set(
        # white on it is read
        button_primary_background_fill="*primary_700", button_primary_background_fill_hover="*primary_600",
        button_primary_background_fill_dark="*primary_700", button_primary_background_fill_hover_dark="*primary_600",
    )  # fmt: skip
    # the report's, kept to our own elements
    shared = f"@scope (.saint) {{ {report_text('style.css')} }}"
    return {"theme": theme, "head": f"<style>{text('page.css')}{shared}{text('browse.css')}{text('steer.css')}</style>"}


class Policy:
    """Middleware: refuses names that are not ours (``hosts``; empty takes any), and sends the policy with every answer."""

    def __init__(self, app: Any, hosts: tuple[str, ...]) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        host = re.sub(r":\d+$", "", dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower())
        if self._hosts and host not in self._hosts:
            return await _refused(send, 421, b"this page is not known by that name")
        if _BESIDE.fullmatch(scope["path"]):
            return await _refused(send, 404, b"there is nothing here but the page")

        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                ours = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                kept = [pair for pair in message["headers"] if pair[0].decode("latin-1").lower() not in _HEADERS]
                message = {**message, "headers": [*kept, *ours]}
            await send(message)

        return await self._app(scope, receive, with_policy)


async def _refused(send: Any, status: int, why: bytes) -> None:
    headers = [(b"content-type", b"text/plain"), *((name.encode(), value.encode()) for name, value in _HEADERS.items())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": why})
