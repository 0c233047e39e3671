"""The last lines of a run: what came out, in words and numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from artifacts.store import Store
from tasks.stage import Recipe

_BEST = 5


def lines(store: Store, hookpoint: str, named: dict[str, Recipe]) -> Iterator[str]:
    """The summary of one hookpoint."""
    summary = {name: m.summary for name, r in named.items() if (m := store.find(r.artifact)) is not None}
    metrics, explained = summary.get("evaluate", {}), summary.get("explain", {})
    if metrics:
        parts = [f"FVU {metrics['fvu']:.4f}", f"L0 {metrics['l0']:.1f}"]
        if "ce_loss_recovered" in metrics:
            parts.append(f"CE loss recovered {metrics['ce_loss_recovered']:.4f}")
        parts.append(f"dead {metrics['dead_fraction']:.1%}")
        print_name = str(named["train"].artifact)
        yield f"{hookpoint}: {', '.join(parts)} on held-out documents ({print_name})"
    if explained:
        yield f"{explained.get('n_ok', 0):,} of {explained.get('n', 0):,} latents explained, ${explained.get('usd') or 0:.2f}"
        if failed := {s: n for s, n in (explained.get("statuses") or {}).items() if s != "ok"}:
            yield "not explained: " + ", ".join(f"{n:,} {status.replace('_', ' ')}" for status, n in failed.items())
        if not any(name.startswith("score/") for name in summary):
            yield from _labels(store, named)
    for name, found in summary.items():
        if name.startswith("score/") and found.get("mean") is None:
            statuses = ", ".join(f"{n:,} {status}" for status, n in (found.get("statuses") or {}).items())
            yield f"{name.removeprefix('score/')}: no score ({statuses or 'no latents'})"
        elif name.startswith("score/"):
            control = f", shuffled explanations {found['control_mean']:.3f}" if found.get("control_mean") is not None else ""
            metric = found.get("metric", "balanced accuracy")
            yield f"{name.removeprefix('score/')}: mean {metric} {found['mean']:.3f} over {found['n_ok']:,}{control}"
            yield from _best(store, named, name)
    if "report" not in summary:
        for name, file in (("explain", "explanations.parquet"), ("analyse", "latents.parquet")):
            if name in summary:
                opened = store.open(named[name].artifact)
                yield f"{opened.artifact}: {opened.path / file}"
    if "report" in summary:
        yield f"report: {store.open(named['report'].artifact).path / 'report.html'}"


def _best(store: Store, named: dict[str, Recipe], score: str) -> Iterator[str]:
    from tasks.explain import explanations
    from tasks.lazy import pq

    table = pq.read_table(store.open(named[score].artifact).path / "scores.parquet").to_pylist()
    said = explanations(store.open(named["explain"].artifact))
    for row in sorted((row for row in table if row["value"] is not None), key=surest)[:_BEST]:
        interval = "" if row["low"] is None else f" [{row['low']:.2f}, {row['high']:.2f}]"
        yield f"  {row['value']:.3f}{interval}  latent {row['latent']:>6}  {said[row['latent']].label}"


def surest(row: dict[str, Any]) -> tuple[float, int]:
    """What puts the surest score first: by the lower end of its interval, where it has one."""
    return -(row["value"] if row["low"] is None else row["low"]), row["latent"]


def _labels(store: Store, named: dict[str, Recipe]) -> Iterator[str]:
    from tasks.explain import explanations

    said = [e for e in explanations(store.open(named["explain"].artifact)).values() if e.status == "ok"]
    for explanation in sorted(said, key=lambda e: (-(e.confidence or 0.0), e.latent))[:_BEST]:
        yield f"  latent {explanation.latent:>6}  {explanation.label}"
