"""Several questions in one request, and their answers told apart by id.

Every window has an id, in the question and in the answer: ``{"answers": {"01": true, "02": false}}``. A bare list of
booleans is half as long, but where a judge leaves one out, all that follow belong to the wrong windows, or the whole
request is lost; a list of the ids that fit cannot tell a window that was overlooked from one that does not fit. With
ids a slip costs one window. The schema names them all, so a server that holds to schemas cannot leave one out, and
the judge writes down which window it speaks of just before it does.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tasks.clients.base import Reply, TokenLogprobs
from tasks.explainers.base import printable

BOOLEAN: dict[str, Any] = {"type": "boolean"}
_LITERAL = re.compile(r'"(?:[^"\\]|\\.)*"|true|false|-?\d+(?:\.\d+)?')


def packed(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """Consecutive parts of nearly equal length, none longer than ``size``."""
    n_parts = -(-len(items) // size)
    bounds = [len(items) * i // n_parts for i in range(n_parts + 1)] if n_parts else []
    return [items[a:b] for a, b in itertools.pairwise(bounds)]


def ids(n: int) -> list[str]:
    """The names of ``n`` things in one request: 1 to n, of one width, so that sorted by any means they are in order."""
    return [f"{i + 1:0{len(str(n))}}" for i in range(n)]


def schema(n: int, answer: Mapping[str, Any] = BOOLEAN) -> dict[str, Any]:
    """The JSON schema of ``n`` answers by id. Everything is required, as strict servers want it."""
    names = ids(n)
    inner = {
        "type": "object",
        "properties": {name: dict(answer) for name in names},
        "required": names,
        "additionalProperties": False,
    }
    return {
        "type": "object", "properties": {"answers": inner}, "required": ["answers"], "additionalProperties": False,
    }  # fmt: skip


def question(windows: Sequence[Any], label: str | None = None, name: str = "windows") -> str:
    """A user turn: things by id, after the description that they are held against."""
    said = {} if label is None else {"description": printable(label)}
    asked = {**said, name: dict(zip(ids(len(windows)), windows, strict=True))}
    return json.dumps(asked, ensure_ascii=False, separators=(",", ":"))


def answers_in(reply: Reply) -> dict[str, Any]:
    """The answers of a reply by id; empty when it holds none, or several that differ.

    An id that is answered twice is left out: which of the two was meant is unknown.
    """
    if reply.status != "ok":
        return {}
    found = [parsed["answers"] for parsed in _objects(reply.text) if isinstance(parsed.get("answers"), dict)]
    if not found or any(other != found[0] for other in found):
        return {}
    return {name: value for name, value in found[0].items() if value is not _TWICE}


def why_not(reply: Reply) -> str:
    """The status of an answer that a reply does not hold."""
    return "unparsable" if reply.status == "ok" else reply.status


_TWICE = object()
_TRIES = 100
"""Braces looked behind: a reply of braces alone would take time that grows with the square of its length."""


def _objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects in a text, outermost only: servers without schemas put prose or fences around them."""
    decoder = json.JSONDecoder(object_pairs_hook=_once)
    found, at = [], text.find("{")
    for _ in range(_TRIES):
        if at < 0:
            break
        try:
            parsed, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            at = text.find("{", at + 1)
            continue
        found.append(parsed)
        at = text.find("{", end)
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        found[name] = _TWICE if name in found else value
    return found


def places(text: str) -> dict[str, int]:
    """Where in a text each answer's literal (a boolean or a number) begins, by id; ids that occur twice are left out."""
    found: dict[str, int] = {}
    twice, name = set(), ""
    for match in _LITERAL.finditer(text):
        if match[0][0] == '"':
            name = match[0][1:-1]
        elif name in found:
            twice.add(name)
        else:
            found[name] = match.start()
    return {name: at for name, at in found.items() if name not in twice}


class _Options(NamedTuple):
    """What might have stood at a place of a reply."""

    before: str
    """What the token there holds before the place: some tokenisers join marks to what follows."""

    likely: dict[str, float]
    """Tokens with their probabilities."""

    after: dict[str, float]
    """The same of the token that follows; empty at the end."""


def options(reply: Reply, at: int) -> _Options | None:
    """What might have stood at a character of a reply; None without log-probabilities whose tokens make up its text."""
    logprobs = reply.logprobs
    if not logprobs or "".join(token.token for token in logprobs) != reply.text:
        return None
    end = 0
    for i, token in enumerate(logprobs):
        begin, end = end, end + len(token.token)
        if begin <= at < end:
            after = _likely(logprobs[i + 1]) if i + 1 < len(logprobs) else {}
            return _Options(reply.text[begin:at], _likely(token), after)
    return None


def _likely(token: TokenLogprobs) -> dict[str, float]:
    return {text: math.exp(p) for text, p in {**token.top, token.token: token.logprob}.items()}


def probabilities(reply: Reply) -> dict[str, float]:
    """P(true) / (P(true) + P(false)) of each answer by id, where the reply has log-probabilities that tell."""
    if reply.logprobs is None:
        return {}
    found = {}
    for name, at in places(reply.text).items():
        there = options(reply, at)
        if there is None:
            continue
        mass = {"true": 0.0, "false": 0.0}
        for token, p in there.likely.items():
            word = _after(there.before, token)
            for literal in mass:
                if word and (literal.startswith(word) or word.startswith(literal)):
                    mass[literal] += p
        if 0 < sum(mass.values()) < math.inf:
            found[name] = mass["true"] / sum(mass.values())
    return found


def numbers(reply: Reply, name: str, largest: int) -> dict[int, float]:
    """Probabilities of the whole numbers from 0 to ``largest``, at most 10, as an answer; empty where none are known."""
    at = places(reply.text).get(name)
    there = None if at is None else options(reply, at)
    if at is None or there is None:
        return {}
    mass: dict[int, float] = {}
    for token, p in there.likely.items():
        digits = re.match("[0-9]{1,9}", _after(there.before, token))
        if digits and int(digits[0]) <= largest:
            mass[int(digits[0])] = mass.get(int(digits[0]), 0.0) + p
    said = re.match("[0-9]{1,9}", reply.text[at:])
    if largest == 10 and mass.get(1) and "10" not in map(str.strip, there.likely) and said and said[0] in ("1", "10"):
        # Digits one by one: of the ones, the next token says which share are tens.
        ten = min(1.0, sum(p for token, p in there.after.items() if token.startswith("0")))
        mass |= {10: mass[1] * ten, 1: mass[1] * (1 - ten)}
    return mass


def _after(before: str, token: str) -> str:
    """What a token holds from the place of the literal on; nothing when it differs before that."""
    if before.strip():
        return token.removeprefix(before).strip() if token.startswith(before) else ""
    return token.strip()
