"""What the pushes of one SAE add to the rows of a batch, in that SAE's own units, as a pass of the model comes by.

Every push is reckoned from what the SAE reads in this pass, before anything is added there, and what they come to is
added up, so that their order does not matter:

* ``add``: the decoder row, so many times. Reads nothing.
* ``clamp``: the decoder row times what the activation lacks of the amount, at each token by what it is there.
* ``ablate``: the same with an amount of 0, so that only tokens where the latent is active change.
* ``bias``: the latent's pre-activation is raised by the amount before the encoder chooses which latents are active, as
  SAINT did, and what is added is how the reconstruction changes. The SAE's error stays in the model, so that a latent
  that is not chosen even so changes nothing.

Shapes: B rows of a batch, n rows of it that are pushed, T tokens, O d_out, N n_latents, A latents asked about, K active ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tasks.lazy import torch
from tasks.lm.hookpoints import Hookpoint
from tasks.sparse import weighted_rows
from tasks.spec import SpecError

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.saes.base import SAE, Latents
    from tasks.steering.push import Push
    from tasks.trained import TrainedSAE

ROWS = 8
"""A CPU's batches are filled up to a multiple of it. The last few rows of a matrix product take another path, and round
otherwise; so filled up, a row comes out the same, bit for bit, however many others are beside it (seen with MKL on
GPT-2, GPT-NeoX and Llama with 1 to 4 threads; with more, some sizes differ in the last bit)."""


class Turning:
    """One SAE in one batch."""

    def __init__(self, sae: TrainedSAE, pushes: Sequence[Sequence[Push]], watched: Sequence[int] = ()) -> None:
        """``pushes``: of each row; ``watched``: latents whose activations are wanted of all rows."""
        self.sae = sae
        W_ND = sae.W_dec_ND
        turned = [i for i, own in enumerate(pushes) if own]
        self.rows = torch.tensor(turned, dtype=torch.int64, device=W_ND.device)
        self._fixed_nO = torch.stack([
            sum((p.amount * W_ND[p.latent].float() for p in pushes[i] if p.mode == "add"), W_ND.new_zeros(sae.d_out))
            for i in turned
        ]) if turned else W_ND.new_zeros(0, sae.d_out)  # fmt: skip
        held = {p.latent for i in turned for p in pushes[i] if p.mode in ("clamp", "ablate")}
        self.watched = tuple(watched)
        asked = list(dict.fromkeys((*watched, *sorted(held))))
        self._column_N = torch.full((sae.n_latents,), -1, dtype=torch.int64, device=W_ND.device)
        self._column_N[asked] = torch.arange(len(asked), device=W_ND.device)
        self._n_asked = len(asked)
        self._held = [(latent, asked.index(latent), *_aims(pushes, turned, latent, W_ND.device)) for latent in sorted(held)]
        self._biased = self._raised(pushes, turned)
        self.reads = bool(asked or self._biased)
        """Whether it needs what the SAE reads."""
        if held or self._biased:
            self._check_order()
        self._seen: dict[str, Tensor] = {}
        self._value_BTA: Tensor | None = None
        self._change_nTO: Tensor | None = None

    def _raised(self, pushes: Sequence[Sequence[Push]], turned: Sequence[int]) -> list[tuple[Tensor, Tensor, SAE]]:
        """Rows whose biases are equal: their places in the batch (filled up) and among those turned, and the SAE so biased."""
        groups: dict[tuple[tuple[int, float], ...], list[int]] = {}
        for place, i in enumerate(turned):
            if bias := tuple(sorted((p.latent, p.amount) for p in pushes[i] if p.mode == "bias")):
                groups.setdefault(bias, []).append(place)
        device, found = self.sae.W_dec_ND.device, []
        for bias, places in groups.items():
            fill = -len(places) % ROWS if device.type == "cpu" else 0
            rows = torch.tensor([turned[place] for place in [*places, *places[:1] * fill]], device=device)
            found.append((rows, torch.tensor(places, device=device), self.sae.sae.raised(dict(bias))))
        return found

    def _check_order(self) -> None:
        """Raise ``SpecError`` for an SAE that is to be pushed before all that it reads has been computed."""
        sites = self.sae.sites
        last = max(sites.reads, key=lambda h: Hookpoint.parse(h).place)
        early = [h for h in sites.pushed if Hookpoint.parse(h).place < Hookpoint.parse(last).place]
        if early:
            raise SpecError(
                f"sae.hookpoint = {self.sae.hookpoint!r}, where latents are pushed at {early[0]}, but they are known only after "
                f"{last}, so that they can be neither clamped, ablated nor biased there; use mode add"
            )

    def began(self) -> None:
        """A pass begins: nothing of it has been seen."""
        self._seen, self._value_BTA, self._change_nTO = {}, None, None

    def look(self, hookpoint: str) -> Callable[[Tensor], None]:
        """What sees a hookpoint that the SAE reads; the last of them makes latents of it."""

        def look(x_BTD: Tensor) -> None:
            self._seen[hookpoint] = x_BTD
            if len(self._seen) == len(self.sae.sites.reads):
                with torch.inference_mode():
                    self._read(self.sae.read({h: x.float() for h, x in self._seen.items()}))
                self._seen = {}

        return look

    def _read(self, x_BTD: Tensor) -> None:
        n_rows, n_tokens, d = x_BTD.shape
        normed = self.sae.norm.apply(x_BTD.reshape(-1, d))[0]
        latents = self.sae.sae.encode(normed)
        value = columns(latents, self._column_N, self._n_asked)
        self._value_BTA = value.view(n_rows, n_tokens, -1)
        if not len(self.rows):
            return
        change = self._fixed_nO[:, None].expand(-1, n_tokens, -1).clone()
        own_nTA = self._value_BTA[self.rows]
        for latent, column, set_n, target_n in self._held:
            lacks_nT = torch.where(set_n[:, None], target_n[:, None] - own_nTA[..., column], 0.0)
            change += lacks_nT[..., None] * self.sae.W_dec_ND[latent].float()
        for rows, places, biased in self._biased:
            before = _of(latents, rows, n_tokens)
            after = biased.encode(normed.view(n_rows, n_tokens, d)[rows].reshape(-1, d))
            index, value = (x[: len(places) * n_tokens] for x in differences(before, after))
            more = weighted_rows(index, self.sae.W_dec_ND, value.to(self.sae.W_dec_ND.dtype))
            change[places] += more.view(len(places), n_tokens, -1).float()
        self._change_nTO = change

    def change(self, n_tokens: int) -> Tensor:
        """What is added to what the SAE writes: [n, T, O], float32, in its own units."""
        if self._change_nTO is not None:
            return self._change_nTO
        return self._fixed_nO[:, None].expand(-1, n_tokens, -1)

    @property
    def depends(self) -> bool:
        """Whether it differs from token to token, and may be nothing at some."""
        return bool(self._held or self._biased)

    def activations(self) -> Tensor | None:
        """value_BTA of the watched latents in this pass, in their order, before anything was added where they are read."""
        return None if self._value_BTA is None else self._value_BTA[..., : len(self.watched)]


def columns(rows: Latents, column_N: Tensor, n: int) -> Tensor:
    """value_BL of the latents that ``column_N`` gives a column; -1 stands for latents that are not asked about."""
    column_BK = column_N[rows.index_BK]
    value_BL = rows.value_BK.new_zeros(len(column_BK), n + 1, dtype=torch.float32)
    # added, not put: padding has value 0 and may name a latent that is active too
    value_BL.scatter_add_(1, torch.where(column_BK < 0, n, column_BK), rows.value_BK.float() * (column_BK >= 0))
    return value_BL[:, :n]


def differences(before: Latents, after: Latents) -> Latents:
    """By how much each latent of a token differs; nothing but 0 where both have it alike. Values may be negative."""
    index, order = torch.cat([after.index_BK, before.index_BK], 1).sort(dim=1, stable=True)
    value = torch.cat([after.value_BK, -before.value_BK], 1).gather(1, order)
    place = torch.zeros_like(index)
    place[:, 1:] = (index[:, 1:] != index[:, :-1]).cumsum(1)
    summed = torch.zeros_like(value).scatter_add_(1, place, value)
    return type(after)(torch.zeros_like(index).scatter_(1, place, index), summed)


def _aims(pushes: Sequence[Sequence[Push]], turned: Sequence[int], latent: int, device: object) -> tuple[Tensor, Tensor]:
    """For each row that is turned, whether a latent is held there, and at which activation."""
    own = [next((p for p in pushes[i] if p.latent == latent and p.mode in ("clamp", "ablate")), None) for i in turned]
    target = [0.0 if p is None or p.mode == "ablate" else p.amount for p in own]
    return torch.tensor([p is not None for p in own], device=device), torch.tensor(target, device=device)


def _of(latents: Latents, rows: Tensor, n_tokens: int) -> Latents:
    """The latents of some rows of a batch."""
    return type(latents)(*(x.view(-1, n_tokens, x.shape[1])[rows].reshape(-1, x.shape[1]) for x in latents))
