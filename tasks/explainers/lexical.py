"""The lexical explainer: explains without an LLM, from the words that tell activating from non-activating windows.

It is the free baseline that every LLM explanation must beat. Terms at the peaks of train windows are ranked by log-odds
with an informative prior (Monroe, Colaresi and Quinn 2008, "Fightin' Words", section 3.3.5), then chosen one by one for
the balanced accuracy that their disjunction has on the train windows. The result is a label and the rule itself, so
that its detection score needs no judge.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from tasks.clients.base import Reply
from tasks.explainers.base import Explainer, Explanation, LatentExamples, Window, one_line
from tasks.predicates import START, in_words, is_part, piece_at, pieces, terms, terms_at

MOST_CHARACTERS = 400
"""Of a label: corpora have words that do not end."""

_CANDIDATES = 40
_PREFERENCE = {"word": 0.0, "class": 0.004, "ending": 0.006, "bigram": 0.008, "token": 0.01, "start": 0.01}
"""Handicap in balanced accuracy: of two terms that explain as well, the simpler is meant."""


class Lexical(Explainer):
    """Words, word pairs, endings, classes and positions; no key, no model, no cost."""

    NEEDS_CLIENT: ClassVar[bool] = False
    GIVES_PREDICATE: ClassVar[bool] = True
    kind: Literal["lexical"] = "lexical"

    max_terms: int = Field(5, ge=1)
    """Alternatives in a rule."""

    min_gain: float = Field(0.02, ge=0)
    """Balanced accuracy on train windows that one more alternative must bring."""

    prior: float = Field(10.0, gt=0)
    """Windows' worth of belief that a term is as common where the latent fires as elsewhere."""

    min_windows: int = Field(5, ge=1)
    """Activating and non-activating windows without which nothing is said."""

    def read(self, replies: list[Reply], examples: LatentExamples) -> Explanation:
        positive, negative = examples.train(activating=True), examples.train(activating=False)
        if min(len(positive), len(negative)) < self.min_windows:
            return Explanation(examples.latent, "too_few_examples")
        inside, outside = [terms(w) for w in positive], [terms(w) for w in negative]
        odds = self._log_odds(inside, outside, _at_peaks(positive))
        chosen, accuracy = self._chosen(odds, inside, outside)
        evidence = {
            "terms": [{"term": t, "log_odds": round(z, 2), "windows": sum(t in w for w in inside)} for t, z in odds[:12]],
            "train_balanced_accuracy": round(accuracy, 4),
            "promoted": [token for token, _ in examples.promoted],
        }
        predicate = {"any": chosen}
        # Shrunk: the same windows chose the rule and measured it.
        confidence = max(0.0, 2 * accuracy - 1) * len(positive) / (len(positive) + self.prior)
        label = one_line(in_words(chosen), MOST_CHARACTERS)
        return Explanation(examples.latent, "ok", label, round(confidence, 4), predicate, evidence)

    def _log_odds(
        self, inside: Sequence[frozenset[str]], outside: Sequence[frozenset[str]], candidates: Counter[str]
    ) -> list[tuple[str, float]]:
        """Candidate terms with their log-odds of standing in an activating window, in standard deviations, best first."""
        n_in, n_out = len(inside), len(outside)
        found = []
        for term, _ in candidates.most_common(4 * _CANDIDATES):
            a = sum(term in window for window in inside)
            b = sum(term in window for window in outside)
            share = (a + b + 0.5) / (n_in + n_out + 1)
            up, down = self.prior * share, self.prior * (1 - share)
            delta = math.log((a + up) / (n_in - a + down)) - math.log((b + up) / (n_out - b + down))
            spread = math.sqrt(1 / (a + up) + 1 / (b + up))
            found.append((term, delta / spread))
        return sorted(found, key=lambda pair: (-pair[1], pair[0]))[:_CANDIDATES]

    def _chosen(
        self, odds: list[tuple[str, float]], inside: Sequence[frozenset[str]], outside: Sequence[frozenset[str]]
    ) -> tuple[list[str], float]:
        """The terms of the rule, greedily, and its balanced accuracy on the train windows."""
        hit, false = [False] * len(inside), [False] * len(outside)
        chosen: list[str] = []
        best = 0.5
        while len(chosen) < self.max_terms:
            gains = []
            for term, z in odds:
                if term in chosen:
                    continue
                recall = sum(h or term in w for h, w in zip(hit, inside, strict=True)) / len(inside)
                alarm = sum(f or term in w for f, w in zip(false, outside, strict=True)) / len(outside)
                accuracy = (recall + 1 - alarm) / 2
                gains.append((accuracy - _PREFERENCE[term.split(":", 1)[0]], z, term, accuracy))
            if not gains:
                break
            _, _, term, accuracy = max(gains)
            if chosen and accuracy < best + self.min_gain:
                break
            chosen.append(term)
            best = accuracy
            hit = [h or term in w for h, w in zip(hit, inside, strict=True)]
            false = [f or term in w for f, w in zip(false, outside, strict=True)]
        return chosen, best


def _at_peaks(windows: Sequence[Window]) -> Counter[str]:
    """Terms at the peak, and words up to three before it, counted over windows."""
    found: Counter[str] = Counter()
    for window in windows:
        places = pieces(window.text)
        here: set[str] = set()
        i = piece_at(window, places)
        if i is not None:
            here.update(terms_at(places, i))
            for j in range(max(0, i - 3), i):
                here.update(t for t in terms_at(places, j) if not t.startswith("ending:"))
        if is_part(window.tokens, window.peak):
            here.add(f"token:{window.tokens[window.peak]}")
        if window.starts_context and window.peak < 3:
            here.add(START)
        found.update(here)
    return found
