"""Latents of five sorts whose meaning is planted, and a judge whose every answer follows from the text of a request.

A latent fires by a Python function. Its right explanation is a sentence in a small language that ``Judge`` executes:

* ``words matching /amber|cobalt/``
* ``words matching /york/ right after words matching /new/``
* ``words matching /said|went/ in passages with words matching /ship|sail/``
* ``the first 3 words of a text``
* and what the ``lexical`` explainer says: ``“amber”, “new york” or words in -ing``

Windows come from a grammar in which every latent's words stand about, in the activating windows of the others as often
as in their silent ones, so that the explanation of another latent is right and wrong by chance.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Literal, NamedTuple

from tasks.clients.base import Reply, Request
from tasks.explainers.base import Explainer, Explanation, LatentExamples, Window
from tasks.spec import Spec
from tasks.stage import Job, Recipe, Summary, stage
from tests.planted import write_mined

N_WORDS = 24
FILLER = [
    "the", "of", "and", "to", "in", "it", "was", "for", "on", "that", "with", "as", "his", "they", "at", "be", "this", "from",
    "had", "by", "some", "what", "there", "we", "can",
]  # fmt: skip
COLOURS, NEAR_COLOURS = ["amber", "cobalt", "crimson"], ["violet", "ambers", "scarlet"]
UNDONE, NEAR_UNDONE = ["unlocked", "unfolded", "unwanted"], ["unlock", "folded", "wanted"]
VERBS, SEA = ["said", "went", "came"], ["ship", "sail", "harbour"]

Plant = Callable[[list[str], Random], None]


class Planted(NamedTuple):
    """A latent with a known meaning."""

    says: str
    fires: Callable[[Sequence[str], int, bool], bool]
    """Words of a window, a place among them, and whether the window begins a text."""

    plant: Plant
    """Puts in what it fires on."""

    near: Plant
    """Puts in what it does not fire on though one might think so."""


def _put(*choices: Sequence[str], around: Sequence[str] = ()) -> Plant:
    """Words one after the other, one drawn from each choice, at a place drawn from the window; ``around`` it others."""

    def put(words: list[str], draw: Random) -> None:
        at = draw.randrange(2, N_WORDS - len(choices) - 1)
        for i, choice in enumerate(choices):
            words[at + i] = draw.choice(choice)
        if around:
            words[at - draw.randint(1, 2)], words[at + len(choices)] = draw.sample(around, 2)

    return put


def _either(*plants: Plant) -> Plant:
    return lambda words, draw: draw.choice(plants)(words, draw)


LATENTS = [
    Planted(
        "words matching /amber|cobalt|crimson/",
        lambda words, i, starts: words[i] in COLOURS,
        _put(COLOURS),
        _put(NEAR_COLOURS),
    ),
    Planted(
        "words matching /un[a-z]+ed/",
        lambda words, i, starts: words[i].startswith("un") and words[i].endswith("ed"),
        _put(UNDONE),
        _put(NEAR_UNDONE),
    ),
    Planted(
        "the first 3 words of a text",
        lambda words, i, starts: starts and i < 3,
        lambda words, draw: None,
        lambda words, draw: None,
    ),
    Planted(
        "words matching /said|went|came/ in passages with words matching /ship|sail|harbour/",
        lambda words, i, starts: words[i] in VERBS and not set(SEA).isdisjoint(words),
        _put(VERBS, around=SEA),
        _either(_put(VERBS), _put(SEA)),
    ),
    Planted(
        "words matching /york/ right after words matching /new/",
        lambda words, i, starts: i > 0 and (words[i - 1], words[i]) == ("new", "york"),
        _put(["new"], ["york"]),
        _either(_put(["new"]), _put(["york"]), _put(["york"], ["new"])),
    ),
]
POSITION = 2


def window(draw: Random, latent: int, sort: str, split: str, name: str, quantile: int) -> Window:
    """A window on which a latent fires (``quantile``), nearly does (``near_miss``) or does not (``random``)."""
    own = LATENTS[latent]
    active = sort == "quantile"
    while True:
        words = [draw.choice(FILLER) for _ in range(N_WORDS)]
        for other in LATENTS:
            if other is not own and draw.random() < 0.25:
                draw.choice([other.plant, other.near])(words, draw)
        if sort != "random":
            (own.plant if active else own.near)(words, draw)
        starts = active if latent == POSITION else draw.random() < 0.25
        values = tuple(10.0 * own.fires(words, i, starts) for i in range(N_WORDS))
        if (max(values) > 0) == active:
            break
    peak = values.index(max(values)) if active else N_WORDS // 2
    tokens = tuple(f" {word}" for word in words)
    return Window(f"{split}/{name}", split, sort, quantile, 0, tokens, values, peak, starts)


def examples(latent: int, seed: int = 0) -> LatentExamples:
    """A planted latent as mining would show it: 40 activating windows in 10 quantiles, 20 near misses, 20 random."""
    draw = Random(f"{seed}/{latent}")
    windows = tuple(
        window(draw, latent, sort, split, f"{seed}-{latent}-{sort}/{i}", i % 10 if sort == "quantile" else -1)
        for split in ("train", "test")
        for sort, n in (("quantile", 40), ("near_miss", 20), ("random", 20))
        for i in range(n)
    )
    return LatentExamples(latent, 400, 0.01, 10.0, windows)


def right(latent: int) -> Explanation:
    """What the latent means."""
    return Explanation(latent, "ok", LATENTS[latent].says)


class Judge:
    """Answers requests from their text alone, by executing the description in it; right in a known share of answers.

    Whether an answer is right is drawn anew for every window (in simulation, every token), by a generator that depends
    on nothing but the seed and what was asked.
    """

    def __init__(self, accuracy: float = 1.0, seed: int = 0) -> None:
        self.accuracy, self.seed = accuracy, seed

    def __call__(self, user: str) -> dict[str, Any]:
        asked = json.loads(user)
        if "puzzles" in asked:
            return {"answers": {name: self._odd(puzzle) for name, puzzle in asked["puzzles"].items()}}
        said = asked["description"]
        if "token" in asked:
            words = [*asked["before"].split(), *asked["token"].split()]
            return {"answers": {"1": self._rating(fires(said, words, asked["starts"])[-1], (said, words))}}
        return {"answers": {name: self._answer(said, shown) for name, shown in asked["windows"].items()}}

    def replies(self, requests: Sequence[Request]) -> list[Reply]:
        return [Reply("", "ok", json.dumps(self(request.user))) for request in requests]

    def _answer(self, said: str, shown: Any) -> bool | list[int]:
        if isinstance(shown, dict):
            found = fires(said, [token.strip() for token in shown["tokens"]], shown["starts"])
            return [self._rating(fire, (said, shown, i)) for i, fire in enumerate(found)]
        words, marks, starts = read(shown)
        found = fires(said, words, starts)
        yes = all(found[i] for i in marks) if marks else any(found)
        return yes == self._right((said, shown))

    def _rating(self, fire: bool, what: Any) -> int:
        return 10 if fire == self._right(what) else 0

    def _odd(self, puzzle: dict[str, Any]) -> int:
        """The passage that does not have what most others have, of all that latents of this bed can mean."""

        def fitting(planted: Planted) -> list[str]:
            shown = {name: read(passage) for name, passage in puzzle.items()}
            return [n for n, (words, marks, starts) in shown.items() if all(fires(planted.says, words, starts)[i] for i in marks)]

        common = max((fitting(planted) for planted in LATENTS), key=len)
        odd = next((name for name in puzzle if name not in common), "1")
        if self._right(puzzle):
            return int(odd)
        return int(Random(f"{self.seed}/{puzzle}").choice([name for name in puzzle if name != odd]))

    def _right(self, what: Any) -> bool:
        return Random(f"{self.seed}/{json.dumps(what)}").random() < self.accuracy


def read(shown: str | Sequence[Any]) -> tuple[list[str], list[int], bool]:
    """Words of a passage, the places of those that are marked, and whether the passage begins its text."""
    words: list[str] = []
    marks = []
    for part in [shown] if isinstance(shown, str) else shown:
        if isinstance(part, list):
            marks.append(len(words))
        words += (part if isinstance(part, str) else part[0]).removeprefix("…").split()
    first = shown if isinstance(shown, str) else shown[0]
    return words, marks, not (isinstance(first, str) and first.startswith("…"))


def fires(said: str, words: Sequence[str], starts: bool) -> list[bool]:
    """At which words a description says that the latent fires; at none where it is in no language known here."""
    if found := re.fullmatch(r"the first (\d+) words of a text", said):
        return [starts and i < int(found[1]) for i in range(len(words))]
    if found := re.fullmatch(r"words matching /(.+?)/(?: (right after|in passages with) words matching /(.+?)/)?", said):
        here, how, there = [re.fullmatch(found[1], word) is not None for word in words], found[2], found[3]
        other = [there is not None and re.fullmatch(there, word) is not None for word in words]
        if how == "right after":
            return [here[i] and i > 0 and other[i - 1] for i in range(len(words))]
        return [hit and (how is None or any(other)) for hit in here]
    quoted = {tuple(text.split()) for text in re.findall("“(.+?)”", said)}
    endings = tuple(re.findall(r"-([a-z]+)", said))
    return [
        (word,) in quoted
        or tuple(words[i - 1 : i + 1]) in quoted
        or (len(word) >= 5 and bool(endings) and word.endswith(endings))
        or (starts and i == 0 and "the start of a text" in said)
        for i, word in enumerate(words)
    ]


class BedSpec(Spec):
    """A mining of the test-bed's latents."""

    seed: int = 0


@stage("bed", version=1)
def bed(job: Job[BedSpec]) -> Summary:
    """Write the files of a mine artifact."""
    return write_mined(job.out, [examples(latent, job.spec.seed) for latent in range(len(LATENTS))])


def mined(seed: int = 0) -> Recipe:
    """The recipe of the test-bed's mine artifact."""
    return bed(BedSpec(seed=seed))


class Right(Explainer):
    """Knows what the latents mean."""

    kind: Literal["right"] = "right"
    NEEDS_CLIENT = False

    def read(self, replies: list[Reply], examples: LatentExamples) -> Explanation:
        return right(examples.latent)
