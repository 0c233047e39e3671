"""Search over short texts: by words and their beginnings, whatever their case and accents.

Shapes: T texts, V words of all of them, P pairs of a word and a text that has it.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from tasks.lazy import np

if TYPE_CHECKING:
    import numpy as np

_SCRIPT = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Kana and Han: written without spaces, so that each sign is a word of its own."""

_WORD = re.compile(rf"[^\W_{_SCRIPT}]+|[{_SCRIPT}]")

_BEGINS = 0.6
"""What a word that only begins so counts beside one that is the same."""

_MOST = 32
"""Words of a query that are looked at."""


class Hits(NamedTuple):
    """Texts that have all words of a query; or, where none does (``every`` is False), any of them."""

    text_F: np.ndarray
    """int64, ascending."""

    weight_F: np.ndarray
    """float64, > 0: the sum over words of how seldom each is, less for those that only begin so."""

    every: bool = True


def folded(text: str) -> str:
    """Without case and accents."""
    if text.isascii():
        return text.lower()
    apart = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in apart if not unicodedata.combining(c)).casefold()


def words_of(text: str) -> list[str]:
    """The words of a text, folded, in its order."""
    return _WORD.findall(folded(text))


class Words:
    """An index over texts, which are numbered by the caller and may come in parts."""

    def __init__(self, texts: Iterable[tuple[int, str]], n_texts: int) -> None:
        """``texts``: number and text; of one number there may be several."""
        places: dict[str, list[int]] = {}
        self.n_words = np.zeros(n_texts, np.int32)
        """Words of each text: of two that match alike the shorter says it more plainly."""
        for number, text in texts:
            words = words_of(text)
            self.n_words[number] += len(words)
            for word in set(words):
                places.setdefault(word, []).append(number)
        self._n = max(1, n_texts)
        self._words = sorted(places)
        sizes = [len(places[word]) for word in self._words]
        self._offsets = np.cumsum([0, *sizes])
        self._texts = np.empty(int(self._offsets[-1]), np.int32)
        for word, start, size in zip(self._words, self._offsets.tolist(), sizes, strict=False):
            self._texts[start : start + size] = places[word]

    def find(self, query: str) -> Hits:
        """Texts with every word of the query in them, or the beginning of one; without any word in the query none."""
        asked = list(dict.fromkeys(words_of(query)))[:_MOST]
        weight, count = np.zeros(self._n), np.zeros(self._n, np.int32)
        for word in asked:
            own = self._of(word)
            weight += own
            count += own > 0
        every = bool(len(asked)) and bool((count == len(asked)).any())
        found = np.flatnonzero(count == len(asked) if every else count > 0)
        return Hits(found, weight[found], every or not asked)

    def _of(self, word: str) -> np.ndarray:
        """float64: what one word of a query adds to each text."""
        begin = bisect_left(self._words, word)
        end = bisect_left(self._words, word + "\U0010ffff")
        some = self._having(begin, end)
        weight = np.where(some, _BEGINS * self._seldom(some), 0.0)
        if begin < len(self._words) and self._words[begin] == word:
            same = self._having(begin, begin + 1)
            weight[same] = self._seldom(same)
        return weight

    def _having(self, begin: int, end: int) -> np.ndarray:
        """bool: which texts have any of some neighbouring words."""
        found = np.zeros(self._n, bool)
        found[self._texts[self._offsets[begin] : self._offsets[end]]] = True
        return found

    def _seldom(self, having: np.ndarray) -> float:
        return float(np.log1p(self._n / max(1, int(having.sum()))))
