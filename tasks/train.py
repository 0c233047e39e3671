"""Train SAEs on shuffled rows of captured activations. Those of a sweep that differ in nothing else share one read of the rows.

Where one reads and writes (``tasks.lm.sites``) decides whether it is an SAE, a transcoder or a crosscoder: captures of several
hookpoints are read side by side, each under the norm of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from artifacts.shuffled import ShuffledRows
from tasks.fitting import Fit, Rows, fitted, last_checkpoint, validation_rows
from tasks.lazy import pa, pq, torch
from tasks.learning.beginning import begun
from tasks.learning.schedule import TrainSpec
from tasks.lm.sites import Sites, shards_at
from tasks.norms._sites import SiteNorms
from tasks.norms.base import FittedNorm
from tasks.saes.base import SAE
from tasks.spec import SpecError
from tasks.stage import Job, Unit, stage
from tasks.trained import TrainedSAE

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.learning.group import Group

_CHECKPOINT = "checkpoint"


@stage("train", version=1, together="sae", at_most="saes_together", tags=("gpu",))
def train(units: Iterator[Unit]) -> None:
    """Train SAEs. Inputs: ``shards`` and ``validation`` (captures of all its hookpoints), ``norm`` (one for each hookpoint, in the
    order of ``Sites.hookpoints``), and ``init`` where they begin with the weights of an SAE that there is. Each resumes from its
    own last checkpoint. One that fails leaves the others alone."""
    for unit in units:
        for jobs in _parts(unit):
            if jobs[0].runtime.processes == 1:
                train_together(jobs)
                continue
            from tasks.distributed import trained_by

            trained_by(jobs[0].runtime.processes, jobs, _CHECKPOINT)


def train_together(jobs: Sequence[Job[TrainSpec]], group: Group | None = None) -> None:
    """Train the SAEs of some jobs, which differ in nothing else, in one read. ``group``: together with other processes, of which
    each calls this."""
    from tasks.lm.loading import device_of

    first, device = jobs[0], torch.device(device_of(jobs[0].runtime))
    spec, runtime, progress = first.spec, first.runtime, first.progress
    sites = Sites.parse(spec.sites or first.many("shards")[0].summary["hookpoint"])
    shards, held_out = (shards_at(first.many(name), sites.hookpoints) for name in ("shards", "validation"))
    widths = {opened.summary["hookpoint"]: opened.summary["d_in"] for opened in first.many("shards")}
    d_in, d_out = (sum(widths[h] for h in side) for side in (sites.reads, sites.writes))
    norms = [FittedNorm.open(opened.path) for opened in first.many("norm")]
    old = TrainedSAE.open(first.one("init")) if "init" in first.inputs else None
    # weights mean what they do under the numbers they came with
    norm = (norm_of(sites, norms, widths) if old is None else old.norm).to(device)

    def begin(spec: TrainSpec) -> SAE:
        spec.sae.check(d_in, d_out)
        if old is None:
            return spec.sae.build(d_in, spec.seed, d_out)
        return begun(spec.sae, norms[0].norm, d_in, sites, old, str(first.one("init").artifact))

    def normalised(rows: Tensor) -> Rows:
        return norm.pair(rows.to(device, non_blocking=True))

    rows = ShuffledRows(shards, spec.batch_tokens, seed=spec.seed, prefetch=runtime.prefetch_batches)
    validation = validation_rows(held_out, spec.validation_tokens, normalised)
    jobs_of: dict[Fit, Job[TrainSpec]] = {}
    for job in jobs:
        try:
            sae = begin(job.spec).to(device=device)
        except SpecError as error:
            job.failure = error
            continue
        options = job.spec.learning() | ({} if group is None else {"group": group})
        try:
            learner = sae.learner(**options)
        except SpecError as error:
            job.failure = error
            continue
        fit = Fit(job.spec, learner, validation, fresh=old is None)
        fit.recover(last_checkpoint(job.attempt, _CHECKPOINT), device)
        jobs_of[fit] = job
    logs = {fit: _wandb(job, len(jobs)) if runtime.wandb else None for fit, job in jobs_of.items()}
    label = f"train {sites}" + (f", {len(jobs)} SAEs" if len(jobs) > 1 else "")
    saved, writes = time.monotonic(), group is None or group.leads
    with progress.bar(label, spec.n_tokens * len(jobs_of), "tokens") as bar:
        bar.advance(sum(fit.step for fit in jobs_of) * spec.batch_tokens)
        for n, shown in fitted(list(jobs_of), rows.batches, normalised, in_group=group is not None):
            bar.advance(n * spec.batch_tokens, **_together(list(shown.values())))
            for fit in shown:
                if logs[fit]:
                    logs[fit].log(fit.log[-1], step=fit.step)
            due = time.monotonic() - saved > runtime.checkpoint_seconds
            if due if group is None else group.agreed(due):
                for fit, job in jobs_of.items():
                    if fit.step > fit.saved_at and fit.failure is None:
                        fit.save(job.attempt.scratch / _CHECKPOINT if writes else None)
                        job.attempt.save(_CHECKPOINT)
                    job.attempt.check()
                saved = time.monotonic()
    for fit, job in jobs_of.items():
        if logs[fit]:
            logs[fit].finish()
        job.failure = fit.failure
        if fit.failure is None and writes:
            _write(job, fit, norm, sites)
        elif fit.failure is None:
            fit.finished()


def norm_of(sites: Sites, norms: Sequence[FittedNorm], widths: Mapping[str, int]) -> FittedNorm | SiteNorms:
    """The norm of an SAE's rows, of those of its hookpoints. Raises ``SpecError`` where that of a transcoder cannot be undone."""
    if sites.one:
        return norms[0]
    return SiteNorms(sites.reads, sites.writes, dict(zip(sites.hookpoints, norms, strict=True)), widths)


def _parts(unit: Unit) -> list[list[Job[TrainSpec]]]:
    """The jobs of a unit, in parts for which the GPU has room: weights, two moments, a gradient and an average each."""
    from tasks.lm.loading import device_of

    jobs, device = list(unit), torch.device(device_of(unit[0].runtime))
    if len(jobs) == 1 or device.type != "cuda":
        return [jobs]
    d_in = sum({opened.summary["hookpoint"]: opened.summary["d_in"] for opened in jobs[0].many("shards")}.values())
    free, parts, used = 0.8 * torch.cuda.mem_get_info(device)[0], [[jobs[0]]], 0.0
    for job in jobs:
        size = 5 * 8.0 * d_in * job.spec.sae.size(d_in)
        if job is not jobs[0]:
            if used + size > free:
                parts.append([])
                used = 0.0
            parts[-1].append(job)
        used += size
    return parts


def _write(job: Job[TrainSpec], fit: Fit, norm: FittedNorm | SiteNorms, sites: Sites) -> None:
    """The artifact of an SAE whose training has come to its end."""
    spec, source = job.spec, job.many("shards")[0].manifest
    sae = fit.finished()
    pq.write_table(pa.Table.from_pylist(fit.log), job.out / "log.parquet")
    n_tokens = fit.step * spec.batch_tokens
    about = {"seed": spec.seed, "n_tokens": n_tokens, "train": spec.payload()}
    about |= {"capture": source.spec, "lm": source.inputs["lm"]}
    if "init" in job.inputs:
        about["init"] = str(job.one("init").artifact)
    TrainedSAE(sae, norm, str(sites), about).save(job.out)
    last = next(row for row in reversed(fit.log) if row["split"] == "validation")
    job.summary.update(
        fvu=last["fvu"],
        l0=last["l0"],
        dead_fraction=last["dead_fraction"],
        n_tokens=n_tokens,
        steps=fit.step,
        tokens_per_second=round(n_tokens / max(fit.seconds, 1e-9)),
        n_latents=sae.n_latents,
        d_in=sae.d_in,
        hookpoint=str(sites),
        **({} if sites.one else {"d_out": sae.d_out}),
    )


def _together(shown: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Figures of several SAEs as the least and the most."""
    found: dict[str, Any] = {}
    for name in shown[0] if shown else ():
        values = [figures[name] for figures in shown if name in figures]
        found[name] = values[0] if len(values) == 1 else f"{min(values)} to {max(values)}"
    return found


def _wandb(job: Job[TrainSpec], of: int) -> Any:
    try:
        import wandb
    except ImportError:
        raise SpecError(
            f"runtime.wandb = {job.runtime.wandb!r}, but the package wandb is not installed; pip install 'saint-sae[wandb]'"
        ) from None
    more = {"reinit": "create_new"} if of > 1 else {}
    return wandb.init(project=job.runtime.wandb, name=str(job.recipe.artifact), config=job.spec.payload(), **more)
