"""Normalise: fit a norm to the statistics that capture wrote with each shard. No second pass over the data."""

from __future__ import annotations

from functools import reduce

from tasks.norms.base import FittedNorm, Norm, Statistics
from tasks.spec import Spec, SpecError
from tasks.stage import Job, Summary, stage


class NormaliseSpec(Spec):
    """How rows are normalised."""

    norm: Norm

    def payload(self) -> dict:
        return self.norm.payload()


@stage("normalise", version=1)
def normalise(job: Job[NormaliseSpec]) -> Summary:
    """Write ``norm.json``, ``norm.safetensors`` and the merged ``statistics.safetensors``."""
    merged = reduce(Statistics.merge, (Statistics.load(s.path / "statistics.safetensors") for s in job.many("shards")))
    if merged.count == 0:
        raise SpecError("the train split has no rows, but a norm is fitted to them; capture more text")
    merged.save(job.out / "statistics.safetensors")
    FittedNorm(job.spec.norm, job.spec.norm.fit(merged)).save(job.out)
    return {"n_rows": merged.count, "d_in": len(merged.mean_D), "rms": merged.rms, "rms_deviation": merged.rms_deviation}
