"""What the report says of the artifacts that it rests on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from artifacts.store import Opened


def provenance(inputs: Sequence[Opened]) -> list[dict[str, Any]]:
    """Stage, key, settings and maker of each artifact that the report rests on."""
    return [
        {
            "stage": opened.artifact.stage,
            "key": opened.artifact.key,
            "spec": json.dumps(opened.manifest.spec, indent=1, sort_keys=True),
            **{name: opened.manifest.made_by.get(name) for name in ("when", "host", "seconds", "python", "versions")},
        }
        for opened in inputs
    ]
