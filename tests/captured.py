"""Captures for tests of training that need no language model: rows of a planted dictionary, written as capture writes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tasks.lm.recording import Recording
from tasks.normalise import NormaliseSpec, normalise
from tasks.norms.base import Norm
from tasks.norms.rms import RMS
from tasks.spec import Spec
from tasks.stage import Job, Recipe, Summary, stage

D = 16


def planted(n_rows: int, seed: int, d: int = D, n: int = 24, active: int = 3) -> torch.Tensor:
    """Rows that are sums of a few of the same ``n`` directions."""
    direction_ND = torch.nn.functional.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(7)), dim=-1)
    draw = torch.Generator().manual_seed(seed)
    strength = torch.zeros(n_rows, n).scatter_(
        1, torch.rand(n_rows, n, generator=draw).topk(active).indices, 1 + torch.rand(n_rows, active, generator=draw)
    )
    return strength @ direction_ND + 0.05 * torch.randn(n_rows, d, generator=draw) + 0.5


class PlantedSpec(Spec):
    hookpoint: str = "layers.0"
    split: str = "train"
    shard: int = 0
    n_rows: int = 3000


@stage("capture", version=1)
def capture(job: Job[PlantedSpec]) -> Summary:
    spec = job.spec
    seed = 10 * spec.shard + {"train": 0, "validation": 1, "test": 2}[spec.split]
    rows = planted(spec.n_rows, seed)
    output = Recording(job.out, D, store_dtype="float32", codec="crc32c", attributes={"hookpoint": spec.hookpoint})
    output.begin(len(rows))
    output.take(rows, torch.arange(len(rows)))
    zeros = np.zeros(len(rows), np.int64)
    output.write(zeros, np.arange(len(rows)), zeros, zeros, [len(rows)])
    output.close()
    return {"n_rows": len(rows), "d_in": D, "hookpoint": spec.hookpoint, "split": spec.split}


@stage("lm", version=1)
def model(job: Job[Spec]) -> Summary:
    return {}


def inputs(norm: Norm | None = None, n_shards: int = 2, n_rows: int = 3000) -> dict[str, Any]:
    """Inputs of the stage train, as recipes."""
    lm = model(Spec())

    def at(split: str, shard: int) -> Recipe:
        return capture(PlantedSpec(split=split, shard=shard, n_rows=n_rows), lm=lm)

    shards = [at("train", i) for i in range(n_shards)]
    fitted = normalise(NormaliseSpec(norm=norm or RMS()), shards=shards)
    return {"shards": shards, "validation": [at("validation", 0)], "norm": fitted}
