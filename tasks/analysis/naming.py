"""Names for people: short, and different for what differs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

_FIRST = ("client.model", "client.kind")
"""What people tell judges apart by, where it does."""


def titles(specs: Sequence[Mapping[str, Any]], noun: str) -> list[str]:
    """A name for each spec of a stage: the kind of its ``noun`` (``scorer``, ``explainer``), and of several of a kind as few
    of its fields as tell them apart."""
    kinds = [spec[noun]["kind"] for spec in specs]
    flat = [dict(_leaves({n: v for n, v in spec.items() if n != "control"})) for spec in specs]
    found = []
    for kind, fields in zip(kinds, flat, strict=True):
        alike = [other for other_kind, other in zip(kinds, flat, strict=True) if other_kind == kind]
        found.append(" ".join([kind, *(f"{_short(name)}={_text(fields.get(name))}" for name in _telling(alike, noun))]))
    often: Counter[str] = Counter()
    for i, name in enumerate(found):  # the same, twice
        often[name] += 1
        if often[name] > 1:
            found[i] = f"{name} ({often[name]})"
    return found


def _telling(alike: Sequence[Mapping[str, Any]], noun: str) -> list[str]:
    """Fields that tell some specs of one kind apart, each chosen because those before it do not."""
    names = {name for fields in alike for name in fields}
    place = {name: i for i, name in enumerate(_FIRST)}
    order = sorted(names, key=lambda name: (place.get(name, len(place)), not name.startswith(f"{noun}."), name))
    chosen: list[str] = []
    groups = 1
    for name in order:
        if (n := len({tuple(fields.get(one) for one in [*chosen, name]) for fields in alike})) > groups:
            chosen, groups = [*chosen, name], n
    return chosen


def _short(name: str) -> str:
    return name.rpartition(".")[2] if name in _FIRST else name.partition(".")[2] or name


def _text(value: Any) -> str:
    return "none" if value is None else str(value)


def _leaves(value: Mapping[str, Any], at: str = "") -> list[tuple[str, Any]]:
    """Dotted name to value of all that a mapping holds, lists as their JSON."""
    found: list[tuple[str, Any]] = []
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            found += _leaves(inner, f"{at}{name}.")
        else:
            found.append((f"{at}{name}", json.dumps(inner) if isinstance(inner, (list, tuple)) else inner))
    return found
