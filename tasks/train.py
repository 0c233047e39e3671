"""Train an SAE on shuffled rows of captured activations. Shapes: B tokens of a batch, D d_in, N n_latents.

Where it reads and writes (``tasks.lm.sites``) decides whether it is an SAE, a transcoder or a crosscoder: captures of several
hookpoints are read side by side, each under the norm of its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from artifacts.shuffled import ShuffledRows
from tasks.fitting import Fit, validation_rows
from tasks.lazy import pa, pq, torch
from tasks.lm.sites import Sites, shards_at
from tasks.norms._sites import SiteNorms
from tasks.norms.base import FittedNorm
from tasks.saes.base import SAESpec
from tasks.spec import Spec, SpecError
from tasks.stage import Job, Summary, stage
from tasks.trained import TrainedSAE

_CHECKPOINT = "checkpoint"


class TrainSpec(Spec):
    """What is trained, for how long."""

    KEEPS_KEY: ClassVar[dict[str, Any]] = {"sites": None}

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

    warmup_fraction: float = Field(0.02, ge=0, le=1)
    """Share of the steps over which the learning rate rises from 0."""

    decay_fraction: float = Field(0.3, ge=0, le=1)
    """Share of the steps, at the end, over which it falls to 0."""

    dead_after_tokens: int = Field(200_000, ge=1)
    """Rows without firing after which a latent counts as dead."""

    validate_every: int = Field(100, ge=1)
    """Steps between two looks at the validation split."""

    validation_tokens: int = Field(16_384, ge=1)
    """Rows of the validation split looked at each time."""

    patience: int | None = Field(None, ge=1)
    """Stop after that many looks without a better validation FVU; null never stops early."""

    seed: int = 0
    """Of the initial weights and the order of the rows."""

    def n_steps(self) -> int:
        """Optimiser steps."""
        return max(1, round(self.n_tokens / self.batch_tokens))

    def peak_lr(self, n_latents: int) -> float:
        """The learning rate at its highest."""
        return self.lr if self.lr is not None else 2e-4 / math.sqrt(n_latents / 2**14)

    def schedule(self, step: int) -> float:
        """Share of the peak learning rate at a step."""
        n = self.n_steps()
        up = (step + 1) / max(1.0, self.warmup_fraction * n)
        down = (n - step) / max(1.0, self.decay_fraction * n)
        return min(1.0, up, down)


@stage("train", version=1, tags=("gpu",))
def train(job: Job[TrainSpec]) -> Summary:
    """Train one SAE. Inputs: ``shards`` and ``validation`` (captures of all its hookpoints), ``norm`` (one for each hookpoint, in the
    order of ``Sites.hookpoints``). Resumes from its last checkpoint."""
    from tasks.lm.loading import device_of

    spec, device = job.spec, torch.device(device_of(job.runtime))
    sites = Sites.parse(spec.sites or job.many("shards")[0].summary["hookpoint"])
    shards, held_out = (shards_at(job.many(name), sites.hookpoints) for name in ("shards", "validation"))
    widths = {opened.summary["hookpoint"]: opened.summary["d_in"] for opened in job.many("shards")}
    norm = norm_of(sites, [FittedNorm.open(opened.path) for opened in job.many("norm")], widths).to(device)
    d_in, d_out = (sum(widths[h] for h in side) for side in (sites.reads, sites.writes))
    spec.sae.check(d_in, d_out)
    sae = spec.sae.build(d_in, spec.seed, d_out).to(device=device)
    rows = ShuffledRows(shards, spec.batch_tokens, seed=spec.seed, prefetch=job.runtime.prefetch_batches)
    learner = sae.learner(dead_after_tokens=spec.dead_after_tokens)
    fit = Fit(spec, learner, norm, device, validation_rows(held_out, spec.validation_tokens, norm, device))
    fit.recover(job.attempt.recover(_CHECKPOINT))
    wandb = _wandb(job) if job.runtime.wandb else None
    saved = time.monotonic()
    with job.progress.bar(f"train {sites}", spec.n_tokens, "tokens") as bar:
        bar.advance(fit.step * spec.batch_tokens)
        for figures in fit.run(rows.batches):
            bar.advance(spec.batch_tokens, **figures)
            if figures and wandb:
                wandb.log(fit.log[-1], step=fit.step)
            if time.monotonic() - saved > job.runtime.checkpoint_seconds:
                fit.save(job.attempt.scratch / _CHECKPOINT)
                job.attempt.check()
                job.attempt.save(_CHECKPOINT)
                saved = time.monotonic()
    if wandb:
        wandb.finish()
    pq.write_table(pa.Table.from_pylist(fit.log), job.out / "log.parquet")
    captured = {"capture": job.many("shards")[0].manifest.spec, "lm": job.many("shards")[0].manifest.inputs["lm"]}
    about = {"seed": spec.seed, "n_tokens": fit.step * spec.batch_tokens, "train": spec.payload(), **captured}
    TrainedSAE(learner.sae, norm, str(sites), about).save(job.out)
    last = next(row for row in reversed(fit.log) if row["split"] == "validation")
    return {
        "fvu": last["fvu"],
        "l0": last["l0"],
        "dead_fraction": last["dead_fraction"],
        "n_tokens": fit.step * spec.batch_tokens,
        "steps": fit.step,
        "tokens_per_second": round(fit.step * spec.batch_tokens / max(fit.seconds, 1e-9)),
        "n_latents": sae.n_latents,
        "d_in": d_in,
        "hookpoint": str(sites),
        **({} if sites.one else {"d_out": d_out}),
    }


def norm_of(sites: Sites, norms: Sequence[FittedNorm], widths: Mapping[str, int]) -> FittedNorm | SiteNorms:
    """The norm of an SAE's rows, of those of its hookpoints. Raises ``SpecError`` where that of a transcoder cannot be undone."""
    if sites.one:
        return norms[0]
    return SiteNorms(sites.reads, sites.writes, dict(zip(sites.hookpoints, norms, strict=True)), widths)


def _wandb(job: Job[TrainSpec]) -> Any:
    try:
        import wandb
    except ImportError:
        raise SpecError(
            f"runtime.wandb = {job.runtime.wandb!r}, but the package wandb is not installed; pip install 'saint-sae[wandb]'"
        ) from None
    return wandb.init(project=job.runtime.wandb, name=str(job.recipe.artifact), config=job.spec.payload())
