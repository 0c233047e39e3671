"""Evaluate an SAE on held-out documents: how well it reconstructs, how often latents fire, what the model loses by it.

Reconstruction is measured on the stored rows of the test split. The losses come from running the language model over the
same contexts four times: as it is, and with the activation at the hookpoint replaced by its reconstruction, by zero and
by its mean. The BOS position (and any other special token) keeps its own activation in every run: what stands there is
an attention sink of enormous norm that no SAE here was trained on, and zeroing it would flatter every SAE.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field

from artifacts.activations import CHUNK_ROWS, Activations
from tasks.lazy import F, np, pa, pq, torch
from tasks.lm.buckets import Batch, batches
from tasks.metrics import Firing, Losses, Reconstruction, described
from tasks.spec import Spec, SpecError
from tasks.stage import Job, Summary, stage

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.lm.language_model import LanguageModel
    from tasks.trained import TrainedSAE

MAX_LOGITS = 2**26
"""Numbers in one batch of logits; a vocabulary of 128,000 makes a batch of 8,192 tokens 4 GB."""


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
    """Measure one SAE. Inputs: ``lm``, ``sae`` (of stage train), ``shards`` (captures of the test split)."""
    from tasks.lm.loading import device_of
    from tasks.trained import TrainedSAE

    shards = [Activations.open(opened.path, str(opened.artifact)) for opened in job.many("shards")]
    if not sum(shard.n_rows for shard in shards):
        raise SpecError(f"evaluate has {len(shards)} shards without a row, but it needs text; make corpus.test larger")
    sae = TrainedSAE.open(job.one("sae")).to(device_of(job.runtime))
    reconstruction, firing = reconstructed(job, sae, shards)
    metrics = {**firing.metrics(), **reconstruction.metrics()}
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


def reconstructed(job: Job[EvaluateSpec], sae: TrainedSAE, shards: list[Activations]) -> tuple[Reconstruction, Firing]:
    """Reconstruction and firing over the stored rows."""
    found, firing = Reconstruction(), Firing(len(sae.W_dec_ND))
    chosen = spread([(shard, chunk) for shard in shards for chunk in range(shard.n_chunks)], job.spec.max_tokens)
    total = sum(shard.rows_of(chunk) for shard, chunk in chosen)
    with torch.inference_mode(), job.progress.bar("evaluate reconstruction", total, "tokens") as bar:
        for shard, chunk in chosen:
            x_BD = shard.chunk(chunk).float().to(sae.W_dec_ND.device)
            y_BD, undo = sae.norm.apply(x_BD)
            latents = sae.sae.encode(y_BD)  # once for both: the encoder is nearly all of the work
            firing.update(latents)
            found.update(x_BD, sae.norm.invert(sae.sae.decode(latents, y_BD), undo))
            bar.advance(len(x_BD), fvu=found.fvu)
    return found, firing


def spread(chunks: list[tuple[Activations, int]], max_tokens: int | None) -> list[tuple[Activations, int]]:
    """Chunks at even distances, so many that they hold ``max_tokens`` rows or a little more."""
    wanted = len(chunks) if max_tokens is None else min(len(chunks), -(-max_tokens // CHUNK_ROWS))
    return [chunks[i * len(chunks) // wanted] for i in range(wanted)]


class Held(NamedTuple):
    """One stored context, made whole again."""

    token_id: np.ndarray
    keep: np.ndarray
    document_id: int


def contexts(shards: list[Activations], n: int, bos_token_id: int | None) -> list[Held]:
    """``n`` stored contexts at even distances, with BOS put back where it was left out."""
    offsets = [(shard, c) for shard in shards for c in range(shard.n_contexts)]
    n = min(n, len(offsets))
    return [_whole(*offsets[i * len(offsets) // n], bos_token_id) for i in range(n)]


def _whole(shard: Activations, c: int, bos_token_id: int | None) -> Held:
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
    job: Job[EvaluateSpec], sae: TrainedSAE, shards: list[Activations], mean_D: Tensor
) -> dict[str, dict[str, Any]]:
    """What the language model loses when the activation is replaced."""
    from tasks.lm.language_model import Edit, LanguageModel

    model = LanguageModel.open(job.one("lm"), job.runtime, dtype=job.spec.dtype)
    held = contexts(shards, job.spec.ce_contexts, model.bos_token_id)
    device = sae.W_dec_ND.device
    runs: dict[str, Callable[[Tensor], Tensor] | None] = {
        "clean": None,
        "sae": lambda x_BD: sae.reconstruct(x_BD.float().to(device)).to(x_BD),
        "zero": torch.zeros_like,
        "mean": lambda x_BD: mean_D.to(x_BD).expand_as(x_BD),
    }
    losses, kl, n_kl = Losses(tuple(runs)), 0.0, 0
    total = sum(len(context.token_id) for context in held)
    with torch.inference_mode(), job.progress.bar("evaluate losses", total, "tokens") as bar:
        for batch in _batches(held, model, job.runtime.lm_batch_tokens):
            sums: dict[str, np.ndarray] = {}
            clean: Tensor | None = None
            scored = batch.keep_BT[:, 1:]  # position t is scored by the token at t + 1
            for name, replace in runs.items():
                edit = None if replace is None else Edit(sae.hookpoint, _editing(batch.keep_BT, replace))
                logits = model.logits(batch.token_BT, batch.mask_BT, edit)[:, :-1]
                log_p = F.log_softmax(logits.float(), -1)
                target = batch.token_BT[:, 1:, None].to(log_p.device)
                loss = -log_p.gather(-1, target)[..., 0].cpu().double() * scored
                sums[name] = loss.sum(1).numpy()
                if name == "clean":
                    clean = log_p
                elif name == "sae" and clean is not None:
                    distance = (clean.exp() * (clean - log_p)).sum(-1).cpu().double()
                    kl += float((distance * scored).sum())
                    n_kl += int(scored.sum())
            for row, i in enumerate(batch.members):
                one = {name: float(values[row]) for name, values in sums.items()}
                losses.update(held[i].document_id, one, int(scored[row].sum()))
            bar.advance(int(batch.mask_BT.sum()))
    return {**losses.metrics(job.spec.seed), "kl_sae": described("kl_sae", kl / n_kl if n_kl else None, n_kl)}


def _batches(held: list[Held], model: LanguageModel, batch_tokens: int) -> Iterator[Batch]:
    vocab_size = int(model.model.config.get_text_config().vocab_size)
    return batches(held, max(1, min(batch_tokens, MAX_LOGITS // vocab_size)))


def _editing(keep_BT: Tensor, replace: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The edit that replaces the wanted positions and leaves BOS and padding as they are."""

    def edit(x_BTD: Tensor) -> Tensor:
        keep = keep_BT.to(x_BTD.device)
        edited = x_BTD.clone()
        edited[keep] = replace(x_BTD[keep])
        return edited

    return edit
