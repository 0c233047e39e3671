"""What is looked for among the latents of an SAE, and what is found. Shapes: F found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np

Sort = Literal["best", "latent", "score", "density", "max", "surprise", "interest", "here"]
SORTS: dict[Sort, str] = {
    "best": "best match",
    "score": "score, the surest first",
    "interest": "interest",
    "surprise": "surprise: seldom first",
    "density": "density",
    "max": "largest activation",
    "latent": "latent",
    "here": "activation on the text",
}
"""How results may be sorted, with what that means. ``best`` is the best match, and without words the surest score."""

_DIGITS = 21
"""Of what is taken for a number, fewer."""


@dataclass(frozen=True)
class Query:
    """What is looked for."""

    text: str = ""
    """Words of labels, each whole or its beginning; or a latent's number, which stands before labels that have it."""

    sort: Sort = "best"
    reverse: bool = False
    statuses: tuple[str, ...] = ()
    """Only latents of these; empty is every status."""

    scorer: str | None = None
    """Whose scores count; None is the first."""

    min_score: float | None = None
    min_density: float | None = None
    """Share of tokens on which a latent fires."""

    max_density: float | None = None
    among: Mapping[int, float] | None = None
    """Only these latents, with how strong each is where it was looked for (``here``)."""

    @property
    def number(self) -> int | None:
        """The latent that the text is the number of, ``948`` or ``#948``; None where it is no number."""
        typed = self.text.strip().removeprefix("#")
        return int(typed) if typed.isascii() and typed.isdigit() and len(typed) < _DIGITS else None


class Found(NamedTuple):
    """Latents in the order asked for."""

    latents_F: np.ndarray
    """int64."""

    every_word: bool
    """False where no latent has all words of the text, and those are given that have some."""

    @property
    def n(self) -> int:
        return len(self.latents_F)
