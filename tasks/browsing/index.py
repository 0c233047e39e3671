"""All latents of an SAE at once: found by words, filtered, sorted. Shapes: N latents, F found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tasks.analyse import outcome
from tasks.browsing.near import Near
from tasks.browsing.query import SORTS, Found, Query
from tasks.browsing.shelf import Shelf
from tasks.browsing.tables import ByNumber
from tasks.browsing.told import FIELDS, Scale, Told, said
from tasks.browsing.words import Words
from tasks.lazy import np, pq
from tasks.mining.interest import interest
from tasks.spec import SpecError

if TYPE_CHECKING:
    import numpy as np

_FACTS = ("latent", "n_fires", "density", "max_value", "mean_value", "single_token_share", "top_token", "histogram")


class Index:
    """The latents of a shelf. Built once; read-only afterwards."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        folder = shelf.mine.path
        there = set(pq.read_schema(folder / "latents.parquet").names)
        facts = pq.read_table(folder / "latents.parquet", columns=[name for name in _FACTS if name in there])
        self.n = N = facts.num_rows
        self.n_fires_N, self.density_N, self.max_N = (
            facts[name].to_numpy() for name in ("n_fires", "density", "max_value")
        )
        self.mean_N = facts["mean_value"].to_numpy() if "mean_value" in there else None
        with np.errstate(divide="ignore"):
            self.surprise_N = np.where(self.density_N > 0, -np.log(self.density_N), np.nan)
        self.interest_N = interest(facts)
        self.histogram = facts["histogram"] if "histogram" in there else None
        self.edges: list[float] = shelf.mine.summary.get("histogram_edges", [])
        self.texts = np.array(json.loads((folder / "tokens.json").read_text("utf-8")), object)
        self.windows, self.promoted, self.sentences = (
            ByNumber(folder / f"{name}.parquet") for name in ("windows", "promoted", "sentences")
        )
        self.told = tuple(Told(source, N) for source in shelf.explained)
        self.scales = self._scales()
        self.source_N = self._sources()
        self._words = Words(self._labels(), N)
        self._status = {name: np.unique(self._statuses(name), return_inverse=True) for name in (None, *self.scales)}

    @cached_property
    def near(self) -> Near | None:
        """The nearest latents; None where the SAE is gone. Made when first asked for."""
        return None if self.shelf.sae is None else Near(self.shelf.sae)

    def __contains__(self, latent: int) -> bool:
        return 0 <= latent < self.n

    def check(self, latent: int) -> None:
        """Raise ``SpecError`` for a latent there is none of."""
        if latent not in self:
            raise SpecError(f"latent = {latent}, but this SAE has latents 0 to {self.n - 1}; choose one of them")

    def label(self, latent: int) -> str:
        """The newest label of a latent; empty without one."""
        source = self.source_N[latent]
        return self.told[source].label_N[latent] if source >= 0 else ""

    def counts(self, scorer: str | None = None) -> dict[str, int]:
        """How many latents have each status, ``ok`` first, then the most frequent."""
        names, code_N = self._status[self._scorer(scorer)]
        found = dict(zip(names.tolist(), np.bincount(code_N, minlength=len(names)).tolist(), strict=True))
        return dict(sorted(found.items(), key=lambda item: (item[0] != "ok", -item[1], item[0])))

    def find(self, query: Query) -> Found:
        """The latents that a query means, in its order; of equal ones the lower number first.

        Raises ``SpecError`` for the number of a latent there is none of, unless labels have it.
        """
        scorer = self._scorer(query.scorer)
        keep, every = np.ones(self.n, bool), True
        rank_N: np.ndarray | None = None
        if query.text.strip():
            hits = self._words.find(query.text)
            rank_N = np.zeros(self.n)
            rank_N[hits.text_F] = hits.weight_F - 1e-3 * np.minimum(self._words.n_words[hits.text_F], 100)
            if query.number is not None and (query.number in self or not len(hits.text_F)):
                self.check(query.number)
                rank_N[query.number] = np.inf
            keep = rank_N != 0
            every = hits.every or query.number is not None
        if query.statuses:
            names, code_N = self._status[scorer]
            keep &= np.isin(names, list(query.statuses))[code_N]
        if query.min_score is not None:
            keep &= self.score_of("value", scorer) >= query.min_score  # NaN is not
        if query.min_density is not None:
            keep &= self.density_N >= query.min_density
        if query.max_density is not None:
            keep &= self.density_N <= query.max_density
        here_N = np.full(self.n, np.nan)
        if query.among is not None:
            at = np.fromiter(query.among, np.int64, len(query.among))
            here_N[at] = np.fromiter(query.among.values(), np.float64, len(at))
            keep &= ~np.isnan(here_N)
        found = np.flatnonzero(keep)
        key = -self._key(query, scorer, rank_N, here_N)[found]
        key = -key if query.reverse else key
        return Found(found[np.lexsort((found, np.where(np.isnan(key), np.inf, key)))], every or not len(found))

    def rows(self, latents: Sequence[int], scorer: str | None = None) -> list[dict[str, Any]]:
        """What a table says of some latents. None for what is not known."""
        scorer = self._scorer(scorer)
        numbers = {name: self.score_of(name, scorer) for name in FIELDS}
        found = []
        for latent in map(int, latents):
            source = int(self.source_N[latent])
            score = {name: _or_none(column[latent]) for name, column in numbers.items()}
            found.append({
                "latent": latent, "label": self.label(latent), "status": self.status(latent, scorer),
                "explainer": self.told[source].name if source >= 0 else None, **score,
                "density": float(self.density_N[latent]), "max": float(self.max_N[latent]),
                "surprise": _or_none(self.surprise_N[latent]), "interest": float(self.interest_N[latent]),
            })  # fmt: skip
        return found

    def status(self, latent: int, scorer: str | None = None) -> str:
        """What became of a latent, in words: ok, low score, not scored, refused, dead, not asked, ..."""
        names, code_N = self._status[self._scorer(scorer)]
        return names[code_N[latent]]

    def score_of(self, field: str, scorer: str | None) -> np.ndarray:
        """float32 (N,): a number of each shown label's score, NaN where there is none."""
        return self._columns.get(scorer, {}).get(field, self._nothing)

    def scale(self, scorer: str | None = None) -> Scale | None:
        """What a scorer's values mean; None where nothing was scored."""
        name = self._scorer(scorer)
        return None if name is None else self.scales[name]

    # building

    def _scales(self) -> dict[str, Scale]:
        found: dict[str, Scale] = {}
        for told in self.told:
            for name, scores in told.scores.items():
                found.setdefault(name, scores.scale)
        return found

    def _sources(self) -> np.ndarray:
        """int64 (N,): whose label is shown, the newest that is one; else who was asked last; else -1."""
        source = np.full(self.n, -1)
        for i, told in reversed(list(enumerate(self.told))):
            source[told.asked_N] = i
        for i, told in reversed(list(enumerate(self.told))):
            source[told.ok_N] = i
        return source

    def _labels(self) -> Any:
        for told in self.told:
            yield from ((int(latent), told.label_N[latent]) for latent in np.flatnonzero(told.label_N != ""))

    @cached_property
    def _nothing(self) -> np.ndarray:
        return np.full(self.n, np.nan, np.float32)

    @cached_property
    def _columns(self) -> dict[str | None, dict[str, np.ndarray]]:
        found: dict[str | None, dict[str, np.ndarray]] = {}
        for name in self.scales:
            found[name] = {field: self._nothing.copy() for field in FIELDS}
            for i, told in enumerate(self.told):
                if name in told.scores:
                    own = self.source_N == i
                    for field, column in told.scores[name].numbers.items():
                        found[name][field][own] = column[own]
        return found

    def _statuses(self, scorer: str | None) -> np.ndarray:
        """Of str (N,)."""
        status = np.full(self.n, "", object)
        for i, told in enumerate(self.told):
            own = self.source_N == i
            status[own] = told.status_N[own]
        dead = self.n_fires_N == 0
        names = {(name, d): said(outcome(name or None, d)) for name in set(status.tolist()) for d in (False, True)}
        status = np.array([names[pair] for pair in zip(status.tolist(), dead.tolist(), strict=True)], object)
        if scorer is not None:
            value, chance = self.score_of("value", scorer), self.score_of("chance", scorer)
            scale = self.scales[scorer]
            chance = np.where(np.isnan(chance), scale.chance, chance)
            ok = status == "ok"
            status[ok & np.isnan(value)] = "not scored"
            status[ok & (value < chance + (scale.poor - scale.chance))] = "low score"
        return status

    def _scorer(self, name: str | None) -> str | None:
        return name if name in self.scales else next(iter(self.scales), None)

    def _key(self, query: Query, scorer: str | None, rank_N: np.ndarray | None, here_N: np.ndarray) -> np.ndarray:
        """What is largest first."""
        sort = query.sort
        if sort == "best" and rank_N is not None:
            return rank_N
        if sort == "here" or (sort == "best" and query.among is not None):
            return here_N
        if sort in ("best", "score"):
            low, value = self.score_of("low", scorer), self.score_of("value", scorer)
            return np.where(np.isnan(low), value, low).astype(np.float64)
        if sort == "latent":
            return -np.arange(self.n, dtype=np.float64)
        columns = {"density": self.density_N, "max": self.max_N, "surprise": self.surprise_N, "interest": self.interest_N}
        if sort not in columns:
            raise SpecError(f"sort = {sort!r}, but latents are sorted by {', '.join(SORTS)}; use one of them")
        return columns[sort].astype(np.float64)

    def histogram_of(self, latent: int) -> list[int]:
        """How often it was active, by ``edges``; empty where nobody counted."""
        return [] if self.histogram is None else self.histogram[latent].values.to_numpy().tolist()


def _or_none(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)

