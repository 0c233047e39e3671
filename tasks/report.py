"""Report: a page that a person wants to look at. No network, a strict content policy, all foreign text escaped.

One file, while five megabytes hold every latent's card; for more latents their cards lie in pieces beside it, loaded when
they are asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field

from tasks.asking import paid_now
from tasks.lazy import pq
from tasks.reporting import latents, pieces
from tasks.reporting.alike import alike
from tasks.reporting.cards import cards
from tasks.reporting.pages import embedded, rendered
from tasks.reporting.scores import scales
from tasks.spec import Spec
from tasks.stage import Job, Summary, stage

LARGEST = 4_800_000
"""Bytes of ``report.html`` at most: what does not fit lies beside it."""

PER_PIECE = 128
"""Latents whose cards are loaded together."""


class ReportSpec(Spec):
    """How much the page shows."""

    n_cards: Literal["all"] | Annotated[int, Field(ge=1)] = "all"
    """Latents whose windows can be looked at; the index has all latents in any case."""

    n_best: int = Field(12, ge=1)
    """Cards shown at once of the best latents, and half as many of the worst."""

    n_windows: int = Field(8, ge=1)
    """Windows on a card of the strongest quantile; of each other a quarter as many, and half as many near misses."""


@stage("report", version=3)
def report(job: Job[ReportSpec]) -> Summary:
    """Write ``report.html``, and ``latents/*.html`` beside it where not all fits into one file.

    Inputs: corpus, lm, train, evaluate, mine, explain, scores (a list), statistics.
    """
    statistics = job.one("statistics").path
    analysis = json.loads((statistics / "analysis.json").read_text())
    rows = pq.read_table(statistics / "latents.parquet").to_pylist()
    index = latents.columns(job.one("mine"), rows, analysis["scorers"])
    n = len(rows)
    kept = list(range(n)) if job.spec.n_cards == "all" else latents.chosen(index, job.spec.n_cards)
    near, spread = alike(job.one("train"), kept)
    shell = _page(job, analysis, rows, spread)
    data = _data(job, index, kept, near, scales(analysis, rows), LARGEST - len(shell("", True).encode()))
    beside = [file.stat().st_size for file in (job.out / pieces.FOLDER).glob("*")]
    text = shell(embedded(data), bool(beside))
    (job.out / "report.html").write_text(text, "utf-8")
    return {"bytes": len(text.encode()), "n_cards": len(kept), "bytes_beside": sum(beside)}


def _data(
    job: Job[ReportSpec], index: dict[str, Any], kept: list[int], near: Mapping[int, Any], scales: list[Any], room: int
) -> dict[str, Any]:
    """What the page's script reads, in so many bytes; pieces that do not fit are written beside the page."""
    mine, explain, folder = job.one("mine"), job.one("explain"), job.out / pieces.FOLDER
    have, n_best = set(kept), job.spec.n_best
    sure = [latent for latent in latents.by_surety(index) if latent in have]
    best, worst = sure[:n_best], sure[n_best:][-max(1, n_best // 2) :][::-1]

    def carded(some: Iterable[int]) -> Iterator[tuple[int, dict[str, Any]]]:
        return cards(mine, explain, some, near, job.spec.n_windows)

    data: dict[str, Any] = {
        "n": len(index["density"]), "scorers": scales, "best": best, "worst": worst, "per_piece": PER_PIECE,
        "kept": None if job.spec.n_cards == "all" else pieces.packed(kept),
        "first": pieces.packed(dict(carded([*best, *worst]))),
    }  # fmt: skip
    room -= pieces.size(data)
    data["columns"] = {}
    for name, column in index.items():
        pack = pieces.packed(column)
        fits = pieces.size(pack) < room
        room -= pieces.size(pack) if fits else 0
        data["columns"][name] = pack if fits else None
        if not fits:
            pieces.write(pack, folder, name.replace("/", "-"))
    with job.progress.bar("report", len(kept), "latents") as bar:

        def several() -> Iterator[Any]:
            for part in pieces.batches(carded(kept), PER_PIECE):
                yield pieces.packed(dict(part))
                bar.advance(len(part))

        data["pieces"] = pieces.inside(several(), room, folder)
    return data


def _page(
    job: Job[ReportSpec], analysis: dict[str, Any], rows: list[dict[str, Any]], spread: dict[str, Any]
) -> Callable[[str, bool], str]:
    """The page but for its data, as a function of those and of whether pieces of them lie beside it."""
    from markupsafe import Markup

    from tasks.reporting import gather, plots, scores, survey_plots

    log = pq.read_table(job.one("train").path / "log.parquet").to_pylist()
    metrics = json.loads((job.one("evaluate").path / "metrics.json").read_text())

    def plot(svg: str, caption: str) -> dict[str, Any]:
        return {"svg": Markup(svg), "caption": caption}  # made by us from numbers alone

    inputs = [job.one(n) for n in ("corpus", "lm", "train", "evaluate", "mine", "explain")] + list(job.many("scores"))
    inputs.append(job.one("statistics"))
    train, lm = job.one("train").summary, job.one("lm").summary
    sae = json.loads((job.one("train").path / "sae.json").read_text())
    shell = partial(
        rendered,
        "page.html.j2",
        ("reading.js", "card.js", "index.js"),
        ("style.css", "scores.css", "index.css"),
        title=f"{lm['name']} at {train['hookpoint']}: {train['n_latents']:,} latents",
        subtitle=(
            f"{sae['spec']['kind']} SAE, expansion {train['n_latents'] / train['d_in']:g} of d_in {train['d_in']}, "
            + (
                f"imported from {sae['adopted']['format']}"
                if "adopted" in sae
                else f"trained on {train['n_tokens']:,} tokens of {job.one('corpus').summary['n_documents']:,} documents"
            )
        ),
        figures=_figures(job, metrics, analysis, scores.headline(analysis)),
        scores=scores.section(analysis, rows),
        scorers=[scorer["name"] for scorer in analysis["scorers"]],
        sae_plots=[
            *([plot(plots.training(log), "Fraction of variance unexplained, on train and held-out documents")] if log else []),
            *([plot(plots.dead(log), "Latents silent for long, and the learning rate")] if log else []),
            plot(plots.losses(metrics), "What the language model loses by the SAE"),
            plot(plots.densities([row["density"] for row in rows]), "How often latents fire"),
            *(plot(svg, caption) for svg, caption in survey_plots.sampled(spread)),
        ],
        metrics=[
            {"name": n, "value": _shown(m["value"]), "definition": m.get("definition", ""), "source": m.get("source", "")}
            for n, m in metrics.items()
        ],
        provenance=gather.provenance(inputs),
    )
    return lambda data, frames: shell(data=Markup(data), frames=frames)  # escaped by embedded


def _figures(job: Job, metrics: dict[str, Any], analysis: dict[str, Any], score: dict[str, str]) -> list[dict[str, str]]:
    """The row of headline figures."""

    def metric(name: str, label: str, more: str = "") -> dict[str, str]:
        found = metrics.get(name, {})
        interval = f"95% {found['low']:.3f} to {found['high']:.3f}" if found.get("low") is not None else more
        return {"name": label, "value": _shown(found.get("value")), "more": interval, "about": found.get("definition", "")}

    usd = sum(paid_now(o.summary) for o in [job.one("explain"), *job.many("scores")])
    n_latents = f"{analysis['n_latents']:,}"
    scored = analysis["scorers"][0] if analysis["scorers"] else None
    good = "" if scored is None else f"{round((scored['good']['value'] or 0) * scored['n_scored']):,} score {analysis['good']:g} or more"
    return [
        metric("fvu", "FVU", "on held-out documents"),
        metric("l0", "L0", "active latents a token"),
        metric("ce_loss_recovered", "CE loss recovered"),
        {"name": "alive", "value": f"{analysis['n_alive']:,}", "more": f"of {n_latents} latents", "about": "latents that fired at all"},
        {"name": "explained", "value": f"{analysis['explanations'].get('ok', 0):,}", "more": good, "about": ""},
        score,
        {"name": "cost", "value": f"${usd:,.2f}", "more": "of LLM requests", "about": "explaining and scoring"},
    ]


def _shown(value: Any) -> str:
    if value is None:
        return "not measured"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
