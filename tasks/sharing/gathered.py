"""What is known of latents, gathered in the order of their numbers for whoever writes it out. Memory is one batch of latents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any

from tasks.explainers.base import LatentExamples, Window, printable
from tasks.mining.reading import examples

if TYPE_CHECKING:
    from tasks.browsing.index import Index
    from tasks.browsing.told import Told

_DIGITS = 5
"""Significant digits of activations and logits that go out."""


@dataclass(frozen=True)
class Shown:
    """A window on which a latent fires, and how strong the windows of its sort are."""

    window: Window
    low: float
    """Weakest peak of the quantile that it was drawn from; -1 for one of the strongest windows."""

    high: float
    """Strongest peak of the same."""

    share: float
    """Share of the activating windows that the quantile is; -1 for one of the strongest."""


@dataclass(frozen=True)
class Word:
    """What one explainer said of a latent, and how well that fares."""

    label: str
    explainer: str
    """For people: kind, and what tells it from others."""

    kind: str
    model: str | None
    """The language model that was asked."""

    address: str
    """Artifact with the explanation."""

    when: str
    scores: tuple[dict[str, Any], ...]
    """Of those scorers that gave a value: ``tasks.browsing.told.Scores.of``."""


@dataclass(frozen=True)
class Gathered:
    """All that goes out of one latent."""

    latent: int
    found: LatentExamples
    shown: tuple[Shown, ...]
    """Of the train split, the strongest windows first, then by quantile; those of the test split stay with scorers."""

    bars: tuple[tuple[float, int], ...]
    """Middle of each filled bin of its activations, as it goes out, and how many fell into it."""

    words: tuple[Word, ...]
    """The newest first; only what is a label."""


def gathered(index: Index, latents: Sequence[int], n_batch: int) -> Iterator[list[Gathered]]:
    """Batches of at most ``n_batch`` latents, in ascending order."""
    wanted = sorted(set(latents))
    found = examples(index.shelf.mine, wanted, "train", activating=True)  # one reader: each opens its files anew
    middles = [short((a + b) / 2) for a, b in pairwise(index.edges)]
    for start in range(0, len(wanted), n_batch):
        batch = wanted[start : start + n_batch]
        words = _words(index, batch)
        yield [
            Gathered(e.latent, e, tuple(_shown(e)), tuple(_bars(index.histogram_of(e.latent), middles)), tuple(words.get(e.latent, ())))
            for e in islice(found, len(batch))
        ]


def short(value: float) -> float:
    """A number as it goes out."""
    return value and float(f"{value:.{_DIGITS}g}")


@lru_cache(1 << 17)  # tokens come again and again
def sound(text: str) -> str:
    """A text that any reader of JSON takes, and PostgreSQL too: no halves of surrogate pairs, no NUL."""
    return printable(text).replace("\0", "\ufffd")


def identity(*parts: Any) -> str:
    """25 characters that are the same whenever the same is written, in the form of the ids of Neuronpedia's tables."""
    return "c" + hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:24]


def _shown(found: LatentExamples) -> Iterator[Shown]:
    """Activating windows, each with the bounds of its quantile."""
    every = sorted(
        ((window.group != "top", window.quantile, -max(window.values), window.window_id, window) for window in found.windows),
        key=lambda w: w[:-1],
    )
    n_quantiles = max((window.quantile for *_, window in every), default=0) + 1
    peaks: dict[int, list[float]] = {}
    for _, quantile, peak, *_ in every:
        peaks.setdefault(quantile, []).append(-peak)
    bounds = {quantile: (min(own), max(own), 1 / n_quantiles) for quantile, own in peaks.items()}
    for below, quantile, peak, _, window in every:
        yield Shown(window, *(bounds[quantile] if below else (-1.0, max(found.max_value, -peak), -1.0)))


def _bars(histogram: Sequence[int], middles: Sequence[float]) -> Sequence[tuple[float, int]]:
    filled = [i for i, n in enumerate(histogram) if n]
    some = slice(filled[0], filled[-1] + 1) if filled else slice(0)
    return list(zip(middles[some], histogram[some], strict=True))


def _words(index: Index, batch: Sequence[int]) -> dict[int, list[Word]]:
    found: dict[int, list[Word]] = {}
    for told in index.told:
        labelled = [latent for latent in batch if told.label_N[latent] and told.ok_N[latent]]
        models = _models(told, labelled)
        for latent in labelled:
            scores = (scores.of(latent) for scores in told.scores.values())
            valued = tuple(score for score in scores if score["value"] is not None)
            word = Word(told.label_N[latent], told.name, told.kind, models.get(latent), told.address, told.when, valued)
            found.setdefault(latent, []).append(word)
    return found


def _models(told: Told, latents: Sequence[int]) -> dict[int, str | None]:
    if not latents or "model" not in told.rows.names:
        return {}
    table = told.rows.of(latents, ["model"])
    return dict(zip(table["latent"].to_pylist(), table["model"].to_pylist(), strict=True))
