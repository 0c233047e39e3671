"""The random baseline: each latent gets the explanation of another one, taken from a file.

What a scorer makes of these is what explanations score that know the corpus and the style, but not the latent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import ClassVar, Literal, TypeVar

from tasks.clients.base import Reply
from tasks.explainers._from_file import FromFile
from tasks.explainers.base import Explanation, LatentExamples, one_line

T = TypeVar("T")


class AnotherLatents(FromFile):
    """Another latent's explanation, never the latent's own nor one that says the same; ``no_other`` without any."""

    SAYS: ClassVar[Literal["own", "other", "nothing"]] = "other"
    kind: Literal["random"] = "random"

    seed: int = 0
    """Of the draw."""

    def read(self, replies: list[Reply], examples: LatentExamples) -> Explanation:
        latent, found = examples.latent, self.loaded()
        own, others = found.explanations.get(latent), found.ok
        draw = Random(f"{self.seed}/{latent}/explanation")
        for other in _in_any_order(others, draw):
            if other.latent != latent and (own is None or not _same(own, other)):
                label = one_line(other.label, self.max_label_characters)
                return Explanation(latent, "ok", label, None, other.predicate, {"of_latent": other.latent})
        return Explanation(latent, "no_other")


def _in_any_order(items: Sequence[T], draw: Random) -> Iterator[T]:
    """Items at random, with repeats at first, since nearly always the first will do; then all of them."""
    if items:
        yield from (items[draw.randrange(len(items))] for _ in range(8))
        yield from draw.sample(items, len(items))


def _same(one: Explanation, other: Explanation) -> bool:
    return one.label.casefold() == other.label.casefold() or (one.predicate is not None and one.predicate == other.predicate)
