"""What is known of latents before anybody looks: labels and scores of them, how strong and how often they were on a corpus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Known:
    """One latent, as stages before have it."""

    status: str = ""
    """Of its explanation: ``ok``, or why there is none; empty for a latent that nobody asked about."""

    label: str = ""
    scores: Mapping[str, float | None] = field(default_factory=dict)
    """Scorer to score of the label."""

    largest: float | None = None
    """Its largest activation on the corpus that windows of it were mined from."""

    density: float | None = None
    """Share of that corpus' tokens on which it is active."""


NOTHING = Known()
