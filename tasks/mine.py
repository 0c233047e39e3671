"""Mine: for every latent, where it fires, how strongly, and where it does not though one might think so.

Reads the latent caches of the train and the test split, one latent after the other, and writes as it goes: memory is one
latent, a row group and a few numbers per latent. Windows of the train split are for explainers, windows of the test split
for scorers; splits share no document.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from tasks.lazy import np, pa, pq
from tasks.mining.cache import Encoded, LatentCache
from tasks.mining.promoted import write_promoted
from tasks.mining.reading import examples
from tasks.mining.single_token import SingleTokens, SingleTokenSpec
from tasks.mining.split import Kept, Split
from tasks.mining.statistics import histogram_edges
from tasks.mining.tables import Growing, lists, sentences_schema, windows_schema
from tasks.negatives.base import Negatives
from tasks.negatives.near_miss import NearMiss
from tasks.negatives.random import RandomNegatives
from tasks.samplers.base import Sampler
from tasks.samplers.mix import Mix
from tasks.samplers.quantiles import Quantiles
from tasks.spec import Spec, SpecError
from tasks.stage import Job, Summary, stage
from tasks.windows.base import Windows
from tasks.windows.centred import Centred

__all__ = ["MineSpec", "examples", "mine"]

_STEP = 64
"""Latents after which a person is told, and the lease looked at."""


class MineSpec(Spec):
    """What is kept of each latent."""

    windows: Windows = Centred()
    """The text shown around an activation."""

    train_sampler: Sampler = Mix()
    """Which activating windows explainers see."""

    test_sampler: Sampler = Quantiles()
    """Which activating windows scorers see."""

    negatives: tuple[Negatives, ...] = (RandomNegatives(), NearMiss())
    """Kinds of non-activating windows of either split, drawn in this order."""

    min_examples: int = Field(1, ge=1)
    """Activating windows of a split without which a latent gets no windows of that split; the summary counts those."""

    n_sentences: int = Field(10, ge=1)
    """Sentences kept per latent, split and ranking (mean, max, last)."""

    n_pool: int = Field(2048, ge=1)
    """Windows drawn at random per split, from which non-activating ones are taken."""

    n_promoted: int = Field(10, ge=1)
    """Tokens listed that a decoder row pushes up, and down."""

    single_token: SingleTokenSpec = SingleTokenSpec()
    """When a latent counts as standing for one token."""

    seed: int = 0

    @model_validator(mode="after")
    def _each_once(self) -> MineSpec:
        names = [str(kind.kind) for kind in self.negatives]  # type: ignore[attr-defined]
        if len(set(names)) < len(names):
            raise SpecError(f"mine.negatives = {names}, but it names one twice; name each once")
        return self

    def kept(self, split: str) -> Kept:
        """What is kept of a latent in one split."""
        return Kept(
            self.windows, self.train_sampler if split == "train" else self.test_sampler, self.negatives,
            self.min_examples, self.n_sentences, self.n_pool, self.seed,
        )  # fmt: skip


@stage("mine", version=2, tags=("gpu",))
def mine(job: Job[MineSpec]) -> Summary:
    """Go through the latents. Inputs: ``sae``, ``lm``, ``encoded`` (stage encode, of splits train and test)."""
    from tasks.lm.language_model import LanguageModel
    from tasks.trained import TrainedSAE

    spec, sae = job.spec, TrainedSAE.open(job.one("sae"))
    lm = LanguageModel.open(job.one("lm"), job.runtime)
    texts = lm.token_strings()
    (job.out / "tokens.json").write_text(json.dumps(texts))
    unsaid = write_promoted(job.out / "promoted.parquet", lm, sae, texts, spec.n_promoted)
    if unsaid:
        job.progress.note(f"mine lists no tokens that latents push up or down: {unsaid}")
    del lm
    splits = []
    for name in ("train", "test"):
        shards = [Encoded.open(opened) for opened in job.many("encoded") if opened.summary["split"] == name]
        cache = LatentCache(shards, job.attempt.scratch / name)
        splits.append(Split(name, cache, spec.kept(name), sae, texts, job.runtime))
        splits[-1].ground.progress = job.progress
    train, test = splits
    check_apart(train, test)
    with job.progress.bar("mine", sae.n_latents, "latents") as bar:

        def step(n: int) -> None:
            job.attempt.check()
            bar.advance(n)

        found = written(job.out, spec, train, test, step)
    more = {"no_promoted": unsaid} if unsaid else {}
    return {"n_latents": sae.n_latents, **found, "histogram_edges": histogram_edges(), "hookpoint": sae.hookpoint, **more}


def written(out: Path, spec: MineSpec, train: Split, test: Split, step: Callable[[int], None]) -> Summary:
    """Write the tables of all latents but what they promote, and return their figures. Tells ``step`` of latents done."""
    n_latents = train.cache.n_latents
    skipped = {split.name: Counter[str]() for split in (train, test)}
    active, silent = Counter[str](), Counter[str]()
    tokens = SingleTokens(spec.single_token, n_latents)
    with (
        Growing(out / "windows.parquet", windows_schema()) as windows,
        Growing(out / "sentences.parquet", sentences_schema()) as sentences,
    ):
        for latent in range(n_latents):
            for split in (train, test):
                found = split.of(latent)
                for columns in split.sentences(found):
                    sentences.add(columns)
                if split is train:
                    tokens.look(latent, train.peak_tokens(found), train.random(latent, "single token"))
                if why := split.lacks(found):
                    skipped[split.name][why] += 1
                    continue
                columns = split.windows(found)
                windows.add(columns)
                n = int((columns["strength"] > 0).sum())
                active.update(columns["group"][:n])
                silent.update(columns["group"][n:])
            windows.latent_ends()
            sentences.latent_ends()
            if latent % _STEP == _STEP - 1 or latent + 1 == n_latents:
                step(latent % _STEP + 1)
    pq.write_table(latent_table(train, tokens), out / "latents.parquet", compression="zstd")
    counts = train.token_counts()
    ids = np.arange(len(counts), dtype=np.int32)
    pq.write_table(pa.table({"token_id": ids, "count": counts}), out / "token_counts.parquet")
    n_alive = int((train.cache.n_fires > 0).sum())
    return {
        "n_alive": n_alive,
        "fraction_alive": n_alive / max(1, n_latents),
        "n_single_token": int(tokens.weak.sum()),
        "n_single_token_strong": int(tokens.strong.sum()),
        "n_tokens": train.cache.n_rows,
        "n_windows": windows.n_rows,
        "n_activating": dict(sorted(active.items())),
        "n_silent": dict(sorted(silent.items())),
        "n_without_windows": {name: dict(sorted(found.items())) for name, found in skipped.items()},
    }


def check_apart(train: Split, test: Split) -> None:
    """Raise ``ValueError`` when a document is in both splits. A window lies in one document, so no window is, either."""
    both = np.intersect1d(train.documents(), test.documents())
    if len(both):
        raise ValueError(
            f"document {both[0]} is in the train and in the test split of this cache, but scores would mean nothing then; "
            "give shards of one corpus, split once"
        )


def latent_table(train: Split, tokens: SingleTokens) -> Any:
    """One row per latent, of the train split."""
    cache = train.cache
    n_fires = cache.n_fires
    return pa.table(
        {
            "latent": np.arange(len(n_fires), dtype=np.int32),
            "n_fires": n_fires,
            "density": n_fires / max(1, cache.n_rows),
            "n_tokens": np.full(len(n_fires), cache.n_rows),
            "max_value": cache.statistic("largest"),
            "mean_value": (cache.statistic("total") / np.maximum(1, n_fires)).astype(np.float32),
            "histogram": lists(cache.statistic("histogram")),
            "single_token_share": tokens.share,
            "top_token": tokens.token,
            "single_token_weak": tokens.weak,
            "single_token_strong": tokens.strong,
        }
    )
