"""What is trained, for how long, and how learning rate, sparsity and k move meanwhile."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from tasks.saes.base import SAESpec
from tasks.spec import Spec, SpecError

_BETA = Annotated[float, Field(ge=0, lt=1)]


class TrainSpec(Spec):
    """What is trained, for how long."""

    KEEPS_KEY: ClassVar[dict[str, Any]] = {
        "decay": "linear", "betas": (0.9, 0.999), "sparsity_warmup_fraction": 0.0, "k_start": None, "k_anneal_fraction": 0.0,
        "ema": None, "clip_norm": None, "autocast": False, "revive_every_tokens": None, "sites": None,
    }  # fmt: skip

    sae: SAESpec
    """The kind of SAE and its numbers."""

    sites: str | None = None
    """Where it reads and writes, ``reads:writes``, where that is more than the one hookpoint of its shards; null: that one."""

    n_tokens: int = Field(1_280_000, ge=1)
    """Rows trained on, repeats counted: a small capture is read several times."""

    batch_tokens: int = Field(512, ge=1)
    """Rows in a step."""

    lr: float | None = Field(None, gt=0)
    """Peak learning rate of Adam; null takes 2e-4 / sqrt(n_latents / 2^14), the rule of Gao et al. (2406.04093, A.3)."""

    betas: tuple[_BETA, _BETA] = (0.9, 0.999)
    """Of Adam: how much of the mean gradient, and of its mean square, a step keeps."""

    warmup_fraction: float = Field(0.02, ge=0, le=1)
    """Share of the steps over which the learning rate rises from 0."""

    decay: Literal["linear", "cosine", "none"] = "linear"
    """How it falls to 0 at the end: on a line, or on half a cosine; ``none`` stays at the peak."""

    decay_fraction: float = Field(0.3, ge=0, le=1)
    """Share of the steps, at the end, over which it falls to 0."""

    sparsity_warmup_fraction: float = Field(0.0, ge=0, le=1)
    """Share of the steps over which the sparsity coefficient rises from 0, for kinds that have one."""

    k_start: int | None = Field(None, ge=1)
    """Active latents of a token at the first step, for kinds that have a k, which is reached on a line; null begins with k."""

    k_anneal_fraction: float = Field(0.0, ge=0, le=1)
    """Share of the steps over which k_start goes over into k."""

    ema: float | None = Field(None, gt=0, lt=1)
    """Keep an average of the weights, of which a step keeps so much (0.999), and validate and save that; null: the weights."""

    clip_norm: float | None = Field(None, gt=0)
    """Largest norm of all gradients together; longer ones are shortened to it. Null: no limit."""

    autocast: bool = False
    """Products in bfloat16 where that keeps the meaning; weights and their updates stay float32."""

    dead_after_tokens: int = Field(200_000, ge=1)
    """Rows without firing after which a latent counts as dead."""

    revive_every_tokens: int | None = Field(None, ge=1)
    """Rows after which dead latents are pointed, again and again, along rows that are reconstructed worst (Bricken et al. 2023);
    not in the last stretch of that length, in which they could learn no more. Null: never."""

    validate_every: int = Field(100, ge=1)
    """Steps between two looks at the validation split."""

    validation_tokens: int = Field(16_384, ge=1)
    """Rows of the validation split looked at each time."""

    patience: int | None = Field(None, ge=1)
    """Stop after that many looks without a better validation FVU; null never stops early."""

    seed: int = 0
    """Of the initial weights and the order of the rows."""

    @model_validator(mode="after")
    def _does_something(self) -> TrainSpec:
        """Refuse what would change nothing: it would be taken for a result."""
        kind, k = getattr(self.sae, "kind", ""), getattr(self.sae, "k", None)
        if self.sparsity_warmup_fraction and not self.sae.SPARSITY:
            raise SpecError(
                f"train.sparsity_warmup_fraction = {self.sparsity_warmup_fraction}, but sae={kind} has no sparsity coefficient that could "
                "rise; leave it out" + ("" if k is None else ", or let k fall with train.k_start")
            )
        if self.k_start is not None and k is None:
            raise SpecError(f"train.k_start = {self.k_start}, but sae={kind} has no k; leave it out")
        if (self.k_start is None) != (self.k_anneal_fraction == 0):
            raise SpecError(
                f"train.k_start = {self.k_start}, but train.k_anneal_fraction is {self.k_anneal_fraction}; give both, or neither"
            )
        if self.k_start is not None and self.k_start == k:
            raise SpecError(f"train.k_start = {self.k_start}, but sae.k is the same; leave it out, or begin with more")
        if self.decay == "none" and self.decay_fraction not in (0, type(self).model_fields["decay_fraction"].default):
            raise SpecError(f"train.decay_fraction = {self.decay_fraction}, but train.decay is none; leave one of them out")
        if self.revive_every_tokens is not None and not any(map(self.revives_at, range(self.n_steps() + 1))):
            raise SpecError(
                f"train.revive_every_tokens = {self.revive_every_tokens}, but of {self.n_tokens} tokens no such stretch ends after "
                f"train.dead_after_tokens = {self.dead_after_tokens} with another to follow; use fewer"
            )
        return self

    def n_steps(self) -> int:
        """Optimiser steps."""
        return max(1, round(self.n_tokens / self.batch_tokens))

    def peak_lr(self, n_latents: int) -> float:
        """The learning rate at its highest."""
        return self.lr if self.lr is not None else 2e-4 / math.sqrt(n_latents / 2**14)

    def schedule(self, step: int) -> float:
        """Share of the peak learning rate at a step."""
        n = self.n_steps()
        up = self._risen(step, self.warmup_fraction)
        down = min(1.0, (n - step) / max(1.0, self.decay_fraction * n))
        if self.decay == "cosine":
            down = 0.5 - 0.5 * math.cos(math.pi * down)
        return min(up, 1.0 if self.decay == "none" else down)

    def annealed(self, step: int) -> dict[str, Any]:
        """What else of a step is not yet at its last value: ``sparsity``, ``k`` and ``done`` of ``Learner.step``."""
        found: dict[str, Any] = {"done": step / self.n_steps()} if self.sae.AGES else {}
        if (share := self._risen(step, self.sparsity_warmup_fraction)) < 1:
            found["sparsity"] = share
        if self.k_start is not None and step < self.k_anneal_fraction * self.n_steps():
            k = self.sae.k  # type: ignore[attr-defined]
            now = self.k_start + (k - self.k_start) * step / (self.k_anneal_fraction * self.n_steps())
            found["k"] = round(now) if isinstance(k, int) else now
        return found

    def _risen(self, step: int, fraction: float) -> float:
        """How far something has come at a step that rises on a line over a share of the steps."""
        return min(1.0, (step + 1) / max(1.0, fraction * self.n_steps()))

    def revives_at(self, step: int) -> bool:
        """Whether dead latents are revived after so many steps."""
        if self.revive_every_tokens is None or step == 0:
            return False
        every = max(1, round(self.revive_every_tokens / self.batch_tokens))
        long_enough = step * self.batch_tokens >= self.dead_after_tokens
        return step % every == 0 and long_enough and step + every <= self.n_steps()

    def learning(self) -> dict[str, Any]:
        """Options of the learner; those that stand at what every learner begins with are left out."""
        options = {"betas": self.betas, "clip_norm": self.clip_norm, "autocast": self.autocast}
        given = {name: value for name, value in options.items() if value != type(self).model_fields[name].default}
        return {"dead_after_tokens": self.dead_after_tokens, **given}
