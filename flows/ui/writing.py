"""Texts of a recipe while they come to be, as the page shows them. One model for all visitors, who take turns at it token by token."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from math import ceil
from threading import Event, Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from flows.steered import open_recipe
from flows.ui.state import State
from tasks.lazy import np
from tasks.spec import SpecError
from tasks.steering.recipe import SteeringRecipe

if TYPE_CHECKING:
    from flows.steered import Steered
    from tasks.steering.writing import Written

_SECONDS = 0.07
"""Between two looks at what was written, at least; a look that takes long is followed by more time for writing."""

_SIDES = ("default", "steered")

log = logging.getLogger(__name__)


class Stops:
    """Who is to stop: one run at a time for each visitor, who may stop it while it waits for its turn, and ask for another."""

    def __init__(self) -> None:
        self._asked: dict[str, list[Event]] = {}
        """In the order in which their turns come."""
        self._running: dict[str, Event] = {}
        self._lock = Lock()

    def ask(self, session: str) -> None:
        """A run is asked for: from now on it can be stopped."""
        with self._lock:
            self._asked.setdefault(session, []).append(Event())

    def refuse(self, session: str) -> None:
        """There is no room for the run that was asked for last."""
        with self._lock:
            self._next(session, -1)

    def begin(self, session: str) -> Event | None:
        """The sign to stop of a run whose turn comes; None where it was stopped while it waited.

        The one before, if it still runs, is told to stop.
        """
        with self._lock:
            sign = self._next(session, 0)
            if sign.is_set():
                return None
            if session in self._running:
                self._running[session].set()
            self._running[session] = sign
            return sign

    def _next(self, session: str, place: int) -> Event:
        waiting = self._asked.get(session, [])
        sign = waiting.pop(place) if waiting else Event()
        if not waiting:
            self._asked.pop(session, None)
        return sign

    def end(self, session: str, sign: Event) -> None:
        """Forget a run that is over."""
        with self._lock:
            if self._running.get(session) is sign:
                del self._running[session]

    def stop(self, session: str) -> bool:
        """Tell a visitor's runs to stop. True where one waited for its turn: it will never begin, and has no last word."""
        with self._lock:
            waited = [sign for sign in self._asked.get(session, ()) if not sign.is_set()]
            running = [self._running[session]] if session in self._running else []
            for sign in waited + running:
                sign.set()
            return bool(waited)

    def leave(self, session: str) -> None:
        """A visitor is gone for good."""
        self.stop(session)
        with self._lock:
            self._asked.pop(session, None)


class Look(NamedTuple):
    """What can be seen at one moment."""

    told: str
    """How far it is, in words."""

    trouble: bool = False
    steered: Steered | None = None
    over: bool = False
    """Whether there is no more to come."""


def looks(state: State, recipe: SteeringRecipe, stop: Event) -> Iterator[Look]:
    """The texts so far, again and again, until they are whole or ``stop`` is set; closing it ends the work, too.

    What goes wrong is the last look, and no exception.
    """
    try:
        yield from _looks(state, recipe, stop)
    except Exception as error:
        yield Look(sentence(error), True, over=True)


def sentence(error: Exception) -> str:
    """What a visitor is told of an error. What is no mistake of theirs is logged, and its words, which may name files, stay here."""
    if isinstance(error, SpecError):
        return str(error)
    log.error("steering failed", exc_info=error)
    return f"steering failed with {type(error).__name__}; saint ui says more where it was started"


def _looks(state: State, recipe: SteeringRecipe, stop: Event) -> Iterator[Look]:
    yield Look(f"opening {recipe.lm.name}")
    began, n = time.perf_counter(), 0
    opened = open_recipe(recipe, state.models)
    with state.model:
        writing = opened.write()
    with closing(writing):
        pause, last = 0.0, 0.0
        while not stop.is_set():
            with state.model:
                step = next(writing, None)
            if step is None:
                break
            n += 1
            now = time.perf_counter()
            if now - last >= max(_SECONDS, pause):
                yield Look(f"token {n} of {recipe.n_tokens}", steered=opened.told(writing))
                last = time.perf_counter()
                pause = 2 * (last - now)
        stopped = stop.is_set() and not all(row.over for row in writing.rows)
        how = "stopped after" if stopped else "done:"
        longest = max(len(row.token_ids) for row in writing.rows)
        same = "" if any(push.push.on for push in recipe.pushes) else "; nothing is turned, so that both are the model as it is"
        said = f"{how} {longest} token{'s' * (longest != 1)}, {time.perf_counter() - began:.1f} s, seed {recipe.seed}{same}"
        yield Look(said, steered=opened.told(writing), over=True)


def pieces(text: str, words: Sequence[str]) -> list[tuple[str, int, int]]:
    """A text cut where its tokens meet: each piece, its first token, and one past its last. Joined, they are the text, whatever
    the words of the tokens.

    Tokens that are no text by themselves (parts of one character's bytes) make a piece together.
    """
    found: list[tuple[str, int, int]] = []
    at = since = 0
    for i, word in enumerate(words):
        start = text.find(word, at, at + len(word) + 1 + 8 * (i - since)) if word else -1
        if start < 0:
            continue
        if start > at and i > since:
            found.append((text[at:start], since, i))
            at = start
        end = start + len(word)
        found.append((text[at:end], i, i + 1))
        at, since = end, i + 1
    if at < len(text):
        if since < len(words) or not found:
            found.append((text[at:], since, len(words)))
        else:
            piece, first, last = found.pop()
            found.append((piece + text[at:], first, last))
    return found


def shown(found: Steered, labels: Sequence[str], goes_on: bool) -> dict[str, Any]:
    """What the template of texts shows. ``labels`` are those of the latents watched."""
    largest_L = np.array(
        [max(p.largest for p in found.recipe.pushes if (p.sae, p.latent) == each) for each in found.watched], np.float64
    )  # fmt: skip
    return {
        "told": [
            {
                "prompt": each.prompt if isinstance(each.prompt, str) else [(m.role, m.content) for m in each.prompt],
                "sides": [(side, _side(found, getattr(each, side), largest_L)) for side in _SIDES],
                "warnings": each.warnings,
            }
            for each in found.told
        ],
        "watched": [(latent, label) for (_, latent), label in zip(found.watched, labels, strict=True)],
        "goes_on": goes_on,
    }  # fmt: skip


def _side(found: Steered, one: Written, largest_L: np.ndarray) -> dict[str, Any]:
    first = len(one.row.prompt.token_id)
    value_TL = one.activation_TL[first:]
    share_TL = np.divide(value_TL, largest_L, out=np.zeros(value_TL.shape), where=largest_L > 0) if len(largest_L) else value_TL
    cut = []
    for piece, start, end in pieces(one.text, [found.words[i] for i in one.token_ids]):
        heat = [ceil(100 * share) for share in share_TL[start:end].max(0)] if start < len(share_TL) else [0] * len(largest_L)
        most = max(heat, default=0)
        cut.append({"text": piece, "heat": " ".join(map(str, heat)), "step": step(most), "most": most})
    return {"pieces": cut, "n": len(one.token_ids), "over": one.over, "repetition": one.repetition, "growth": one.growth}


def step(percent: int) -> int:
    """The colour of a token on which a latent is so many per cent of its largest: 0 to 10."""
    return min(10, max(0, ceil(percent / 10)))
