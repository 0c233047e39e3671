"""Foreign text in a Markdown page: shown, and no part of the page."""

from __future__ import annotations

from typing import Any

from tasks.explainers.base import one_line

_PLAIN = frozenset(" ,;'?%=/")
"""Signs that mean nothing in Markdown, in its tables or in HTML, wherever they stand."""


def markdown(value: Any, limit: int = 200) -> str:
    """A text as one line of Markdown that shows it letter for letter: each sign that could be markup is an entity.

    So is every dot, colon and at sign, of which readers make links and mentions by themselves. Control characters, ends of
    lines and marks that turn the direction of writing are left out.
    """
    text = one_line(str(value), limit)
    return "".join(c if c.isalnum() or c in _PLAIN else f"&#{ord(c)};" for c in text)


def code(value: Any) -> str:
    """A text as code within a line. For what we made up ourselves: names of artifacts, hookpoints, fields."""
    return "`" + one_line(str(value)).replace("`", "'").replace("|", "/") + "`"
