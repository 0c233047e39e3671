"""What is found of prompts. Shapes: T tokens of a prompt, BOS and other special ones among them; K active latents of a token.

Special tokens keep their own activation in every run, as ``tasks.evaluate`` has it: what stands there is an attention
sink that no SAE was trained on. So they have no latents and no error here (nan), but a loss they have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from tasks.lazy import np
from tasks.metrics import Reconstruction

if TYPE_CHECKING:
    import numpy as np

RUNS = ("clean", "sae", "zero")
"""The model as it is; with the SAE's reconstruction in place of the activation; with zero in place of it."""


class Guess(NamedTuple):
    """A token that may come next."""

    token_id: int
    token: str
    probability: float


class RunSeen(NamedTuple):
    """One run of the language model over a prompt."""

    loss_T: np.ndarray
    """float64, nats of each token given those before it; nan for a token that nothing stands before."""

    kl_T: np.ndarray
    """float64, KL(clean || this run) of the prediction of each token, nats; nan where ``loss_T`` is, 0 for the clean run."""

    guesses: tuple[Guess, ...]
    """The likeliest tokens after the prompt, likeliest first."""


class Attributed(NamedTuple):
    """How much each active latent does for the prediction of one next token, to first order.

    Value times the derivative of the token's log-probability with respect to that value, at the model's own activations
    (attribution patching, arXiv 2310.10348; of latents: arXiv 2403.19647, section 3). In nats.
    """

    target: Guess
    value_TK: np.ndarray
    """float32, aligned with ``Seen.index_TK``."""

    rest_T: np.ndarray
    """float32, of what the SAE leaves over: the same for x - x_hat."""


class LatentTotal(NamedTuple):
    """One latent over all prompts."""

    latent: int
    total: float
    """Sum of its activations."""

    largest: float
    n_tokens: int
    """Tokens on which it is active."""

    prompt: int
    position: int
    """Where it is most active."""

    attribution: float | None
    """Sum over prompts and tokens, nats; None where nothing was attributed."""


@dataclass(frozen=True)
class Seen:
    """What an SAE and its language model make of one prompt."""

    text: str
    token_id: np.ndarray
    """int64 [T]."""

    tokens: tuple[str, ...]
    """Texts of the tokens; joined they read as the prompt."""

    keep: np.ndarray
    """bool [T]; False for BOS and other special tokens."""

    index_TK: np.ndarray
    """int64; strongest first. Where the value is 0 there is no latent."""

    value_TK: np.ndarray
    """float32, in units of the normalised input; 0 for entries that pad."""

    norm_T: np.ndarray
    """float64, length of the activation that the SAE is to give."""

    error_T: np.ndarray
    """float64, length of what it leaves over, ||x - x_hat||."""

    cosine_T: np.ndarray
    """float64, cos(x, x_hat)."""

    reconstruction: Reconstruction
    """Sums over the prompt's tokens but special ones."""

    runs: dict[str, RunSeen]
    attributed: Attributed | None = None

    @property
    def l0_T(self) -> np.ndarray:
        """Active latents of each token, int64."""
        return (self.value_TK > 0).sum(1)

    @property
    def relative_T(self) -> np.ndarray:
        """||x - x_hat|| / ||x||."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.error_T / self.norm_T

    @property
    def fvu_T(self) -> np.ndarray:
        """Squared error over the mean, over the prompt's tokens, of their squared deviation from their mean.

        So scaled, the mean over tokens is the prompt's FVU.
        """
        found = self.reconstruction
        each = found.squared_deviation / found.n if found.n else 0.0
        return self.error_T**2 / each if each else np.full(len(self.keep), np.nan)

    @property
    def scored(self) -> np.ndarray:
        """bool [T]: tokens whose loss counts, all that are predicted but special ones."""
        return self.keep & ~np.isnan(self.runs["clean"].loss_T)


@dataclass(frozen=True)
class Figures:
    """What prompts come to together. None where nothing was measured."""

    n_tokens: int
    """Special ones left out."""

    n_scored: int
    """Tokens whose loss counts."""

    l0: float
    fvu: float | None
    cosine: float | None
    relative_error: float | None
    """Mean over tokens of ||x - x_hat|| / ||x||."""

    ce_clean: float | None
    ce_sae: float | None
    ce_zero: float | None
    ce_loss_recovered: float | None
    kl_sae: float | None
    """Mean KL(clean || with SAE), nats."""


def figures(prompts: Sequence[Seen]) -> Figures:
    """The figures of some prompts; defined as in ``tasks.metrics.DEFINITIONS``."""
    together = Reconstruction()
    for seen in prompts:
        together.merge(seen.reconstruction)
    relative = np.concatenate([seen.relative_T[seen.keep] for seen in prompts])
    scored = [seen.scored for seen in prompts]
    loss = {
        name: np.concatenate([seen.runs[name].loss_T[where] for seen, where in zip(prompts, scored, strict=True)]) for name in RUNS
    }
    kl = np.concatenate([seen.runs["sae"].kl_T[where] for seen, where in zip(prompts, scored, strict=True)])
    clean, sae, zero = (float(loss[name].mean()) if len(kl) else None for name in RUNS)
    recovered = None
    if clean is not None and sae is not None and zero is not None and zero != clean:
        recovered = (zero - sae) / (zero - clean)
    return Figures(
        n_tokens=together.n,
        n_scored=len(kl),
        l0=sum(int(seen.l0_T.sum()) for seen in prompts) / together.n,
        fvu=together.fvu,
        cosine=together.cosine / together.n_nonzero if together.n_nonzero else None,
        relative_error=float(relative[np.isfinite(relative)].mean()) if np.isfinite(relative).any() else None,
        ce_clean=clean,
        ce_sae=sae,
        ce_zero=zero,
        ce_loss_recovered=recovered,
        kl_sae=float(kl.mean()) if len(kl) else None,
    )


@dataclass(frozen=True)
class Inspection:
    """Prompts under one SAE."""

    prompts: tuple[Seen, ...]
    n_latents: int
    hookpoint: str

    @property
    def figures(self) -> Figures:
        """Of all prompts together."""
        return figures(self.prompts)

    def latents(self) -> list[LatentTotal]:
        """Every latent that is active on any prompt, the largest sum of activations first."""
        parts = [(seen, *np.nonzero(seen.value_TK > 0)) for seen in self.prompts]
        latent_P = np.concatenate([seen.index_TK[t, k] for seen, t, k in parts])
        value_P = np.concatenate([seen.value_TK[t, k] for seen, t, k in parts]).astype(np.float64)
        prompt_P = np.concatenate([np.full(len(t), i) for i, (_, t, _) in enumerate(parts)])
        position_P = np.concatenate([t for _, t, _ in parts])
        moved = all(seen.attributed for seen in self.prompts)
        pushed_P = np.concatenate([seen.attributed.value_TK[t, k] if moved else np.zeros(len(t)) for seen, t, k in parts])  # type: ignore[union-attr]
        which, group_P = np.unique(latent_P, return_inverse=True)
        order = np.lexsort((-value_P, group_P))  # each latent's strongest first
        peak = order[np.searchsorted(group_P[order], np.arange(len(which)))]
        count, total, pushed = (np.bincount(group_P, weights, len(which)) for weights in (None, value_P, pushed_P))
        found = [
            LatentTotal(
                int(which[g]), float(total[g]), float(value_P[p]), int(count[g]), int(prompt_P[p]), int(position_P[p]),
                float(pushed[g]) if moved else None,
            )
            for g, p in enumerate(peak)
        ]  # fmt: skip
        return sorted(found, key=lambda one: (-one.total, one.latent))
