"""A process that asks a live API and may be killed at any time. The fork server imports it ahead, for speed."""

from __future__ import annotations

import os
from typing import Any

import anthropic  # noqa: F401  imported once, not in every child
import openai  # noqa: F401

from artifacts.journal import Journal
from tasks.clients.anthropic import Anthropic
from tasks.clients.base import Request
from tasks.clients.openai import OpenAI
from tasks.progress import Progress
from tasks.spec import Runtime

CLIENTS = {
    "anthropic": Anthropic(in_flight=6),
    "openai": OpenAI(model="m", in_flight=6, price_input=1.0, price_output=2.0),
}


def requests(n: int) -> list[Request]:
    return [Request("system", f'{{"windows": [{i}]}}', None, 64) for i in range(n)]


def ask(kind: str, url: str, root: str, n: int, out: Any = None) -> None:
    """Ask. Told through ``out``: the digest of each new answer when it is handed out, and in the end how many are ok."""
    os.environ["ANTHROPIC_API_KEY"] = os.environ["OPENAI_API_KEY"] = "sk-canary-key"
    replies = CLIENTS[kind].answer(requests(n), Journal(root), Runtime(base_url=url, poll_seconds=0.05), Progress())
    n_ok = 0
    for reply in replies:
        n_ok += reply.status == "ok"
        if not reply.reused:
            out.put(reply.digest)
    out.put(n_ok)
