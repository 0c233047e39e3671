"""SAINT's free-text replies: prose, then a JSON object with ``common_semantic`` and ``certainty``.

Format: yym68686/saint, ``responses_*.json`` (batch id to latent to content, model and token counts), and what its
parser kept of them, ``aggregated_*.json`` (latent to certainty and common_semantic). An import only: we ask for JSON
under a schema instead. Its parser took the text from the last ``{`` and asserted a float; refusals, braces in the text
and a certainty of 1 ended it.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tasks.explainers.base import Explanation, last_object, one_line
from tasks.spec import SpecError


class Parsed(NamedTuple):
    """What a reply says, as it says it."""

    common_semantic: str
    certainty: float


class SaintReplies:
    """Reader of SAINT's stored replies, gzipped or not."""

    def read(self, path: Path | str) -> Iterator[Explanation]:
        """One explanation per stored reply, in the file's order. Raises ``SpecError`` for another kind of file."""
        for batch, replies in _mapping(path, "replies by batch").items():
            for latent, reply in _entries(replies, path).items():
                content = reply.get("content")
                text = content if isinstance(content, str) else ""
                evidence = {
                    "batch": batch,
                    "model": reply.get("model"),
                    "input_tokens": reply.get("input_tokens"),
                    "output_tokens": reply.get("output_tokens"),
                }
                found = parse(text)
                if found is None:
                    yield Explanation(int(latent), "unparsable", evidence={**evidence, "text": text[-500:]})
                else:
                    said = found.common_semantic
                    label = said if said.isprintable() else one_line(said, 1000)
                    yield Explanation(int(latent), "ok", label, found.certainty, evidence=evidence)

    def aggregate(self, path: Path | str) -> dict[int, Parsed]:
        """SAINT's own aggregate of its replies."""
        entries = _entries(_mapping(path, "latents"), path)
        return {int(n): Parsed(e["common_semantic"], float(e["certainty"])) for n, e in entries.items()}


def parse(text: str) -> Parsed | None:
    """The last JSON object in a text that is an answer; None when there is none."""
    return _answer(last_object(text, lambda found: _answer(found) is not None))


def _answer(found: Any) -> Parsed | None:
    if not isinstance(found, dict):
        return None
    said, certainty = found.get("common_semantic"), found.get("certainty")
    if not isinstance(said, str) or not said.strip():
        return None
    if isinstance(certainty, bool) or not isinstance(certainty, (int, float)):
        return None
    if not (math.isfinite(certainty) and 0 <= certainty <= 1):
        return None
    return Parsed(said, float(certainty))


def _mapping(path: Path | str, what: str) -> dict[str, Any]:
    data = Path(path).read_bytes()
    try:
        found = json.loads(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
    except (ValueError, OSError, EOFError) as error:
        raise SpecError(f"path = {str(path)!r}, but it is not JSON ({error}); use a file of SAINT's {what}") from None
    if not isinstance(found, dict):
        raise SpecError(f"path = {str(path)!r}, but it does not hold {what}; use a file that SAINT wrote")
    return found


def _entries(found: Any, path: Path | str) -> dict[str, dict[str, Any]]:
    fine = isinstance(found, dict) and all(n.isdigit() and isinstance(e, dict) for n, e in found.items())
    if not fine:
        raise SpecError(f"path = {str(path)!r}, but its entries are not named by latents; use a file that SAINT wrote")
    return found
