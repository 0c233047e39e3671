"""The artifacts that the latents of one SAE are browsed from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from artifacts.store import Opened


@dataclass(frozen=True)
class Explained:
    """Explanations of one explainer, and their scores."""

    explain: Opened
    name: str
    """For people: the explainer, and what tells it from others on the shelf."""

    scores: Mapping[str, Opened] = field(default_factory=dict)
    """By the scorer's name, which is one for all explanations on the shelf that it scores."""


@dataclass(frozen=True)
class Shelf:
    """What there is on one SAE."""

    mine: Opened
    """Windows, densities, promoted tokens."""

    explained: tuple[Explained, ...] = ()
    """The newest first: of several labels of a latent the first that is one is shown."""

    sae: Opened | None = None
    """For the nearest latents."""

    corpus: Opened | None = None
    """For whole sentences."""
