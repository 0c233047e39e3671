"""Normalise: fit a norm to the statistics that capture wrote with each shard. Few norms want to see some rows as well."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import TYPE_CHECKING

from tasks.norms.base import FittedNorm, Norm, Statistics
from tasks.spec import Spec, SpecError
from tasks.stage import Job, Summary, stage

if TYPE_CHECKING:
    from torch import Tensor


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
    norm = job.spec.norm
    FittedNorm(norm, norm.fit(merged, _rows(job, norm.n_rows) if norm.READS_ROWS else ())).save(job.out)  # type: ignore[attr-defined]
    return {"n_rows": merged.count, "d_in": len(merged.mean_D), "rms": merged.rms, "rms_deviation": merged.rms_deviation}


def _rows(job: Job[NormaliseSpec], n_rows: int | None) -> Iterator[Tensor]:
    """Chunks of rows, spread evenly over all shards: about ``n_rows`` of them, or all."""
    from artifacts.activations import CHUNK_ROWS, Activations

    shards = [Activations.open(opened.path, str(opened.artifact)) for opened in job.many("shards")]
    places = [(shard, chunk) for shard in shards for chunk in range(shard.n_chunks)]
    n = len(places) if n_rows is None else min(len(places), -(-n_rows // CHUNK_ROWS))
    with job.progress.bar("rows for the norm", n, "chunks") as bar:
        for i in range(n):
            shard, chunk = places[i * len(places) // n]
            yield shard.chunk(chunk)
            bar.advance(1)
