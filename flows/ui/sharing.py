"""A recipe as the page hands it on: the file, the command, three lines of Python."""

from __future__ import annotations

import re
from base64 import b64encode

from flows.ui.rendering import rendered
from tasks.steering.recipe import SteeringRecipe


def file_name(name: str) -> str:
    """A name for the file that a shell and Python take as it is."""
    return (re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "recipe") + ".json"


def shared(recipe: SteeringRecipe) -> str:
    """The recipe's section of the page; the file is in the link itself, so that nothing of it is kept here."""
    text = recipe.text()
    return rendered("sharing.html.j2", text=text, file=file_name(recipe.name), data=b64encode(text.encode()).decode())
