"""Our own HTML in Gradio's page. Templates lie in this folder; whatever is put into them is escaped."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from tasks.reporting.sweep_table import visible

_TEMPLATE_SIGNS = {ord("$"): "&#36;", ord("{"): "&#123;", ord("}"): "&#125;", ord("`"): "&#96;"}
"""Gradio's HTML element is a template in the browser, too; what is shown must be no part of it."""


def rendered(template: str, **shown: Any) -> str:
    """A template of this folder with what it shows, all of it escaped, for ``gr.HTML``."""
    return _environment().get_template(template).render(**shown).translate(_TEMPLATE_SIGNS)


def text(name: str) -> str:
    """A file of this folder."""
    return files("flows.ui").joinpath(name).read_text("utf-8")


def seen(value: Any) -> str:
    """A foreign text, where it is read: ends of lines and what cannot be seen are shown, not obeyed."""
    return visible(str(value).replace("\n", "\u23ce").replace("\t", "\u21e5"))


def lines(value: str) -> str:
    """The same of a text that is read line by line."""
    return "\n".join(map(visible, value.split("\n")))


def token(value: str) -> str:
    """A token by itself, where a space in front would not be seen."""
    value = seen(value)
    return "\u2423" + value[1:] if value.startswith(" ") else value


def number(value: float | None, form: str = ".2f") -> str:
    """A number, or a dash where there is none."""
    return "\u2013" if value is None else format(value, form)


def percent(share: float | None) -> str:
    """A share as a person says it, to two digits."""
    if share is None:
        return "\u2013"
    return "0%" if share == 0 else f"{100 * share:.2g}%" if share >= 1e-5 else f"{share:.1e}"


@cache
def _environment() -> Any:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    found = Environment(autoescape=True, undefined=StrictUndefined, loader=FunctionLoader(text), trim_blocks=True, lstrip_blocks=True)
    found.filters |= {"seen": seen, "lines": lines, "token": token, "number": number, "percent": percent}
    return found
