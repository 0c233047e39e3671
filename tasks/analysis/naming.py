"""Names for people: short, and different for what differs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any


def titles(specs: Sequence[Mapping[str, Any]], noun: str) -> list[str]:
    """A name for each spec of a stage: the kind of its ``noun`` (``scorer``, ``explainer``), and of several of a kind what
    tells them apart."""
    kinds = [spec[noun]["kind"] for spec in specs]
    flat = [dict(_leaves({n: v for n, v in spec.items() if n != "control"})) for spec in specs]
    found: list[str] = []
    for kind, fields in zip(kinds, flat, strict=True):
        alike = [other for other_kind, other in zip(kinds, flat, strict=True) if other_kind == kind]
        names = sorted({name for other in alike for name in other if any(o.get(name) != fields.get(name) for o in alike)})
        own = [f"{name.removeprefix(f'{noun}.')}={fields.get(name)}" for name in names]
        found.append(" ".join([kind, *own]))
    often: Counter[str] = Counter()
    for i, name in enumerate(found):  # the same, twice
        often[name] += 1
        if often[name] > 1:
            found[i] = f"{name} ({often[name]})"
    return found


def _leaves(value: Mapping[str, Any], at: str = "") -> list[tuple[str, Any]]:
    """Dotted name to value of all that a mapping holds, lists as their JSON."""
    found: list[tuple[str, Any]] = []
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            found += _leaves(inner, f"{at}{name}.")
        else:
            found.append((f"{at}{name}", json.dumps(inner) if isinstance(inner, (list, tuple)) else inner))
    return found
