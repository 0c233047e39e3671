"""Keys: the SHA-256 of a recipe, written as canonical JSON.

A key hashes what was asked for, never the bytes that came out, since GPU kernels do not repeat bits.
Bytes get digests of their own when an artifact is committed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NewType

Key = NewType("Key", str)
"""64 lower-case hex characters; shown to people as the first 12."""

SHOWN = 12


@dataclass(frozen=True, order=True)
class Artifact:
    """The address of one artifact, which may not exist yet."""

    stage: str
    key: Key

    def __str__(self) -> str:
        return f"{self.stage}/{self.key[:SHOWN]}"


def _checked(value: Any, where: str) -> Any:
    """A copy in plain JSON types, with what JSON cannot say exactly refused."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} = {value}, but a key takes finite numbers only; use null or a number")
        return value + 0.0  # -0.0 and 0.0 mean the same and must hash the same
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise TypeError(f"{where} has the key {name!r}, but names in a recipe are strings; quote it")
        return {name: _checked(item, f"{where}.{name}") for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [_checked(item, f"{where}[{i}]") for i, item in enumerate(value)]
    raise TypeError(f"{where} is a {type(value).__name__}, but a recipe holds JSON values only; convert it first")


def canonical_json(value: Any) -> bytes:
    """The one spelling of a JSON value: sorted names, no spaces, ASCII, ``1`` and ``1.0`` kept apart.

    Raises ``ValueError`` for numbers that are not finite and ``TypeError`` for anything JSON cannot hold.
    """
    plain = _checked(value, "recipe")
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def digest_of(data: bytes) -> str:
    """SHA-256 of some bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def recipe_json(stage: str, version: int, spec: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What a key hashes. ``inputs`` maps a name to a key, or to a list of keys whose order counts."""
    return {"stage": stage, "version": version, "spec": spec, "inputs": dict(inputs)}


def key_of(stage: str, version: int, spec: Any, inputs: Mapping[str, Any]) -> Key:
    """The key of a recipe."""
    return Key(digest_of(canonical_json(recipe_json(stage, version, spec, inputs))))
