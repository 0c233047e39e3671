"""Texts that come to be, token by token, with what is measured of them on the way. Shapes: T tokens, L watched latents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tasks.lazy import np
from tasks.steering.meters import repetition
from tasks.steering.push import Positions, Row, Steering, Watched
from tasks.steering.sampling import Draws

if TYPE_CHECKING:
    import numpy as np

    from tasks.steering.subject import Subject


@dataclass
class Written:
    """One row so far."""

    row: Row
    token_ids: list[int] = field(default_factory=list)
    """What follows the prompt, the end of a text left out."""

    text: str = ""
    """The same, as text."""

    over: bool = False
    """Whether it goes on no more: the model ended it, or there is no room for more."""

    activation_TL: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """Of the watched latents, at each token of prompt and text that the model has read, in units of the SAE's values; 0 at BOS
    and other special tokens of the prompt. What the SAE reads there, before anything is added: what the text itself evokes.
    While the row goes on, its last token has not been read."""

    growth_T: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    """Of the same tokens, the length of the pushed activations over what it was before; 1 where nothing was pushed."""

    @property
    def repetition(self) -> float:
        """See ``meters.repetition``."""
        return repetition(self.token_ids)

    @property
    def growth(self) -> float:
        """Mean of ``growth_T`` over the text; 1 for none."""
        own = self.growth_T[len(self.row.prompt.token_id) :]
        return float(own.mean()) if len(own) else 1.0


class Writing(Iterator[tuple[int | None, ...]]):
    """Rows that are continued together: each step is a token of every row, None for one that is over.

    ``close`` stops at any step; the model is another's as soon as the step that runs has ended. Rows of one length make a
    batch, and batches take turns, so that a row comes out as it does by itself.
    """

    def __init__(
        self,
        subject: Subject,
        rows: Sequence[Row],
        n_tokens: int,
        temperature: float,
        top_p: float,
        seed: int,
        positions: Positions,
        watched: Sequence[Watched] | None,
    ) -> None:
        self.subject, self.watched = subject, None if watched is None else tuple(watched)
        self.rows = [Written(row, activation_TL=np.zeros((0, len(self.watched or ())), np.float32)) for row in rows]
        groups = []
        for members, token_BT, steering in subject.batches(rows, positions, n_tokens, True, self.watched):
            draws = Draws(subject.keys([rows[i] for i in members], seed), len(token_BT), temperature, top_p)

            def passed(members: list[int] = members, steering: Steering = steering) -> None:
                self._measure(members, steering)

            steps = subject.steps(
                len(members), token_BT, steering, n_tokens, draws, None if self.watched is None else passed
            )
            groups.append((members, steps))
        self._groups = groups
        self._steps = self._together()

    def __next__(self) -> tuple[int | None, ...]:
        return next(self._steps)

    def close(self) -> None:
        """Stop here; what was written stays."""
        self._steps.close()
        for _, steps in self._groups:
            steps.close()
        self._groups = []

    def finish(self) -> list[Written]:
        """Go on to the end; returns the rows."""
        for _ in self:
            pass
        return self.rows

    def _together(self) -> Iterator[tuple[int | None, ...]]:
        while self._groups:
            found: list[int | None] = [None] * len(self.rows)
            for group in list(self._groups):
                members, steps = group
                tokens = next(steps, None)
                if tokens is None:
                    self._groups.remove(group)
                for i, token in zip(members, tokens or [None] * len(members), strict=True):
                    self._take(self.rows[i], token)
                    found[i] = token
            if self._groups:
                yield tuple(found)

    def _take(self, written: Written, token: int | None) -> None:
        if token is None:
            written.over = True
        else:
            written.token_ids.append(token)
            written.text = self.subject.text_after(written.row.prompt, written.token_ids)

    def _measure(self, members: Sequence[int], steering: Steering) -> None:
        value_BTL, growth_BT = steering.measured()
        for place, i in enumerate(members):
            one = self.rows[i]
            if one.over:
                continue
            # all that has been written is in the cache or was in this pass, which begins where those before it ended
            n = len(one.row.prompt.token_id) + len(one.token_ids)
            value = np.zeros((n, 0), np.float32) if value_BTL is None else value_BTL[place].cpu().numpy()
            growth = np.ones(n, np.float32) if growth_BT is None else growth_BT[place].cpu().numpy()
            one.activation_TL, one.growth_T = _ending(one.activation_TL, value, n), _ending(one.growth_T, growth, n)
            one.activation_TL[: len(one.row.prompt.keep)][~one.row.prompt.keep] = 0


def _ending(held: np.ndarray, new: np.ndarray, n: int) -> np.ndarray:
    """``n`` rows of which the last are the new ones."""
    return np.concatenate([held[: n - len(new)], new])
