"""Data of a page in pieces, so that what is not looked at is not loaded: inside the page while it is small, else in files beside it.

A browser refuses a page opened by double click to fetch the files beside it, and a script file could not be told from a
hostile one. So a piece is JSON in an HTML file that forbids itself everything but one line of ours, which hands the JSON to
the page that shows it in a hidden, sandboxed frame.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from tasks.reporting.pages import embedded, rendered

T = TypeVar("T")

FOLDER = "latents"
"""Beside the page."""

_PLAIN = 16_384
"""Characters of JSON up to which a piece stays readable; longer ones are compressed."""


def packed(value: list[Any] | dict[Any, Any]) -> Any:
    """A list or dict itself; or, where its JSON is long, that compressed (zlib) and in base64. The inverse is ``unpacked``."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    if len(text) <= _PLAIN:
        return value
    return base64.b64encode(zlib.compress(text.encode("utf-8", "replace"), 6)).decode()


def unpacked(value: Any) -> Any:
    """What was packed."""
    return json.loads(zlib.decompress(base64.b64decode(value))) if isinstance(value, str) else value


def size(value: Any) -> int:
    """Bytes that something packed takes in a page."""
    return len(embedded(value).encode())


def inside(packs: Iterable[Any], room: int, folder: Path) -> list[Any] | None:
    """Numbered pieces, if all of them fit into so many bytes; else None, and each is a file. Memory is bounded by ``room``."""
    held: list[Any] | None = []
    for number, pack in enumerate(packs):
        if held is None:
            write(pack, folder, name(number))
            continue
        held.append(pack)
        room -= size(pack)
        if room < 0:
            for i, early in enumerate(held):
                write(early, folder, name(i))
            held = None
    return held


def batches(items: Iterable[T], n: int) -> Iterator[list[T]]:
    """So many at a time, of the last what is left."""
    left = iter(items)
    while batch := list(islice(left, n)):
        yield batch


def name(number: int) -> str:
    """Of the file of a numbered piece, without its ending."""
    return f"{number:05d}"


def write(pack: Any, folder: Path, name: str) -> None:
    """A piece as a file of its own."""
    from markupsafe import Markup

    folder.mkdir(exist_ok=True)
    text = rendered("piece.html.j2", "piece.js", (), title=f"{FOLDER}/{name}", data=Markup(embedded(pack)))
    (folder / f"{name}.html").write_text(text, "utf-8")
