"""Probe: whether an SAE has latents for the first letters of words, and where other latents absorb them.

Nothing but activations is needed: those that a store has of the SAE's hookpoint, with their tokens. See
``tasks.dictionary.letters`` for what is measured.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from artifacts.activations import CHUNK_ROWS, Activations
from tasks.dictionary.letters import LETTERS, Criteria, Tokens, first_letters, studied
from tasks.evaluate import spread
from tasks.explain import labels
from tasks.lazy import F, np, torch
from tasks.saes.base import Latents
from tasks.spec import Spec, SpecError
from tasks.stage import Job, Summary, stage

if TYPE_CHECKING:
    import numpy as np

    from tasks.trained import TrainedSAE


class ProbeSpec(Spec):
    """Which tokens are looked at, and what counts."""

    hold_out: Literal["tokens", "documents"] = "tokens"
    """What probes are tested on: a fifth of the vocabulary that they never saw, as in the paper, or the documents of the test
    split, which small vocabularies need."""

    per_token: int = Field(32, ge=1)
    """Occurrences of each token of the vocabulary at most, so that frequent words do not drown the others."""

    max_tokens: int = Field(2_000_000, ge=1)
    """Rows that are searched for them, in chunks spread evenly over the captures."""

    n_latents: int = Field(10, ge=1)
    """Latents of the largest sparse probe."""

    gain: float = Field(0.03, gt=0)
    """F1 that a further latent must add to count as one of the main latents of a letter."""

    min_f1: float = Field(0.6, ge=0, le=1)
    """F1 of the probe on activations, below which a letter is left out of the means."""

    min_tokens: int = Field(10, ge=1)
    """Occurrences of a letter, for training and for testing each, without which it is left out."""

    seed: int = Field(0, ge=0)
    """Of the draw of held-out tokens."""


@stage("probe", version=1, tags=("gpu",))
def probe(job: Job[ProbeSpec]) -> Summary:
    """Write ``probe.json`` and ``probe.html``. Inputs: ``sae``, ``lm``, ``shards`` (captures of its hookpoint: of split train,
    and of split test where documents are held out) and, where there are any, ``explain`` (a list)."""
    from tasks.lm.language_model import LanguageModel
    from tasks.lm.loading import device_of
    from tasks.reporting.probe import page
    from tasks.trained import TrainedSAE

    spec, opened = job.spec, job.one("sae")
    sae = TrainedSAE.open(opened)
    check_site(sae.hookpoint, str(opened.artifact))
    texts = LanguageModel.open(job.one("lm"), job.runtime, n_layers=1).token_strings()
    sae.to(device_of(job.runtime))
    splits: dict[str, list[Activations]] = {"train": [], "test": []}
    for shard in job.many("shards"):
        splits[shard.summary["split"]].append(Activations.open(shard.path, str(shard.artifact)))
    begins_V = first_letters(texts) >= 0
    if spec.hold_out == "tokens":
        held_V = np.random.default_rng(spec.seed).random(len(texts)) < 0.2
        drawn = [(splits["train"], begins_V & ~held_V), (splits["train"], begins_V & held_V)]
    else:
        drawn = [(splits["train"], begins_V), (splits["test"], begins_V)]
    with torch.inference_mode():
        train, test = (_tokens(job, sae, shards, wanted_V) for shards, wanted_V in drawn)
        criteria = Criteria(spec.n_latents, spec.gain, spec.min_f1, spec.min_tokens)
        with job.progress.bar("letters", len(LETTERS), "letters") as bar:
            found = studied(train, test, sae.W_dec_ND, texts, criteria, bar.advance)
    label = labels(job.many("explain")) if "explain" in job.inputs else {}
    named = {"artifact": str(opened.artifact), "kind": sae.sae.spec.kind, "hookpoint": sae.hookpoint, "n_latents": sae.n_latents}
    found = {**named, "hold_out": spec.hold_out, "min_f1": spec.min_f1, **found}
    for row in found["letters"]:
        for entry in (*row["latents"], *row["absorbers"]):
            entry["label"] = label.get(entry["latent"], "")
    (job.out / "probe.json").write_text(json.dumps(found, indent=1, allow_nan=False))
    (job.out / "probe.html").write_text(page(found), "utf-8")
    means = ("n_letters", "probe_f1", "sparse_f1", "full_rate", "mean_fraction", "n_main")
    return {**{name: found[name] for name in means}, "hookpoint": sae.hookpoint, "n_latents": sae.n_latents}


def check_site(hookpoint: str, name: str) -> None:
    """Raise ``SpecError`` for an SAE whose decoder writes elsewhere than its encoder reads, or in several places."""
    if ":" in hookpoint or "+" in hookpoint:
        raise SpecError(
            f"{name} stands at {hookpoint}, but a probe of what is read says nothing of what is written elsewhere; "
            "name an SAE that gives back what it reads"
        )


def _tokens(job: Job[ProbeSpec], sae: TrainedSAE, shards: Sequence[Activations], wanted_V: np.ndarray) -> Tokens:
    """Occurrences of the wanted tokens, at most ``per_token`` of each, through the SAE."""
    device = sae.W_dec_ND.device
    chunks = spread([(shard, chunk) for shard in shards for chunk in range(shard.n_chunks)], job.spec.max_tokens)
    left_V = np.where(wanted_V, job.spec.per_token, 0)
    x, index, value, token = [], [], [], []
    with job.progress.bar("find words", len(chunks) * CHUNK_ROWS, "tokens") as bar:
        for shard, chunk in chunks:
            start = chunk * CHUNK_ROWS
            ids = shard.column("token_id", start, start + shard.rows_of(chunk)).astype(np.int64)
            rows = _first_of_each(ids, left_V)
            bar.advance(CHUNK_ROWS)
            if not len(rows):
                continue
            job.attempt.check()
            y_BD = sae.norm.apply(shard.chunk(chunk)[torch.from_numpy(rows)].float().to(device))[0]
            latents = sae.sae.encode(y_BD)
            x.append(y_BD)
            index.append(latents.index_BK)
            value.append(latents.value_BK.float())
            token.append(torch.from_numpy(ids[rows]))
    if not x:
        raise SpecError(
            "probe found no token that begins a word in these activations, but it needs some; "
            "its tokenizer may not mark where words begin, or use hold_out=documents"
        )
    width = max(part.shape[1] for part in index)  # kinds whose L0 differs give as many columns as a batch needs
    wide = [[F.pad(part, (0, width - part.shape[1])) for part in parts] for parts in (index, value)]
    return Tokens(torch.cat(x), Latents(torch.cat(wide[0]), torch.cat(wide[1])), torch.cat(token).to(device))


def _first_of_each(ids: np.ndarray, left_V: np.ndarray) -> np.ndarray:
    """Rows of tokens of which some are still wanted, ascending; counts them off ``left_V``."""
    order = np.argsort(ids, kind="stable")
    sorted_ids = ids[order]
    rank = np.arange(len(ids)) - np.searchsorted(sorted_ids, sorted_ids)
    taken = order[rank < left_V[sorted_ids]]
    np.subtract.at(left_V, ids[taken], 1)
    return np.sort(taken)
