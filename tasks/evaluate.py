"""Evaluate an SAE on held-out documents: how well it reconstructs, how often latents fire, what the model loses by it.

Reconstruction is measured on the stored rows of the test split. The losses come from running the language model over the
same contexts four times: as it is, and with the activations that the SAE writes replaced by what it gives, by zero and by
their mean. What it gives is made from what it reads in the run that is as it is; all that it writes (a crosscoder writes at
several hookpoints) is replaced at once. The BOS position (and any other special token) keeps its own activation in every
run: what stands there is an attention sink of enormous norm that no SAE here was trained on, and zeroing it would flatter
every SAE.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field

from artifacts.activations import CHUNK_ROWS
from tasks.lazy import np, pa, pq, torch
from tasks.lm.buckets import Batch, batches
from tasks.lm.hooks import Edit
from tasks.lm.sites import shards_at
from tasks.lm.splicing import MAX_LOGITS, Splice, losses, replaced
from tasks.metrics import Firing, Losses, Reconstruction, described
from tasks.spec import Spec, SpecError
from tasks.stage import Job, Summary, stage

if TYPE_CHECKING:
    from torch import Tensor

    from artifacts.aligned import Shard
    from tasks.lm.language_model import LanguageModel
    from tasks.trained import TrainedSAE

class EvaluateSpec(Spec):
    """How much of the test split is looked at."""

    max_tokens: int | None = Field(1_000_000, ge=1)
    """Rows for reconstruction and firing, in chunks of 1,024 spread evenly over the shards; null takes all."""

    ce_contexts: int = Field(256, ge=0)
    """Contexts for the losses, spread evenly over the shards; 0 measures no losses."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision that the language model computes in."""

    seed: int = Field(0, ge=0)
    """Of the resampling behind the intervals."""


@stage("evaluate", version=1, tags=("gpu",))
def evaluate(job: Job[EvaluateSpec]) -> Summary:
    """Measure one SAE. Inputs: ``lm``, ``sae`` (of stage train), ``shards`` (captures of the test split at all of
    the SAE's hookpoints)."""
    from tasks.lm.loading import device_of
    from tasks.trained import TrainedSAE

    sae = TrainedSAE.open(job.one("sae")).to(device_of(job.runtime))
    shards = shards_at(job.many("shards"), sae.sites.hookpoints)
    if not sum(shard.n_rows for shard in shards):
        raise SpecError(f"evaluate has {len(shards)} shards without a row, but it needs text; make corpus.test larger")
    reconstruction, firing, each = reconstructed(job, sae, shards)
    metrics = {**firing.metrics(), **reconstruction.metrics()}
    metrics |= {f"fvu at {h}": described("fvu", found.fvu, found.n, hookpoint=h) for h, found in each.items()}
    if job.spec.ce_contexts:
        assert reconstruction.mean_D is not None
        metrics |= spliced(job, sae, shards, reconstruction.mean_D)
    (job.out / "metrics.json").write_text(json.dumps(metrics, indent=1))
    pq.write_table(density_table(firing), job.out / "density.parquet")
    values = {name: entry["value"] for name, entry in metrics.items()}
    return {**values, "n_tokens": firing.n, "n_latents": firing.n_latents, "hookpoint": sae.hookpoint}


def density_table(firing: Firing) -> pa.Table:
    """One row per latent: how often and how strongly it fires."""
    return pa.table(
        {
            "latent": pa.array(range(firing.n_latents), pa.int32()),
            "n_fires": firing.n_fires_N.numpy(),
            "density": firing.density_N.numpy(),
            "mean_value": firing.mean_N.numpy(),
            "max_value": firing.max_N.numpy(),
        }
    )


def reconstructed(
    job: Job[EvaluateSpec], sae: TrainedSAE, shards: Sequence[Shard]
) -> tuple[Reconstruction, Firing, dict[str, Reconstruction]]:
    """Reconstruction and firing over the stored rows; and the reconstruction of each hookpoint where several are written."""
    found, firing = Reconstruction(), Firing(len(sae.W_dec_ND))
    each = {h: Reconstruction() for h in sae.sites.writes} if len(sae.sites.writes) > 1 else {}
    chosen = spread([(shard, chunk) for shard in shards for chunk in range(shard.n_chunks)], job.spec.max_tokens)
    total = sum(shard.rows_of(chunk) for shard, chunk in chosen)
    with torch.inference_mode(), job.progress.bar("evaluate reconstruction", total, "tokens") as bar:
        for shard, chunk in chosen:
            x_BD, y_BO = sae.norm.sides(shard.chunk(chunk).float().to(sae.W_dec_ND.device))
            y_BO = x_BD if y_BO is None else y_BO
            normed_BD, undo = sae.norm.apply(x_BD)
            latents = sae.sae.encode(normed_BD)  # once for both: the encoder is nearly all of the work
            firing.update(latents)
            hat_BO = sae.norm.invert(sae.sae.decode(latents, normed_BD), undo)
            found.update(y_BO, hat_BO)
            if each:
                for (hookpoint, y), hat in zip(sae.written(y_BO).items(), sae.written(hat_BO).values(), strict=True):
                    each[hookpoint].update(y, hat)
            bar.advance(len(x_BD), fvu=found.fvu)
    return found, firing, each


def spread(chunks: list[tuple[Shard, int]], max_tokens: int | None) -> list[tuple[Shard, int]]:
    """Chunks at even distances, so many that they hold ``max_tokens`` rows or a little more."""
    wanted = len(chunks) if max_tokens is None else min(len(chunks), -(-max_tokens // CHUNK_ROWS))
    return [chunks[i * len(chunks) // wanted] for i in range(wanted)]


class Held(NamedTuple):
    """One stored context, made whole again."""

    token_id: np.ndarray
    keep: np.ndarray
    document_id: int


def contexts(shards: Sequence[Shard], n: int, bos_token_id: int | None) -> list[Held]:
    """``n`` stored contexts at even distances, with BOS put back where it was left out."""
    offsets = [(shard, c) for shard in shards for c in range(shard.n_contexts)]
    n = min(n, len(offsets))
    return [_whole(*offsets[i * len(offsets) // n], bos_token_id) for i in range(n)]


def _whole(shard: Shard, c: int, bos_token_id: int | None) -> Held:
    start, stop = shard.context_offsets[c], shard.context_offsets[c + 1]
    token, position = shard.token_id[start:stop], shard.position[start:stop]
    length = int(position[-1]) + 1 if len(position) else 1
    # positions that were not stored held special tokens; the one that text begins with is the only one known here
    keep = np.zeros(length, bool)
    keep[position] = True
    whole = np.full(length, bos_token_id if bos_token_id is not None else 0, np.int64)
    whole[position] = token
    return Held(whole, keep, int(shard.document_id[start]) if len(position) else -1)


def spliced(
    job: Job[EvaluateSpec], sae: TrainedSAE, shards: Sequence[Shard], mean_O: Tensor
) -> dict[str, dict[str, Any]]:
    """What the language model loses when the activations that the SAE writes are replaced. ``mean_O``: their mean."""
    from tasks.lm.language_model import LanguageModel

    model = LanguageModel.open(job.one("lm"), job.runtime, dtype=job.spec.dtype)
    held = contexts(shards, job.spec.ce_contexts, model.bos_token_id)
    constant = {"zero": torch.zeros_like(mean_O), "mean": mean_O}
    totals, kl, n_kl = Losses(("clean", "sae", *constant)), 0.0, 0
    total = sum(len(context.token_id) for context in held)
    with torch.inference_mode(), job.progress.bar("evaluate losses", total, "tokens") as bar:
        for batch in _batches(held, model, job.runtime.lm_batch_tokens):
            splice, n_kept = Splice(sae, batch.keep_BT), int(batch.keep_BT.sum())
            runs = {"clean": splice.looks, "sae": splice.puts}
            for name, row_O in constant.items():
                rows = sae.written(row_O.expand(n_kept, -1))
                runs[name] = [Edit(hookpoint, replaced(part, batch.keep_BT)) for hookpoint, part in rows.items()]
            found = dict(losses(model, batch, runs))
            scored = batch.keep_BT[:, 1:]  # position t is scored by the token at t + 1
            sums = {name: (run.loss_BT[:, 1:] * scored).sum(1).numpy() for name, run in found.items()}
            kl += float((found["sae"].kl_BT[:, 1:] * scored).sum())
            n_kl += int(scored.sum())
            for row, i in enumerate(batch.members):
                one = {name: float(values[row]) for name, values in sums.items()}
                totals.update(held[i].document_id, one, int(scored[row].sum()))
            bar.advance(int(batch.mask_BT.sum()))
    return {**totals.metrics(job.spec.seed), "kl_sae": described("kl_sae", kl / n_kl if n_kl else None, n_kl)}


def _batches(held: list[Held], model: LanguageModel, batch_tokens: int) -> Iterator[Batch]:
    vocab_size = int(model.model.config.get_text_config().vocab_size)
    return batches(held, max(1, min(batch_tokens, MAX_LOGITS // vocab_size)))
