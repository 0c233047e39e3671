"""Latents turned up or down: what is added to the activations of which rows of a batch, at which positions.

In an SAE's own units, x becomes x + strength x (the latent's largest activation) x (its decoder row), or what ``turning``
says of the other modes. The model's activations are the SAE's inputs with the norm undone, so what is added to them is that
sum with the norm undone, less the input with the norm undone: the decoder row in the model's units, at each token in that
token's own scale where a norm has one per token. What is pushed is what the SAE writes: a transcoder's output; of a
crosscoder every hookpoint, each by its own part of the row, but of those in the residual stream the last alone
(``Sites.pushed`` says why). Several SAEs at one hookpoint see what stands there before any of them adds to it.
Shapes: B rows, n rows that are pushed, T tokens, D width of a hookpoint, L watched latents.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from tasks.lazy import np, torch
from tasks.lm.contexts import Context
from tasks.lm.hooks import Edit
from tasks.spec import SpecError
from tasks.steering.turning import Turning

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.trained import TrainedSAE

Mode = Literal["add", "clamp", "ablate", "bias"]
"""``add``: so much is added to the activation; ``clamp``: it is set to so much; ``ablate``: it is set to 0; ``bias``: so much
is added before the encoder chooses which latents are active. Exactly: ``tasks.steering.turning``."""

HOLDS = ("clamp", "ablate")
"""Modes that say what a latent is, so that it cannot be turned otherwise beside them."""

Watched = tuple[str, int]
"""A latent whose activations are wanted: name of the SAE, as ``Push.sae``, and number."""

Positions = Literal["all", "last"]
"""``all``: every token; ``last``: from the last token of the prompt on. BOS and other special tokens are left as they
are: what stands there is an attention sink that no SAE was trained on."""


class Push(NamedTuple):
    """One latent, and how far it is turned."""

    latent: int
    strength: float
    """Multiple of ``largest``; negative turns it down, 0 changes nothing, not a bit, whatever the mode: to hold a latent at
    0 is ``ablate``, where any other strength says that it is on."""

    largest: float = 1.0
    """The latent's largest observed activation (``LatentExamples.max_value``), in units of the SAE's values."""

    mode: Mode = "add"
    sae: str = ""
    """Name of the SAE that it is a latent of; empty for the subject's first."""

    @property
    def amount(self) -> float:
        return self.strength * self.largest

    @property
    def on(self) -> bool:
        """Whether it does anything."""
        return bool(self.strength if self.mode == "ablate" else self.amount)


class Row(NamedTuple):
    """One row of a batch."""

    prompt: Context
    pushes: tuple[Push, ...] = ()
    """Empty for the model as it is."""

    sample: int = 0
    """Tells draws of one prompt apart: equal prompt, seed and sample, equal draws, whatever is pushed."""


def check_latents(sae: Any, latents: Sequence[int]) -> None:
    """Raise ``SpecError`` for a latent that the SAE, whatever has its ``n_latents``, does not have."""
    for latent in latents:
        if not 0 <= latent < sae.n_latents:
            raise SpecError(f"latent = {latent}, but the SAE has latents 0 to {sae.n_latents - 1}; use one of them")


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Raise ``SpecError`` for what is none of a ``Literal``'s values."""
    if value not in get_args(choices):
        raise SpecError(f"{name} = {value!r}, but there is none of that name; use one of {', '.join(get_args(choices))}")


def check_once(pushes: Iterable[Push], where: str = "") -> None:
    """Raise ``SpecError`` for a latent that is held and turned again, or biased twice; ``where`` is their place in a file."""
    modes: dict[tuple[str, int], list[Mode]] = {}
    for i, push in enumerate(pushes):
        own = modes.setdefault((push.sae, push.latent), []) if push.on else []
        name = f"{where}.{i}.latent" if where else "latent"
        if push.mode in own and push.mode != "add":
            raise SpecError(f"{name} = {push.latent}, but it is turned by {push.mode} twice; leave one out")
        if own and not {push.mode, *own}.isdisjoint(HOLDS):
            both = f"{own[0]} and by {push.mode}"
            raise SpecError(f"{name} = {push.latent}, but it is turned by {both}, and what is clamped or ablated is held; leave one out")
        own.append(push.mode)


def check_pushes(saes: Mapping[str, TrainedSAE], pushes: Sequence[Push]) -> None:
    """Raise ``SpecError`` for a push of no SAE, latent or mode that there is, by no number, or of one that is held and turned again."""
    for push in pushes:
        if push.sae not in saes:
            names = ", ".join(name for name in saes if name)
            raise SpecError(f"sae = {push.sae!r}, but the subject has {names or 'one SAE, without a name'}; use one of these")
        check_latents(saes[push.sae], [push.latent])
        check_choice("mode", push.mode, Mode)
        if not math.isfinite(push.amount):
            raise SpecError(f"strength = {push.strength} x {push.largest} for latent {push.latent}, but that is no finite number; give one")
    check_once(pushes)


class Steering:
    """The edits of a batch of rows whose prompts are of one length, and what was measured in its last pass."""

    def __init__(
        self,
        saes: TrainedSAE | Mapping[str, TrainedSAE],
        rows: Sequence[Row],
        positions: Positions = "all",
        watched: Sequence[Watched] | None = None,
    ) -> None:
        """``watched``: latents whose activations are wanted; None: measure nothing. Raises ``SpecError`` for a push that cannot be."""
        held = saes if isinstance(saes, Mapping) else {"": saes}
        for row in rows:
            check_pushes(held, row.pushes)
        self.measures, self.watched = watched is not None, tuple(watched or ())
        check_pushes(held, [Push(latent, 0.0, sae=name) for name, latent in self.watched])
        self._turnings: dict[str, Turning] = {}
        for name, sae in held.items():
            own = [[p for p in row.pushes if p.sae == name and p.on] for row in rows]
            seen = [latent for of, latent in self.watched if of == name]
            if seen or any(own):
                self._turnings[name] = Turning(sae, own, list(dict.fromkeys(seen)))
        where = np.stack([row.prompt.keep for row in rows])
        if positions == "last":
            where = where & (np.arange(where.shape[1]) == where.shape[1] - 1)
        self._where_BT = torch.from_numpy(where)
        self._growth_BT: Tensor | None = None

    def at(self, first: int) -> tuple[Edit, ...]:
        """The edits of a pass over positions ``first`` and following; none where nothing is pushed or watched.

        Positions past the prompts are generated tokens, and all pushed.
        """
        return self.over(partial(self._where, first))

    def over(self, where: Callable[[int], Tensor]) -> tuple[Edit, ...]:
        """The edits of a pass; ``where`` takes its number of tokens to bool [B, T], True where tokens are pushed."""
        self._growth_BT = None
        looks, pushed = [], {}
        for turning in self._turnings.values():
            turning.began()
            looks += [Edit(h, turning.look(h)) for h in turning.sae.sites.reads if turning.reads]
            for hookpoint in turning.sae.sites.pushed if len(turning.rows) else ():
                pushed.setdefault(hookpoint, []).append(turning)
        # all looks before all pushes: where they meet, what is seen is what the model has there
        return (*looks, *(Edit(h, partial(self._pushed, h, where, parts)) for h, parts in pushed.items()))

    def _where(self, first: int, n_tokens: int) -> Tensor:
        n_rows, length = self._where_BT.shape
        generated = self._where_BT.new_ones(n_rows, max(0, first + n_tokens - length))
        return torch.cat([self._where_BT, generated], 1)[:, first : first + n_tokens]

    def _pushed(self, hookpoint: str, where: Callable[[int], Tensor], parts: Sequence[Turning], x_BTD: Tensor) -> Tensor:
        n_tokens = x_BTD.shape[1]
        where_BT = where(n_tokens).to(x_BTD.device)
        more_BTD = torch.zeros(x_BTD.shape, dtype=torch.float32, device=x_BTD.device)
        changed_BT = torch.zeros(x_BTD.shape[:2], dtype=torch.bool, device=x_BTD.device)
        for turning in parts:
            x = x_BTD[turning.rows]
            push = turning.sae.written(turning.change(n_tokens))[hookpoint].reshape(-1, x.shape[-1])
            norm = turning.sae.norm_at(hookpoint)
            with torch.inference_mode():
                y, undo = norm.apply(x.reshape(-1, x.shape[-1]))
                more = (norm.invert(y + push, undo) - norm.invert(y, undo)).view(x.shape)
            more_BTD[turning.rows] += more
            changed_BT[turning.rows] |= (push != 0).any(-1).view(x.shape[:2]) if turning.depends else True
        changed_BT &= where_BT
        edited = torch.where(changed_BT[..., None], (x_BTD.float() + more_BTD).to(x_BTD.dtype), x_BTD)
        if self.measures:
            growth_BT = edited.float().norm(dim=-1) / x_BTD.float().norm(dim=-1).clamp_min(1e-30)
            self._growth_BT = growth_BT if self._growth_BT is None else torch.maximum(self._growth_BT, growth_BT)
        return edited

    def measured(self) -> tuple[Tensor | None, Tensor | None]:
        """Of the pass that has run: activations_BTL of what is watched, as the SAEs read them before anything was added there,
        and growth_BT, the length of a row at a pushed hookpoint over what it was before (of several hookpoints the
        largest). None for what nobody watches, or nothing pushes."""
        own = {name: turning.activations() for name, turning in self._turnings.items()}
        places = {name: list(turning.watched) for name, turning in self._turnings.items()}
        columns = [own[name][..., places[name].index(latent)] for name, latent in self.watched]
        return torch.stack(columns, -1) if columns else None, self._growth_BT
