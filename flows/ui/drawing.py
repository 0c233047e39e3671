"""The Steer tab's own HTML: what a search found, the lists of latents and prompts, one line of status."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from flows.ui.acts import link
from flows.ui.form import MOST_PROMPTS, Turned
from flows.ui.rendering import rendered
from flows.ui.state import State
from tasks.browsing.latent import strongest
from tasks.browsing.query import Query
from tasks.steering.recipe import Prompt

_ROWS = 6
"""Latents that a search shows."""

_times = count(1)
"""Tells each drawing of a list from the one before: the browser leaves alone what is equal to what it was sent last."""


def status(said: str, trouble: bool = False) -> str:
    """How it goes, or what is in the way."""
    return rendered("status.html.j2", said=said, trouble=trouble)


def found(state: State, name: str, words: str) -> str:
    """Latents whose labels have the words; those that were never active cannot be turned, and are left out."""
    index = state.index(name)
    hits = index.find(Query(words[:500]))
    latents = hits.latents_F[index.max_N[hits.latents_F] > 0]
    rows = index.rows(latents[:_ROWS].tolist())
    return rendered("found.html.j2", rows=rows, n=len(latents), words=words.strip(), every_word=hits.every_word)


def listed(state: State, turned: Sequence[Turned]) -> str:
    """The list of latents."""
    several = len({state.sae(one.sae).hookpoint for one in turned}) > 1 or len(state.names) > 1
    rows = []
    for one in turned:
        index = state.index(one.sae)
        index.check(one.latent)
        rows.append({
            **one.model_dump(), "label": index.label(one.latent), "why": strongest(index, one.latent), "link": link(one.sae, one.latent),
            "where": state.sae(one.sae).hookpoint if several else "", "given": one.largest,
            "peak": float(index.max_N[one.latent]) if one.largest is None else one.largest,
        })  # fmt: skip
    return rendered("turned.html.j2", rows=rows, time=next(_times))


def prompts(prompts: Sequence[Prompt]) -> str:
    """The list of prompts."""
    rows = [[("", one)] if isinstance(one, str) else [(turn.role, turn.content) for turn in one] for one in prompts]
    return rendered("asked.html.j2", rows=rows, full=len(rows) >= MOST_PROMPTS, time=next(_times))
