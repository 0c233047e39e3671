"""Encode: a captured shard through the SAE, into a latent cache that can be read by latent.

Values come straight from the encoder's sparse output; nothing dense in the number of latents is ever kept. One artifact is
one shard, so that a run that died goes on with the next; ``tasks.mining.cache`` says what is in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.lazy import np
from tasks.lm.sites import shards_at
from tasks.mining.cache import NpyFile
from tasks.mining.sorting import ByLatent
from tasks.spec import Spec
from tasks.stage import Job, Summary, stage

if TYPE_CHECKING:
    import numpy as np

_ENCODE_ROWS = 4096
_SORT_ROWS = 16384
"""Rows sorted at a time. More make fewer runs to merge, and take more memory: 40 bytes an activation."""

_COPY_ROWS = 1 << 20


class EncodeSpec(Spec):
    """Nothing to choose: the cache holds every activation as the SAE gives it."""


@stage("encode", version=1, tags=("gpu",))
def encode(job: Job[EncodeSpec]) -> Summary:
    """Cache the latents of one shard. Inputs: ``sae`` (of stage train), ``shard`` (a capture at what it reads; several where that is
    several hookpoints)."""
    from tasks.lm.loading import device_of
    from tasks.trained import TrainedSAE

    sae = TrainedSAE.open(job.one("sae")).to(device_of(job.runtime))
    device = sae.W_dec_ND.device
    (rows,) = shards_at(job.many("shard"), sae.sites.reads)
    split = job.many("shard")[0].summary["split"]
    by_latent = ByLatent(job.attempt.scratch / "runs", sae.n_latents)
    with job.progress.bar(f"encode {split}", rows.n_rows, "tokens") as bar:
        for start in range(0, rows.n_rows, _SORT_ROWS):
            stop = min(start + _SORT_ROWS, rows.n_rows)
            index, value = [], []
            for first in range(start, stop, _ENCODE_ROWS):
                found = sae.encode(rows.activations(first, min(first + _ENCODE_ROWS, stop)).to(device))
                index.append(found.index_BK.cpu().numpy())
                value.append(found.value_BK.float().cpu().numpy())
            by_latent.take(start, _joined(index), _joined(value))
            job.attempt.check()
            bar.advance(stop - start)
    n = by_latent.finish(job.out)
    for name in ("token_id", "document_id", "sentence_id"):
        with NpyFile(job.out / f"{name}.npy", np.int32, rows.n_rows) as file:
            for start in range(0, rows.n_rows, _COPY_ROWS):
                file.write(rows.column(name, start, start + _COPY_ROWS))
    np.save(job.out / "context_offsets.npy", np.asarray(rows.context_offsets, np.int64))
    return {"n_rows": rows.n_rows, "split": split, "n_latents": sae.n_latents, "n_activations": n}


def _joined(pieces: list[np.ndarray]) -> np.ndarray:
    """One below the other, filled up with zeros on the right: rows of kinds without a fixed k differ in length."""
    width = max(piece.shape[1] for piece in pieces)
    return np.concatenate([np.pad(p, ((0, 0), (0, width - p.shape[1]))) if p.shape[1] < width else p for p in pieces])
