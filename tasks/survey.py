"""Survey: a dictionary as a whole. How its directions lie to one another, how often its latents fire, and what of it another
dictionary has, too.

Nothing but weights is needed. Firing, co-firing and labels are told where a store has them: an artifact of stage mine or
evaluate, latent caches, explanations.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic import Field

from tasks.dictionary.clusters import mapped
from tasks.dictionary.firing import densities, sampled, together
from tasks.explain import labels
from tasks.lazy import np, pa, pq, torch
from tasks.spec import Spec
from tasks.stage import Job, Summary, stage

if TYPE_CHECKING:
    import numpy as np

    from artifacts.store import Opened
    from tasks.dictionary.directions import Within
    from tasks.trained import TrainedSAE

COPY = 0.9
"""Cosine from which on a latent counts as a near copy of its nearest."""


class SurveySpec(Spec):
    """How much is looked at, and kept."""

    n_nearest: int = Field(8, ge=1)
    """Nearest latents kept of each."""

    n_candidates: int = Field(32, ge=1)
    """Nearest latents of each that a one-to-one match of two large dictionaries may choose from; of up to 4,096 latents,
    all are weighed."""

    n_tokens: int = Field(65_536, ge=2)
    """Tokens, at even distances, over which activations of two SAEs are correlated; needs latent caches of both on the same
    captures."""

    n_pairs: int = Field(50, ge=1)
    """Most similar pairs of latents that the page lists."""

    n_map: int = Field(120, ge=2)
    """Latents in the map of similarities."""


@stage("survey", version=1, tags=("gpu",))
def survey(job: Job[SurveySpec]) -> Summary:
    """Write ``survey.html``, ``survey.json`` and ``latents.parquet``, with ``pairs.parquet`` of two SAEs.

    Inputs: ``sae`` (of stage train or adopt); of what there is, ``fires`` (mine or evaluate), ``encoded`` and ``explain``
    (lists); and ``other``, another SAE of the same width, with ``other_fires``, ``other_encoded`` (parallel to ``encoded``, of
    the same captures) and ``other_explain``.
    """
    from tasks.reporting.survey import page
    from tasks.trained import TrainedSAE

    spec, opened = job.spec, job.one("sae")
    sae = TrainedSAE.open(opened)
    other = TrainedSAE.open(job.one("other")) if "other" in job.inputs else None
    directions, columns, lists = _directions(job, sae)
    found: dict[str, Any] = {**_named(opened, sae), "directions": directions, "good": COPY}
    label = labels(job.many("explain")) if "explain" in job.inputs else {}
    columns["label"] = [label.get(latent, "") for latent in range(sae.n_latents)]
    found["firing"] = _fires(job, "", sae.n_latents, columns)
    found["pairs"] = _alike(job, lists["decoder"], label)
    if other is not None:
        found["other"] = _named(job.one("other"), other)
        label_of_other = labels(job.many("other_explain")) if "other_explain" in job.inputs else {}
        found["other"]["firing"] = _fires(job, "other_", other.n_latents, {})
        found["matching"] = _matching(job, sae, other, columns, label, label_of_other)
    pq.write_table(_table(columns, lists), job.out / "latents.parquet", compression="zstd")
    (job.out / "survey.json").write_text(json.dumps(found, indent=1, allow_nan=False))
    text = page(found, columns, mapped(sae.W_dec_ND, lists["decoder"].nearest, spec.n_map))
    (job.out / "survey.html").write_text(text, "utf-8")
    decoder = directions["decoder"]
    summary: Summary = {"n_latents": sae.n_latents, "mean_max_cosine": decoder["mean_max"], "n_copies": decoder["n_copies"]}
    if found["firing"]:
        summary |= {name: found["firing"][name] for name in ("n_dead", "n_rare", "n_dense")}
    if other is not None:
        both = found["matching"]
        summary |= {"mmcs": both["first"]["mmcs"], "mmcs_back": both["second"]["mmcs"], "mcc": both["mcc"]}
    return {**summary, "hookpoint": sae.hookpoint}


def _named(opened: Opened, sae: TrainedSAE) -> dict[str, Any]:
    return {
        "artifact": str(opened.artifact), "kind": sae.sae.spec.kind, "hookpoint": sae.hookpoint, "n_latents": sae.n_latents,
        "d_in": sae.d_in, "d_out": sae.W_dec_ND.shape[1],
    }  # fmt: skip


def _directions(job: Job[SurveySpec], sae: TrainedSAE) -> tuple[dict[str, Any], dict[str, Any], dict[str, Within]]:
    """Figures of decoder and encoder rows, a column for each, and the nearest of each latent."""
    from tasks.dictionary.directions import BINS, lengths, within
    from tasks.lm.loading import device_of

    device = device_of(job.runtime)
    rows = {"decoder": sae.W_dec_ND.to(device), "encoder": sae.sae.W_enc_ND.to(device)}
    figures: dict[str, Any] = {"edges": [round(-1 + 2 * i / BINS, 4) for i in range(BINS + 1)]}
    columns: dict[str, Any] = {"latent": np.arange(sae.n_latents, dtype=np.int32)}
    found: dict[str, Within] = {}
    with torch.inference_mode():
        for name, W_ND in rows.items():
            with job.progress.bar(f"{name} cosines", sae.n_latents, "latents") as bar:

                def step(n: int, bar: Any = bar) -> None:
                    job.attempt.check()
                    bar.advance(n)

                found[name] = within(W_ND, min(job.spec.n_nearest, max(1, sae.n_latents - 1)), step)
            first = found[name].nearest.value_NK[:, 0].nan_to_num(neginf=0.0).cpu()
            columns[f"{name}_max_cosine"] = first.numpy()
            figures[name] = {
                "mean_max": found[name].mean_max, "n_copies": int((first > COPY).sum()), "n_pairs": found[name].n_pairs,
                "histogram": found[name].histogram.tolist(),
            }  # fmt: skip
        if rows["decoder"].shape == rows["encoder"].shape:  # in one space: a transcoder's are not
            W_dec, W_enc = rows["decoder"].float(), rows["encoder"].float()
            own = ((W_dec * W_enc).sum(1) / lengths(W_dec) / lengths(W_enc)).cpu()
            columns["own_cosine"] = own.numpy()
            figures["own"] = float(own.double().mean())
    return figures, columns, found


def _fires(job: Job[SurveySpec], whose: str, n_latents: int, columns: dict[str, Any]) -> dict[str, Any] | None:
    """How often latents fire, as far as the store knows; adds columns."""
    if f"{whose}fires" not in job.inputs:
        return None
    opened = job.one(f"{whose}fires")
    name = "latents.parquet" if opened.artifact.stage == "mine" else "density.parquet"
    table = pq.read_table(opened.path / name, columns=["n_fires", "mean_value"])
    n_fires = table["n_fires"].to_numpy()
    columns |= {"n_fires": n_fires, "mean_value": table["mean_value"].to_numpy()}
    n_tokens = opened.summary["n_tokens"]
    columns["density"] = n_fires / max(1, n_tokens)
    return {"of": str(opened.artifact), **densities(n_fires, n_tokens)}


def _alike(job: Job[SurveySpec], decoder: Within, label: dict[int, str]) -> list[dict[str, Any]]:
    """The most similar pairs, each once, with how they fire together."""
    from tasks.mining.cache import Encoded, LatentCache

    value_NK, index_NK = decoder.nearest.value_NK.cpu(), decoder.nearest.index_NK.cpu()
    order = value_NK.flatten().argsort(descending=True)[: 2 * job.spec.n_pairs]  # each may be there from both its ends
    ends = [sorted((i // value_NK.shape[1], int(index_NK.flatten()[i]))) for i in order.tolist()]
    cosine = {tuple(pair): float(value_NK.flatten()[i]) for pair, i in zip(ends, order.tolist(), strict=True)}
    pairs = [pair for pair, value in cosine.items() if np.isfinite(value)][: job.spec.n_pairs]
    rows = [
        {"first": a, "second": b, "cosine": cosine[a, b], "labels": [label.get(a, ""), label.get(b, "")]} for a, b in pairs
    ]
    if "encoded" in job.inputs and pairs:
        cache = LatentCache([Encoded.open(opened) for opened in job.many("encoded")])
        fire = together(cache, pairs)
        for row, n, jaccard, expected in zip(rows, *(part.tolist() for part in fire), strict=True):
            row |= {"n_both": n, "jaccard": jaccard, "expected": expected}
    return rows


def _matching(
    job: Job[SurveySpec], sae: TrainedSAE, other: TrainedSAE, columns: dict[str, Any], label: dict[int, str],
    label_of_other: dict[int, str],
) -> dict[str, Any]:  # fmt: skip
    """Two dictionaries, latent against latent, by direction and by activation; writes ``pairs.parquet``."""
    from tasks.dictionary.matching import in_common, matched
    from tasks.lm.loading import device_of

    device = device_of(job.runtime)
    with torch.inference_mode(), job.progress.bar("match", sae.n_latents, "latents") as bar:
        rows = in_common(sae, other)
        found = matched(*(W.to(device) for W in rows), k=job.spec.n_candidates, step=bar.advance)
    nearest, cosine = found.to_second.index_NK[:, 0].cpu().numpy(), found.to_second.value_NK[:, 0].cpu().numpy()
    columns |= {"match": nearest.astype(np.int32), "match_cosine": cosine}
    partner, partner_cosine = np.full(sae.n_latents, -1, np.int32), np.full(sae.n_latents, np.nan, np.float32)
    partner[found.pairs.first_P], partner_cosine[found.pairs.first_P] = found.pairs.second_P, found.pairs.cosine_P
    columns |= {"partner": partner, "partner_cosine": partner_cosine}
    table: dict[str, Any] = {"first": found.pairs.first_P, "second": found.pairs.second_P, "cosine": found.pairs.cosine_P}
    figures = {**found.figures, "back": found.to_first.value_NK[:, 0].cpu().tolist()}
    figures["activation"] = _activations(job, nearest, columns)
    for side, said in (("first", label), ("second", label_of_other)):
        table[f"{side}_label"] = [said.get(latent, "") for latent in table[side].tolist()]
    pq.write_table(pa.table(table), job.out / "pairs.parquet", compression="zstd")
    order = np.argsort(-cosine, kind="stable")
    most = -(-job.spec.n_pairs // 2)
    shown = {"nearest": order[:most], "lost": order[::-1][:most]}
    for name, some in shown.items():
        figures[name] = [
            {"first": i, "second": int(nearest[i]), "cosine": float(cosine[i]),
             "labels": [label.get(i, ""), label_of_other.get(int(nearest[i]), "")]} for i in some.tolist()
        ]  # fmt: skip
    return figures


def _activations(job: Job[SurveySpec], nearest: np.ndarray, columns: dict[str, Any]) -> dict[str, Any] | None:
    """Whether latents that point the same way fire alike; None without caches of both SAEs."""
    from tasks.dictionary.firing import correlated
    from tasks.mining.cache import Encoded

    if "other_encoded" not in job.inputs:
        return None
    pairs = [[Encoded.open(opened) for opened in job.many(name)] for name in ("encoded", "other_encoded")]
    ours, theirs = (sampled(shards, job.spec.n_tokens) for shards in pairs)
    there = correlated(ours, theirs, nearest)
    back = correlated(theirs, ours, np.zeros(theirs.shape[0], np.int64))
    columns |= {
        "activation_match": there.index_N.astype(np.int32), "activation_correlation": there.value_N,
        "match_correlation": there.asked_N,
    }  # fmt: skip

    def mean(values: np.ndarray) -> float | None:
        values = values[np.isfinite(values)]
        return float(values.astype(np.float64).mean()) if len(values) else None

    known = there.index_N >= 0
    return {
        "n_tokens": ours.shape[1],
        "mean_max": mean(there.value_N),
        "mean_max_back": mean(back.value_N),
        "of_nearest": mean(there.asked_N),
        "same": float((there.index_N[known] == nearest[known]).mean()) if known.any() else None,
    }


def _table(columns: dict[str, Any], lists: dict[str, Within]) -> pa.Table:
    """One row per latent."""
    found = {name: pa.array(values) for name, values in columns.items()}
    for name, part in lists.items():
        width = part.nearest.index_NK.shape[1]
        for what, values, kind in (
            ("nearest", part.nearest.index_NK, pa.int32()), ("cosine", part.nearest.value_NK, pa.float32()),
        ):  # fmt: skip
            flat = pa.array(values.cpu().numpy().ravel()).cast(kind)
            found[f"{name}_{what}"] = pa.FixedSizeListArray.from_arrays(flat, width)
    return pa.table(found)
