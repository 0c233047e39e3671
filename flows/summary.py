"""The last lines of a run: what came out, in words and numbers."""

from __future__ import annotations

from collections.abc import Iterator

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
    for name, found in summary.items():
        if name.startswith("score/") and found.get("mean") is None:
            statuses = ", ".join(f"{n:,} {status}" for status, n in (found.get("statuses") or {}).items())
            yield f"{name.removeprefix('score/')}: no score ({statuses or 'no latents'})"
        elif name.startswith("score/"):
            control = f", shuffled explanations {found['control_mean']:.3f}" if found.get("control_mean") is not None else ""
            metric = found.get("metric", "balanced accuracy")
            yield f"{name.removeprefix('score/')}: mean {metric} {found['mean']:.3f} over {found['n_ok']:,}{control}"
            yield from _best(store, named, name)
    if "report" in summary:
        yield f"report: {store.open(named['report'].artifact).path / 'report.html'}"


def _best(store: Store, named: dict[str, Recipe], score: str) -> Iterator[str]:
    from tasks.explain import explanations
    from tasks.lazy import pq

    table = pq.read_table(store.open(named[score].artifact).path / "scores.parquet").to_pylist()
    said = explanations(store.open(named["explain"].artifact))
    scored = [row for row in table if row["value"] is not None]
    for row in sorted(scored, key=lambda row: (-row["low"], row["latent"]))[:_BEST]:
        yield f"  {row['value']:.3f} [{row['low']:.2f}, {row['high']:.2f}]  latent {row['latent']:>6}  {said[row['latent']].label}"
