"""A page of ours: one file, no network, a strict content policy, all foreign text escaped."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from typing import Any


def rendered(template: str, script: str, styles: tuple[str, ...], **shown: Any) -> str:
    """A template of this folder that extends ``base.html.j2``, with a script and style sheets of this folder in it.

    A page without a script names none: ``""``.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, loader=FunctionLoader(text_of))
    source = text_of(script) if script else ""
    return environment.get_template(template).render(
        style=Markup("".join(map(text_of, styles))),
        script=Markup(source),
        script_hash=base64.b64encode(hashlib.sha256(source.encode()).digest()).decode(),
        **shown,
    )


def embedded(value: Any) -> str:
    """JSON that can stand in a script element: nothing in it can end the element or a line of script."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "replace").decode()


def text_of(name: str) -> str:
    """A file of this folder."""
    return files("tasks.reporting").joinpath(name).read_text("utf-8")
