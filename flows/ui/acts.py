"""Clicks within our own HTML, and addresses of what it shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode


def act_of(event: Any) -> tuple[str, int]:
    """What was clicked, and its number; nothing for what no page of ours sends."""
    data = event._data if isinstance(event._data, Mapping) else {}
    value = str(data.get("value", ""))
    return (str(data.get("act", "")), int(value)) if value.isascii() and value.isdigit() and len(value) < 12 else ("", 0)


def link(name: str, latent: int) -> str:
    """The address of a latent's page, relative to the page's own."""
    return "?" + urlencode({"sae": name, "latent": latent}, safe="/")
