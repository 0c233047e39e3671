"""Report: one HTML file that a person wants to look at. No network, a strict content policy, all foreign text escaped."""

from __future__ import annotations

import json
from typing import Any

from pydantic import Field

from tasks.asking import paid_now
from tasks.lazy import pq
from tasks.reporting.pages import embedded
from tasks.spec import Spec
from tasks.stage import Job, Summary, stage


class ReportSpec(Spec):
    """How much the page shows."""

    n_cards: int = Field(200, ge=1)
    """Latents whose windows are in the page; all latents are in its table."""

    n_best: int = Field(12, ge=1)
    """Cards shown at once of the best latents, and half as many of the worst."""

    n_windows: int = Field(8, ge=1)
    """Windows of each sort on a card."""


@stage("report", version=2)
def report(job: Job[ReportSpec]) -> Summary:
    """Write ``report.html``. Inputs: corpus, lm, train, evaluate, mine, explain, scores (a list), statistics."""
    text = page(job)
    (job.out / "report.html").write_text(text, "utf-8")
    return {"bytes": len(text.encode()), "n_cards": job.spec.n_cards}


def page(job: Job[ReportSpec]) -> str:
    """The whole page."""
    from markupsafe import Markup

    from tasks.reporting import gather, plots, scores, survey_plots
    from tasks.reporting.alike import alike
    from tasks.reporting.pages import rendered

    spec, mine, explain = job.spec, job.one("mine"), job.one("explain")
    statistics = job.one("statistics").path
    analysis = json.loads((statistics / "analysis.json").read_text())
    latents = pq.read_table(statistics / "latents.parquet").to_pylist()
    rows = gather.latent_rows(mine, latents, analysis["scorers"])
    edges = mine.summary["histogram_edges"]
    for row in rows:
        row["bins"] = plots.activations(row.pop("histogram"), edges)
    cards = gather.cards(mine, explain, gather.chosen(rows, spec.n_cards), spec.n_windows)
    near, spread = alike(job.one("train"), list(cards))
    for latent, card in cards.items():
        card["nearest"] = near[latent]
    scored = sorted((r for r in rows if r["value"] is not None), key=gather.by_surety)
    best = [r["latent"] for r in scored[: spec.n_best]]
    worst = [r["latent"] for r in reversed(scored[spec.n_best :][-(spec.n_best // 2) :])]
    for row in rows:
        if row["latent"] not in cards:
            row["bins"] = []
        del row["value"], row["low"]
    log = pq.read_table(job.one("train").path / "log.parquet").to_pylist()
    metrics = json.loads((job.one("evaluate").path / "metrics.json").read_text())

    def plot(svg: str, caption: str) -> dict[str, Any]:
        return {"svg": Markup(svg), "caption": caption}  # made by us from numbers alone

    inputs = [job.one(n) for n in ("corpus", "lm", "train", "evaluate", "mine", "explain")] + list(job.many("scores"))
    inputs.append(job.one("statistics"))
    train, lm = job.one("train").summary, job.one("lm").summary
    sae = json.loads((job.one("train").path / "sae.json").read_text())
    data = {"latents": rows, "cards": cards, "best": best, "worst": worst, "scorers": scores.scales(analysis, latents)}
    return rendered(
        "page.html.j2",
        "script.js",
        ("style.css", "scores.css"),
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
        data=Markup(embedded(data)),
        n_cards=len(cards),
        scores=scores.section(analysis, latents),
        scorers=[scorer["name"] for scorer in analysis["scorers"]],
        sae_plots=[
            *([plot(plots.training(log), "Fraction of variance unexplained, on train and held-out documents")] if log else []),
            *([plot(plots.dead(log), "Latents silent for long, and the learning rate")] if log else []),
            plot(plots.losses(metrics), "What the language model loses by the SAE"),
            plot(plots.densities([r["density"] for r in latents]), "How often latents fire"),
            *(plot(svg, caption) for svg, caption in survey_plots.sampled(spread)),
        ],
        metrics=[
            {"name": n, "value": _shown(m["value"]), "definition": m.get("definition", ""), "source": m.get("source", "")}
            for n, m in metrics.items()
        ],
        provenance=gather.provenance(inputs),
    )


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
