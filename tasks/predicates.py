"""Executable explanations: a rule, as JSON, that says of a window whether a latent should fire somewhere in it.

``{"any": ["word:file", "bigram:of the", "class:number"]}`` holds when the window has any of these terms. A term is a
string ``<what>:<text>``, drawn from the window's text alone, never from its activations:

=============  =========================================================================================
``word``       a word, case folded (letters, digits and underscores)
``token``      a token of the model, exactly, white space included, where it is only part of a word
``bigram``     two neighbouring words, or a word and a mark
``class``      ``number``, ``capitalised``, ``all capitals``, ``snake_case``, or a mark such as ``(``
``ending``     words of at least 5 letters that end so (``-ing``)
``start``      ``context``: the window begins a context
=============  =========================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from tasks.explainers.base import Window

_PIECE = re.compile(r"\w+|[^\w\s]")
_ENDINGS = ("ing", "ed", "tion", "able", "ly", "es", "er", "ment", "ive", "ize", "or", "al", "ity", "ous", "ent", "ate")
START = "start:context"


class Place(NamedTuple):
    """A word or mark of a window."""

    text: str
    begin: int
    """Character at which it begins."""

    end: int


def pieces(text: str) -> list[Place]:
    """The words and marks of a text, in order."""
    return [Place(m[0], m.start(), m.end()) for m in _PIECE.finditer(text)]


def terms(window: Window) -> frozenset[str]:
    """All terms that hold somewhere in a window."""
    return _terms(window.tokens, window.starts_context)


@lru_cache(1 << 15)  # non-activating windows come from one pool, so most are asked about by many latents
def _terms(tokens: tuple[str, ...], starts_context: bool) -> frozenset[str]:
    found: set[str] = set()
    places = pieces("".join(tokens))
    for i in range(len(places)):
        found.update(terms_at(places, i))
    found.update(f"token:{tokens[i]}" for i in range(len(tokens)) if is_part(tokens, i))
    if starts_context:
        found.add(START)
    return frozenset(found)


def terms_at(places: list[Place], i: int) -> list[str]:
    """The terms that the i-th piece of a window makes true."""
    text = places[i].text
    plain = text.casefold()
    if not (text[0].isalnum() or text[0] == "_"):
        found = [f"class:{text}"]
    else:
        found = [f"word:{plain}"]
        if text.isdigit():
            found.append("class:number")
        elif "_" in text.strip("_"):
            found.append("class:snake_case")
        elif len(text) > 1 and text.isupper():
            found.append("class:all capitals")
        elif text[0].isupper():
            found.append("class:capitalised")
        if len(plain) >= 5 and plain.isalpha():
            found += [f"ending:{e}" for e in _ENDINGS if plain.endswith(e)]
    if i:
        found.append(f"bigram:{places[i - 1].text.casefold()} {plain}")
    return found


def is_part(tokens: Sequence[str], i: int) -> bool:
    """Whether the i-th token is only part of a word, so that the words of the text do not tell it."""
    token = tokens[i]
    if not token or not token[-1].isalnum():
        return False
    begins = not token[0].isalnum() or i == 0 or not tokens[i - 1][-1:].isalnum()
    ends = i + 1 == len(tokens) or not tokens[i + 1][:1].isalnum()
    return not (begins and ends)


def piece_at(window: Window, places: list[Place]) -> int | None:
    """The piece in which the window's peak lies, or None where it lies in white space."""
    begin = sum(len(t) for t in window.tokens[: window.peak])
    text = window.tokens[window.peak]
    begin += len(text) - len(text.lstrip())
    return next((i for i, p in enumerate(places) if p.begin <= begin < p.end), None)


def holds(predicate: dict[str, Any], window: Window) -> bool:
    """Whether a window has any of the predicate's terms."""
    return not terms(window).isdisjoint(predicate["any"])


def in_words(wanted: Iterable[str]) -> str:
    """Terms as a person would say them, one line."""
    by_kind: dict[str, list[str]] = {}
    for term in wanted:
        kind, text = term.split(":", 1)
        by_kind.setdefault(kind, []).append(text)
    said = []
    for kind, texts in by_kind.items():
        quoted = [f"\u201c{text}\u201d" for text in texts]
        if kind in ("word", "bigram"):
            said += quoted
        elif kind == "token":
            said += [f"\u201c{text.strip()}\u2026\u201d" if text[0] == " " else f"\u201c\u2026{text}\u2026\u201d" for text in texts]
        elif kind == "ending":
            said += [f"words in -{text}" for text in texts]
        elif kind == "start":
            said.append("the start of a text")
        else:
            names = {"number": "numbers", "capitalised": "capitalised words", "all capitals": "words in capitals"}
            names["snake_case"] = "names with underscores"
            said += [names.get(text, f"\u201c{text}\u201d") for text in texts]
    return said[0] if len(said) == 1 else ", ".join(said[:-1]) + " or " + said[-1]
