"""What a latent's card shows, as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.explain import explanations
from tasks.lazy import pq
from tasks.mine import examples
from tasks.reporting.plots import activations

if TYPE_CHECKING:
    from artifacts.store import Opened
    from tasks.explainers.base import Explanation, LatentExamples, Window

_STEPS = 10
"""Activation strengths that a token's colour tells apart; 10 is the latent's maximum."""

_DIGITS = 2


class Quantile(NamedTuple):
    """Activating windows of the train split that are about equally strong, the strongest first."""

    number: int
    """0 is the strongest."""

    n: int
    """Quantiles that there are."""

    low: float
    high: float
    """The weakest and the strongest activation among all that mining kept of it."""

    windows: list[Window]


def by_quantile(found: LatentExamples, n_strongest: int, n_weaker: int) -> list[Quantile]:
    """Each quantile by itself, at most so many windows of the strongest and of each other: a label must fit the weak ones, too."""
    every = sorted(found.train(activating=True), key=lambda w: (w.quantile, -max(w.values), w.window_id))
    groups: dict[int, list[Window]] = {}
    for window in every:
        groups.setdefault(window.quantile, []).append(window)
    n = max(groups, default=0) + 1
    return [
        Quantile(
            number, n, max(windows[-1].values), max(windows[0].values),
            windows[:n_strongest] if i == 0 else _spread(windows, n_weaker),
        )
        for i, (number, windows) in enumerate(groups.items())
    ]  # fmt: skip


def misses(found: LatentExamples, n: int) -> list[Window]:
    """Windows in which one might think it fires, but it does not; random ones where mining looked for no others."""
    silent = found.train(activating=False)
    return ([w for w in silent if w.group != "random"] or silent)[:n]


def _spread(windows: list[Window], n: int) -> list[Window]:
    return [windows[i * len(windows) // n] for i in range(n)] if len(windows) > n else windows


def shown_window(window: Window, most: float) -> list[Any]:
    """Tokens, strength of each in steps of the latent's maximum, the peak's place, strongest activation."""
    steps = [min(_STEPS, -int(-_STEPS * v // most)) if v > 0 and most > 0 else 0 for v in window.values]
    return [list(window.tokens), steps, window.peak, round(max(window.values), _DIGITS)]


def cards(
    mine: Opened,
    explain: Opened,
    latents: Iterable[int],
    nearest: Mapping[int, Sequence[Any]],
    n_windows: int,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Some latents in ascending order, each with what its card shows beyond its line in the index. Bounded memory."""
    said = explanations(explain)
    histograms = pq.read_table(mine.path / "latents.parquet", columns=["histogram"])["histogram"]
    edges = mine.summary["histogram_edges"]
    for found in examples(mine, latents, "train"):
        card = _card(found, said.get(found.latent), n_windows)
        card["bins"] = activations(histograms[found.latent].as_py(), edges)
        card["nearest"] = nearest[found.latent]
        yield found.latent, card


def _card(found: LatentExamples, explanation: Explanation | None, n_windows: int) -> dict[str, Any]:
    evidence = explanation.evidence if explanation is not None else {}

    def shown(windows: Iterable[Window]) -> list[Any]:
        return [shown_window(window, found.max_value) for window in windows]

    return {
        "fires": found.n_fires,
        "max": round(found.max_value, _DIGITS),
        "promoted": [[token, round(logit, _DIGITS)] for token, logit in found.promoted],
        "suppressed": [[token, round(logit, _DIGITS)] for token, logit in found.suppressed],
        "evidence": [[t["term"], t["log_odds"]] for t in evidence.get("terms", [])[:6]],
        "confidence": explanation.confidence if explanation is not None else None,
        "quantiles": [[q.number, q.n, shown(q.windows)] for q in by_quantile(found, n_windows, max(1, n_windows // 4))],
        "misses": shown(misses(found, n_windows // 2)),
    }
