"""Mine: for every latent, where it fires, how strongly, and where it does not though one might think so.

Two stages: ``mine_shard`` surveys one captured shard in one pass, ``mine`` merges the surveys. Windows of the train split
are for explainers, windows of the test split for scorers; splits share no document.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from pydantic import Field

from artifacts.activations import Activations
from tasks.explainers.base import LatentExamples, Window
from tasks.lazy import np, pa, pc, pq, torch
from tasks.mining.kept import Columns, by_strength, taken
from tasks.mining.merge import Merged
from tasks.mining.survey import Survey, histogram_edges
from tasks.spec import Spec
from tasks.stage import Job, Summary, stage

if TYPE_CHECKING:
    from artifacts.store import Opened
    from tasks.trained import TrainedSAE

_ENCODE_ROWS = 4096
_LOGIT_LATENTS = 256


class SurveySpec(Spec):
    """What is kept of each latent."""

    window_tokens: int = Field(32, ge=4)
    """Tokens of a window, three quarters of them before the peak, clipped to its context."""

    n_top: int = Field(20, ge=1)
    """Strongest contexts kept per latent, of the train split."""

    n_quantile: int = Field(40, ge=1)
    """Contexts sampled per latent over its whole range of activation, of each split."""

    n_quantiles: int = Field(10, ge=1)
    """Slices, by rank, that the sample is told apart in; 0 is the strongest."""

    n_sentences: int = Field(10, ge=1)
    """Sentences kept per latent and ranking (mean, max, last)."""

    n_pool: int = Field(2048, ge=1)
    """Windows drawn at random per split, from which non-activating ones are taken."""

    block_rows: int = Field(8192, ge=256)
    """Rows taken at a time: more is faster and needs more memory."""

    seed: int = 0


class MineSpec(SurveySpec):
    """What is kept of each latent, non-activating windows included."""

    n_random: int = Field(40, ge=0)
    """Random non-activating windows per latent and split."""

    n_near_miss: int = Field(20, ge=0)
    """Non-activating windows that share a token with the latent's peaks, per latent and split."""

    n_promoted: int = Field(10, ge=1)
    """Tokens listed that a decoder row pushes up, and down."""

    def survey(self) -> SurveySpec:
        """The part that a shard's survey depends on."""
        return SurveySpec(**{name: getattr(self, name) for name in SurveySpec.model_fields})


@stage("mine_shard", version=1, tags=("gpu",))
def mine_shard(job: Job[SurveySpec]) -> Summary:
    """Survey one shard. Inputs: ``sae`` (of stage train), ``shard`` (a capture)."""
    from tasks.lm.loading import device_of
    from tasks.trained import TrainedSAE

    shard = job.one("shard")
    sae = TrainedSAE.open(job.one("sae")).to(device_of(job.runtime))
    rows = Activations.open(shard.path, str(shard.artifact))
    survey = Survey(job.spec, sae.n_latents, rows, shard.summary["split"])
    device = sae.W_dec_ND.device
    with job.progress.bar(f"mine {shard.summary['split']}", rows.n_rows, "tokens") as bar:
        for start, stop in survey.blocks():
            index, value = [], []
            for first in range(start, stop, _ENCODE_ROWS):
                found = sae.encode(rows.activations(first, min(first + _ENCODE_ROWS, stop)).to(device))
                index.append(found.index_BK.cpu().numpy())
                value.append(found.value_BK.cpu().numpy())
            survey.take(start, stop, np.concatenate(index), np.concatenate(value))
            job.attempt.check()
            bar.advance(stop - start)
    np.savez(job.out / "survey.npz", **survey.arrays())
    return {"n_rows": rows.n_rows, "split": shard.summary["split"], "n_latents": sae.n_latents}


@stage("mine", version=1)
def mine(job: Job[MineSpec]) -> Summary:
    """Merge the surveys. Inputs: ``sae``, ``lm``, ``surveys`` (stage mine_shard, of splits train and test)."""
    from tasks.lm.language_model import LanguageModel
    from tasks.trained import TrainedSAE

    spec = job.spec
    sae = TrainedSAE.open(job.one("sae"))
    merged = {}
    for split in ("train", "test"):
        surveys = []
        for opened in job.many("surveys"):
            if opened.summary["split"] == split:
                with np.load(opened.path / "survey.npz") as arrays:
                    surveys.append(dict(arrays))
        merged[split] = Merged(surveys, spec.survey(), sae.n_latents, split)
    lm = LanguageModel.open(job.one("lm"), job.runtime)
    texts = lm.token_strings()
    (job.out / "tokens.json").write_text(json.dumps(texts))
    windows = pa.concat_tables([table for split in merged for table in _window_tables(merged[split], spec)])
    windows = windows.take(pc.sort_indices(windows, [("latent", "ascending")]))  # stable: the order within a latent stays
    pq.write_table(windows, job.out / "windows.parquet", compression="zstd", row_group_size=1 << 16)
    pq.write_table(_sentence_table(merged), job.out / "sentences.parquet", compression="zstd")
    pq.write_table(_latent_table(merged["train"]), job.out / "latents.parquet", compression="zstd")
    counts = merged["train"].token_counts
    pq.write_table(
        pa.table({"token_id": np.arange(len(counts), dtype=np.int32), "count": counts}), job.out / "token_counts.parquet"
    )
    pq.write_table(_promoted_table(lm, sae, texts, spec.n_promoted), job.out / "promoted.parquet", compression="zstd")
    fires = merged["train"].n_fires
    return {
        "n_latents": sae.n_latents,
        "n_alive": int((fires > 0).sum()),
        "n_tokens": merged["train"].n_tokens,
        "n_windows": windows.num_rows,
        "histogram_edges": histogram_edges(),
        "hookpoint": sae.hookpoint,
    }


def _window_tables(merged: Merged, spec: MineSpec) -> Iterator[pa.Table]:
    """Activating windows, then non-activating ones, of one split."""
    if merged.windows is not None:
        found = merged.windows
        order = np.lexsort((found["rank"], found["latent"]))
        found = taken(found, order)
        group = np.where(found["sampled"], "quantile", "top")
        yield _windows(merged.split, found, group, found["values"], found["quantile"], found["value"])
    chosen = merged.negatives(spec)
    pool = taken({n: v for n, v in merged.pool.items() if n != "peak"}, chosen["window"])
    columns = {**pool, "latent": chosen["latent"], "peak": chosen["peak"], "rank": chosen["rank"]}
    n = len(chosen["latent"])
    group = np.where(chosen["near"], "near_miss", "random")
    values = np.zeros((n, spec.window_tokens), np.float32)
    yield _windows(merged.split, columns, group, values, np.full(n, -1), np.zeros(n, np.float32))


def _windows(
    split: str, columns: Columns, group: np.ndarray, values: np.ndarray, quantile: np.ndarray, strength: np.ndarray
) -> pa.Table:
    tokens = columns["tokens"]
    inside = tokens >= 0
    offsets = np.concatenate([[0], np.cumsum(inside.sum(1))]).astype(np.int32)
    ids = [f"{split}/{d}/{p}" for d, p in zip(columns["document_id"].tolist(), columns["place"].tolist(), strict=True)]
    return pa.table(
        {
            "latent": columns["latent"].astype(np.int32),
            "window_id": pa.array(ids, pa.string()),
            "split": pa.array([split] * len(ids), pa.string()),
            "group": pa.array(group.tolist(), pa.string()),
            "rank": columns["rank"].astype(np.int32),
            "quantile": quantile.astype(np.int32),
            "document_id": columns["document_id"].astype(np.int32),
            "sentence_id": columns["sentence_id"].astype(np.int32),
            "tokens": pa.ListArray.from_arrays(offsets, tokens[inside]),
            "values": pa.ListArray.from_arrays(offsets, values[inside]),
            "peak": columns["peak"].astype(np.int32),
            "starts_context": columns["starts_context"],
            "strength": strength.astype(np.float32),
        }
    )


def _sentence_table(merged: dict[str, Merged]) -> pa.Table:
    parts = []
    for split, found in merged.items():
        for ranking, columns in found.sentences.items():
            columns = taken(columns, np.lexsort((columns["rank"], columns["latent"])))
            parts.append(
                pa.table(
                    {
                        "latent": columns["latent"].astype(np.int32),
                        "ranking": pa.array([ranking] * len(columns["latent"]), pa.string()),
                        "rank": columns["rank"].astype(np.int32),
                        "sentence_id": columns["sentence_id"].astype(np.int32),
                        "document_id": columns["document_id"].astype(np.int32),
                        "split": pa.array([split] * len(columns["latent"]), pa.string()),
                        "value": columns["value"],
                    }
                )
            )
    return pa.concat_tables(parts) if parts else pa.table({"latent": pa.array([], pa.int32())})


def _latent_table(found: Merged) -> pa.Table:
    share, token = np.zeros(found.n), np.full(found.n, -1, np.int64)
    if found.windows is not None:
        columns = taken(found.windows, found.windows["sampled"])
        peaks = columns["tokens"][np.arange(len(columns["latent"])), columns["peak"]].astype(np.int64)
        pair, count = np.unique(columns["latent"] * (1 << 32) + peaks, return_counts=True)
        best = by_strength({"latent": pair >> 32, "value": count, "document_id": pair, "place": pair}) == 0
        size = np.bincount(columns["latent"], minlength=found.n)
        latent = (pair >> 32)[best]
        share[latent], token[latent] = count[best] / size[latent], (pair & 0xFFFFFFFF)[best]
    return pa.table(
        {
            "latent": np.arange(found.n, dtype=np.int32),
            "n_fires": found.n_fires,
            "density": found.n_fires / max(1, found.n_tokens),
            "n_tokens": np.full(found.n, found.n_tokens),
            "max_value": found.largest,
            "mean_value": (found.total / np.maximum(1, found.n_fires)).astype(np.float32),
            "histogram": pa.array(found.histogram.tolist(), pa.list_(pa.int64())),
            "single_token_share": share,
            "top_token": token.astype(np.int32),
        }
    )


def _promoted_table(lm: Any, sae: TrainedSAE, texts: list[str], n: int) -> pa.Table:
    """Tokens that each decoder row pushes up and down through the unembedding, the final norm's gain folded in."""
    W_VD, _ = lm.unembedding()
    W_VD = W_VD - W_VD.mean(0)  # a push on all tokens alike changes no probability
    W_ND = sae.W_dec_ND.to(W_VD.device)
    up, down = [], []
    item = pa.list_(pa.struct([("token", pa.string()), ("logit", pa.float32())]))
    for start in range(0, len(W_ND), _LOGIT_LATENTS):
        logits = W_ND[start : start + _LOGIT_LATENTS].float() @ W_VD.T
        for found, largest in ((up, True), (down, False)):
            value, index = torch.topk(logits, min(n, logits.shape[1]), dim=-1, largest=largest)
            for values, tokens in zip(value.tolist(), index.tolist(), strict=True):
                found.append([{"token": texts[t], "logit": v} for t, v in zip(tokens, values, strict=True)])
    latent = pa.array(range(len(W_ND)), pa.int32())
    return pa.table({"latent": latent, "promoted": pa.array(up, item), "suppressed": pa.array(down, item)})


def examples(opened: Opened, latents: Iterable[int] | None = None) -> Iterator[LatentExamples]:
    """All that is known of each latent, in ascending order. ``latents`` limits it to some. Bounded memory."""
    texts = json.loads((opened.path / "tokens.json").read_text())
    facts = pq.read_table(opened.path / "latents.parquet", columns=["n_fires", "density", "max_value"]).to_pydict()
    promoted = pq.read_table(opened.path / "promoted.parquet")
    table = pq.read_table(opened.path / "windows.parquet", memory_map=True)
    owner = table["latent"].to_numpy()
    wanted = range(len(facts["n_fires"])) if latents is None else sorted(set(latents))
    for latent in wanted:
        begin, end = np.searchsorted(owner, [latent, latent + 1])
        up, down = ([(t["token"], t["logit"]) for t in promoted[c][latent].as_py()] for c in ("promoted", "suppressed"))
        yield LatentExamples(
            latent=latent,
            n_fires=facts["n_fires"][latent],
            density=facts["density"][latent],
            max_value=facts["max_value"][latent],
            windows=tuple(_window(row, texts) for row in table.slice(begin, end - begin).to_pylist()),
            promoted=tuple(up),
            suppressed=tuple(down),
        )


def _window(row: dict[str, Any], texts: list[str]) -> Window:
    return Window(
        window_id=row["window_id"],
        split=row["split"],
        group=row["group"],
        quantile=row["quantile"],
        document_id=row["document_id"],
        tokens=tuple(texts[t] for t in row["tokens"]),
        values=tuple(row["values"]),
        peak=row["peak"],
        starts_context=row["starts_context"],
    )
