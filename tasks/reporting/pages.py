"""A page of ours: one file, no network, a strict content policy, all foreign text escaped."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import Any


def rendered(template: str, script: str | tuple[str, ...], styles: tuple[str, ...], frames: bool = False, **shown: Any) -> str:
    """A template of this folder that extends ``base.html.j2``, with scripts and style sheets of this folder in it.

    A page without a script names none: ``""``. ``frames``: whether it may load files beside it into frames.
    """
    from markupsafe import Markup

    source = "".join(map(text_of, (script,) if isinstance(script, str) else script)) if script else ""
    return _environment().get_template(template).render(
        style=Markup("".join(map(text_of, (*styles, "print.css") if styles else ()))),
        script=Markup(source),
        script_hash=base64.b64encode(hashlib.sha256(source.encode()).digest()).decode(),
        frames=frames,
        **shown,
    )


def embedded(value: Any) -> str:
    """JSON that can stand in a script element: nothing in it can end the element or a line of script."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "replace").decode()


@cache
def _environment() -> Any:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    return Environment(autoescape=True, undefined=StrictUndefined, loader=FunctionLoader(text_of))


def text_of(name: str) -> str:
    """A file of this folder."""
    return files("tasks.reporting").joinpath(name).read_text("utf-8")
