"""Sites: the hookpoints that an SAE reads, and those that it writes.

``layers.8`` is read and given back; ``layers.8.mlp_in:layers.8.mlp`` reads one place and gives what stands at another (a
transcoder); ``layers.7+layers.8`` reads both side by side, as one wide row, and gives both back (a crosscoder). Sides of a
transcoder may be wide, too. A row of an SAE's data holds all of its hookpoints, each once: those it reads, then
those that it writes without reading them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from tasks.lm.hookpoints import Hookpoint
from tasks.spec import SpecError

if TYPE_CHECKING:
    from artifacts.aligned import Shard
    from artifacts.store import Opened

T = TypeVar("T")


@dataclass(frozen=True)
class Sites:
    """Where an SAE stands, as hookpoints in their canonical spelling."""

    reads: tuple[str, ...]
    """Side by side, what the encoder reads."""

    writes: tuple[str, ...]
    """Side by side, what the decoder gives."""

    @staticmethod
    def parse(text: str, where: str = "capture.hookpoints") -> Sites:
        """Read ``a``, ``a+b`` or ``reads:writes``. Raises ``SpecError``."""
        sides = [
            tuple(str(Hookpoint.parse(one.strip(), where)) for one in side.split("+")) for side in str(text).split(":")
        ]
        if len(sides) > 2:
            raise SpecError(f"{where} = {text!r}, but an SAE has one side to read and one to write; write reads:writes")
        for side in sides:
            if len(set(side)) < len(side):
                raise SpecError(f"{where} = {text!r}, but it names a hookpoint twice on one side; name each once")
        return Sites(sides[0], sides[-1])

    def __str__(self) -> str:
        return "+".join(self.reads) + ("" if self.gives_back else ":" + "+".join(self.writes))

    @property
    def gives_back(self) -> bool:
        """Whether what is read is what is written: an SAE or a crosscoder, and no transcoder."""
        return self.reads == self.writes

    @property
    def one(self) -> bool:
        """Whether there is one hookpoint, which is read and written: a plain SAE."""
        return self.gives_back and len(self.reads) == 1

    @cached_property
    def hookpoints(self) -> tuple[str, ...]:
        """Each once, in the order of a row."""
        return tuple(dict.fromkeys((*self.reads, *self.writes)))

    @property
    def pushed(self) -> tuple[str, ...]:
        """Where a latent that is turned up is added to the model.

        At every hookpoint that is written, but of several in the residual stream at the last alone: it carries on what was added
        to it before, and a latent added once more on top of itself would be added twice.
        """
        stream = [h for h in self.writes if Hookpoint.parse(h).of_stream]
        last = max(stream, key=lambda h: Hookpoint.parse(h).place, default=None)
        return tuple(h for h in self.writes if h not in stream or h == last)

    def check(self, n_layers: int, model: str, where: str = "capture.hookpoints") -> None:
        """Raise ``SpecError`` when the model has not all of these layers."""
        for hookpoint in self.hookpoints:
            Hookpoint.parse(hookpoint).check(n_layers, model, where)

    def widths(self, facts: Any) -> tuple[int | None, int | None]:
        """Numbers that are read and that are written, from the ``Facts`` of a model; None where they do not tell."""
        sides = ([Hookpoint.parse(h).width(facts) for h in side] for side in (self.reads, self.writes))
        d_in, d_out = (None if None in side else sum(w or 0 for w in side) for side in sides)
        return d_in, d_out


def shards_at(opened: Sequence[Opened], hookpoints: Sequence[str]) -> list[Shard]:
    """The shards of some captures, the rows of several hookpoints side by side. Captures of one stand in the order of their shards.

    Raises ``ArtifactError`` for captures that are not of the same tokens, and ``SpecError`` where a hookpoint has none.
    """
    from artifacts.activations import Activations
    from artifacts.aligned import Aligned

    def held(one: Opened) -> Activations:
        return Activations.open(one.path, str(one.artifact))

    if len(hookpoints) == 1:  # then there is none of another
        return [held(one) for one in opened]
    found = grouped(opened, hookpoints, lambda one: one.summary["hookpoint"])
    return [Aligned([held(one) for one in shard]) for shard in found]


def grouped(captures: Sequence[T], hookpoints: Sequence[str], of: Callable[[T], str]) -> list[tuple[T, ...]]:
    """Captures of several hookpoints by shard: for each, one of every hookpoint, in their order. ``of`` tells a capture's hookpoint."""
    found: dict[str, list[T]] = {name: [] for name in hookpoints}
    for one in captures:
        if of(one) in found:
            found[of(one)].append(one)
    counts = {name: len(shards) for name, shards in found.items()}
    if len(set(counts.values())) > 1 or 0 in counts.values():
        said = ", ".join(f"{n} at {name}" for name, n in counts.items())
        raise SpecError(f"shards = {said}, but an SAE of several hookpoints needs as many of each; capture them together")
    return list(zip(*found.values(), strict=True))
