"""Foreign text in a Markdown page: shown, and no part of the page."""

from __future__ import annotations

import re
from typing import Any

from tasks.explainers.base import one_line

_SIGNS = re.compile(r"""
    [\\`*_\[\]<>&|~#@$]       # emphasis, code, links, HTML, cells, mentions, formulas
    | (?<=www)\. | :(?=//)     # what readers make links of by themselves
    | ^[-+=:]                  # lists, lines under headings, rulers
    | (?<=^\d)[.)](?!\d) | (?<=^\d\d)[.)](?!\d)   # numbered lists, not decimals
""", re.VERBOSE | re.IGNORECASE)  # fmt: skip


def markdown(value: Any, limit: int = 200) -> str:
    """A text as one line of Markdown that shows it letter for letter: each sign that could be markup is an entity.

    Control characters, ends of lines and marks that turn the direction of writing are left out.
    """
    return _SIGNS.sub(lambda found: f"&#{ord(found[0])};", one_line(str(value), limit))


def code(value: Any) -> str:
    """A text as code within a line. For what we made up ourselves: names of artifacts, hookpoints, fields."""
    return "`" + one_line(str(value)).replace("`", "'").replace("|", "/") + "`"
