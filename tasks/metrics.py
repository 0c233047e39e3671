"""Metrics of an SAE as sums that stream and merge, in float64. Shapes: B tokens, D d_in, N n_latents, K active latents.

One name has five formulas in the field (explained variance is off by 0.9 between two tools on the same data), so each
number is stored with the sentence that defines it: see ``DEFINITIONS``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tasks.lazy import np, torch

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.saes.base import Latents

DENSE = 0.1
"""A latent that fires on more than this fraction of tokens is called dense."""

_BOS_KEPT = "the BOS position keeps its own activation in every run"
_CE = f"mean cross entropy in nats per predicted token of held-out contexts; {_BOS_KEPT}"

DEFINITIONS: dict[str, tuple[str, str]] = {
    "l0": ("mean number of latents with a value above 0 per token", "common to all tools"),
    "fvu": (
        "sum of ||x - x_hat||^2 over sum of ||x - mean(x)||^2, the mean over all evaluated tokens",
        "1 - explained variance of SAELens since its pull request 665; sparsify's FVU, over the whole set instead of a batch",
    ),
    "mse": ("mean over tokens of ||x - x_hat||^2, summed over dimensions", "SAELens, dictionary_learning"),
    "cosine": ("mean over tokens of cos(x, x_hat)", "SAELens, SAEBench (cossim)"),
    "l2_ratio": ("mean over tokens of ||x_hat|| / ||x||", "SAELens, SAEBench, dictionary_learning"),
    "relative_reconstruction_bias": (
        "mean ||x_hat||^2 over mean x . x_hat; below 1 is shrinkage",
        "arXiv 2404.16014, equation 10",
    ),
    "dead_fraction": (
        "fraction of latents that fire on none of the evaluated tokens; more tokens would wake some",
        "dictionary_learning's 1 - frac_alive, over the evaluated tokens",
    ),
    "dense_fraction": (
        f"fraction of latents that fire on more than {DENSE:.0%} of tokens",
        "SAEBench (freq_over_10_percent)",
    ),
    "ce_clean": (_CE, "common to all tools"),
    "ce_sae": (
        "as ce_clean, with what the SAE gives in place of the activation; at several hookpoints, in place of all at once, from "
        f"what it reads in the clean run; {_BOS_KEPT}",
        "common to all tools",
    ),
    "ce_zero": (
        f"as ce_clean, with zero in place of the activation; {_BOS_KEPT}",
        "SAELens and SAEBench, which zero the BOS position too",
    ),
    "ce_mean": (
        f"as ce_clean, with the mean activation in place of the activation; {_BOS_KEPT}",
        "common in ablation studies",
    ),
    "ce_loss_recovered": (
        f"(ce_zero - ce_sae) / (ce_zero - ce_clean), with a 95% interval from resampled documents; {_BOS_KEPT}",
        "ce_loss_score of SAELens and SAEBench; frac_recovered of dictionary_learning",
    ),
    "ce_loss_recovered_from_mean": (
        f"(ce_mean - ce_sae) / (ce_mean - ce_clean), with a 95% interval from resampled documents; {_BOS_KEPT}",
        "as ce_loss_recovered, against mean ablation",
    ),
    "kl_sae": (f"mean KL(clean || with SAE) of the next-token distributions, nats; {_BOS_KEPT}", "SAELens, SAEBench"),
}


def described(name: str, value: float | None, n: int, **more: Any) -> dict[str, Any]:
    """One entry of ``metrics.json``; a value that is not finite is null, since nothing was measured."""
    definition, source = DEFINITIONS[name]
    finite = value if value is not None and math.isfinite(value) else None
    return {"value": finite, "n": n, **more, "definition": definition, "source": source}


@dataclass
class Reconstruction:
    """How near x_hat is to x."""

    n: int = 0
    squared_error: float = 0.0
    mean_D: Tensor | None = None
    squared_deviation: float = 0.0
    """Sum over tokens of ||x - mean||^2."""

    cosine: float = 0.0
    l2_ratio: float = 0.0
    n_nonzero: int = 0
    """Tokens where x is not 0, so that a ratio to it exists."""

    squared_hat: float = 0.0
    product: float = 0.0

    def update(self, x_BD: Tensor, x_hat_BD: Tensor) -> None:
        """Take some tokens."""
        if len(x_BD) == 0:
            return
        x, hat = _double(x_BD), _double(x_hat_BD)
        mean = x.mean(0)
        norm, norm_hat, product = x.norm(dim=1), hat.norm(dim=1), (x * hat).sum(1)
        there = norm > 0
        n_there = int(there.sum())
        cosine = product / (norm * norm_hat).clamp_min(torch.finfo(torch.float64).tiny)
        self.merge(
            Reconstruction(
                n=len(x),
                squared_error=float((x - hat).square().sum()),
                mean_D=mean.cpu(),
                squared_deviation=float((x - mean).square().sum()),
                cosine=float(cosine[there].sum()),
                l2_ratio=float((norm_hat[there] / norm[there]).sum()),
                n_nonzero=n_there,
                squared_hat=float(norm_hat.square().sum()),
                product=float(product.sum()),
            )
        )

    def merge(self, other: Reconstruction) -> Reconstruction:
        """Add another's tokens to these; returns self."""
        if other.mean_D is None:
            return self
        if self.mean_D is None:
            self.mean_D = torch.zeros_like(other.mean_D)
        n = self.n + other.n
        gap = other.mean_D - self.mean_D
        # Chan, Golub and LeVeque's update: deviations about the joint mean, without keeping the tokens
        self.squared_deviation += other.squared_deviation + float(gap.square().sum()) * self.n * other.n / n
        self.mean_D = self.mean_D + gap * (other.n / n)
        self.n = n
        for name in ("squared_error", "cosine", "l2_ratio", "n_nonzero", "squared_hat", "product"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self

    @property
    def fvu(self) -> float | None:
        return _ratio(self.squared_error, self.squared_deviation)

    def metrics(self) -> dict[str, dict[str, Any]]:
        """What was measured, by name."""
        values = {
            "fvu": self.fvu,
            "mse": _ratio(self.squared_error, self.n),
            "cosine": _ratio(self.cosine, self.n_nonzero),
            "l2_ratio": _ratio(self.l2_ratio, self.n_nonzero),
            "relative_reconstruction_bias": _ratio(self.squared_hat, self.product),
        }
        return {name: described(name, value, self.n) for name, value in values.items()}


@dataclass
class Firing:
    """How often and how strongly each latent fires."""

    n_latents: int
    n: int = 0
    n_fires_N: Tensor = field(default=None)  # type: ignore[assignment]
    sum_N: Tensor = field(default=None)  # type: ignore[assignment]
    max_N: Tensor = field(default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.n_fires_N is None:
            self.n_fires_N = torch.zeros(self.n_latents, dtype=torch.int64)
            self.sum_N = torch.zeros(self.n_latents, dtype=torch.float64)
            self.max_N = torch.zeros(self.n_latents, dtype=torch.float64)

    def update(self, latents: Latents) -> None:
        """Take some tokens' latents."""
        index, value = latents.index_BK.cpu(), latents.value_BK.cpu().double()
        fires = value > 0
        which, strength = index[fires], value[fires]
        self.n += len(index)
        self.n_fires_N += torch.bincount(which, minlength=self.n_latents)
        self.sum_N += torch.bincount(which, weights=strength, minlength=self.n_latents)
        self.max_N.scatter_reduce_(0, which, strength, "amax")

    def merge(self, other: Firing) -> Firing:
        """Add another's tokens to these; returns self."""
        self.n += other.n
        self.n_fires_N += other.n_fires_N
        self.sum_N += other.sum_N
        self.max_N = torch.maximum(self.max_N, other.max_N)
        return self

    @property
    def density_N(self) -> Tensor:
        """Fraction of tokens on which each latent fires, float64."""
        return self.n_fires_N.double() / max(self.n, 1)

    @property
    def mean_N(self) -> Tensor:
        """Mean value over the tokens on which each latent fires; 0 for one that never does."""
        return self.sum_N / self.n_fires_N.clamp_min(1)

    def metrics(self) -> dict[str, dict[str, Any]]:
        """What was measured, by name."""
        values = {
            "l0": _ratio(float(self.n_fires_N.sum()), self.n),
            "dead_fraction": float((self.n_fires_N == 0).double().mean()),
            "dense_fraction": float((self.density_N > DENSE).double().mean()),
        }
        return {name: described(name, value, self.n) for name, value in values.items()}


@dataclass
class Losses:
    """Cross entropy of several runs of a language model over the same contexts, kept per document."""

    runs: tuple[str, ...] = ("clean", "sae", "zero", "mean")
    sums: dict[int, np.ndarray] = field(default_factory=dict)
    """Document to summed loss of each run."""

    counts: dict[int, int] = field(default_factory=dict)
    """Document to predicted tokens."""

    def update(self, document_id: int, sums: dict[str, float], n: int) -> None:
        """Take one context: the summed loss of each run over its ``n`` predicted tokens."""
        row = np.array([sums[run] for run in self.runs], dtype=np.float64)
        self.sums[document_id] = self.sums.get(document_id, np.zeros(len(self.runs))) + row
        self.counts[document_id] = self.counts.get(document_id, 0) + n

    def merge(self, other: Losses) -> Losses:
        """Add another's contexts to these; returns self."""
        for document, row in other.sums.items():
            self.update(document, dict(zip(self.runs, row, strict=True)), other.counts[document])
        return self

    @property
    def n(self) -> int:
        return sum(self.counts.values())

    def mean(self, run: str) -> float | None:
        """Nats per predicted token."""
        at = self.runs.index(run)
        return _ratio(float(sum(row[at] for row in self.sums.values())), self.n)

    def recovered(
        self, ablated: str, seed: int = 0, resamples: int = 1000
    ) -> tuple[float | None, float | None, float | None]:
        """Share of the loss added by an ablation that the SAE undoes, and the 95% interval of resampled documents."""
        documents = sorted(self.sums)
        if not documents:
            return None, None, None
        table = np.stack([self.sums[document] for document in documents])
        clean, sae, gone = (table[:, self.runs.index(run)] for run in ("clean", "sae", ablated))
        parts = np.stack([gone - sae, gone - clean], 1)
        value = _ratio(*parts.sum(0))
        if value is None or len(documents) < 2:
            return value, None, None
        rng = np.random.default_rng(seed)
        drawn = []
        for _ in range(resamples):
            over, under = parts[rng.integers(0, len(parts), len(parts))].sum(0)
            drawn.append(over / under if under else math.nan)
        low, high = np.nanquantile(drawn, [0.025, 0.975])
        return value, float(low), float(high)

    def metrics(self, seed: int = 0) -> dict[str, dict[str, Any]]:
        """What was measured, by name."""
        found = {
            f"ce_{run}": described(f"ce_{run}", self.mean(run), self.n) for run in ("clean", "sae", "zero", "mean")
        }
        for name, ablated in (("ce_loss_recovered", "zero"), ("ce_loss_recovered_from_mean", "mean")):
            value, low, high = self.recovered(ablated, seed)
            found[name] = described(name, value, self.n, low=low, high=high, n_documents=len(self.sums))
        return found


def _ratio(over: float, under: float) -> float | None:
    return float(over) / float(under) if under else None


def _double(x: Tensor) -> Tensor:
    """float64, on the CPU where the device knows none."""
    x = x.detach()
    return (x.cpu() if x.device.type == "mps" else x).double()
