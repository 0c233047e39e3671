"""The lexical explainer finds what was planted, and knows when there is nothing to find."""

from __future__ import annotations

import random

import pytest

from tasks.explainers.base import LatentExamples, Window
from tasks.explainers.lexical import Lexical
from tasks.predicates import holds, in_words, pieces, terms

WORDS = [
    "time", "way", "year", "work", "life", "day", "part", "number", "place", "case", "week", "group", "file", "value",
    "name", "list", "field", "point", "fact", "home",
]  # fmt: skip


def window(draw: random.Random, planted: list[str] | None, split: str, i: int, starts: bool = False) -> Window:
    """A window of ten words; ``planted`` stands somewhere in it, and the latent fires on its last token."""
    words = [draw.choice(WORDS) for _ in range(10)]
    values = [0.0] * 10
    peak = 7
    if planted is not None:
        at = 0 if starts else draw.randrange(1, 9 - len(planted))
        words[at : at + len(planted)] = planted
        peak = at + len(planted) - 1
        values[peak] = draw.uniform(1, 5)
    tokens = tuple((" " if j else "") + w for j, w in enumerate(words[:10]))
    return Window(f"{split}/{i}", split, "quantile" if planted else "random", 0 if planted else -1, i, tokens,
                  tuple(values), peak, starts_context=starts)  # fmt: skip


def latent(plant, seed: int = 0, noise: int = 0, starts: bool = False) -> LatentExamples:
    """A latent whose positives hold what ``plant(draw)`` gives; ``noise`` of 40 positives hold any word instead."""
    draw = random.Random(seed)
    found = []
    for split in ("train", "test"):
        for i in range(40):
            found.append(window(draw, [draw.choice(WORDS)] if i < noise else plant(draw), split, i, starts))
            found.append(window(draw, None, split, 100 + i))
    return LatentExamples(7, 400, 0.001, 5.0, tuple(found), promoted=((" of", 2.0),))


def held_out(explanation, examples: LatentExamples) -> float:
    hit = [holds(explanation.predicate, w) for w in examples.test(activating=True)]
    false = [holds(explanation.predicate, w) for w in examples.test(activating=False)]
    return (sum(hit) / len(hit) + 1 - sum(false) / len(false)) / 2


@pytest.mark.parametrize(
    "plant, term",
    [
        (lambda d: [d.choice(["return", "yield"])], "word:return"),
        (lambda d: ["of", "the"], "bigram:of the"),
        (lambda d: [str(d.randrange(10, 99))], "class:number"),
        (lambda d: [d.choice(["running", "jumping", "singing", "reading", "walking", "cooking", "sleeping"])], "ending:ing"),
        (lambda d: [d.choice(["HTTP", "ASCII", "JSON", "XML", "TCP", "URL", "HTML", "UTF", "API"])], "class:all capitals"),
    ],
)
def test_a_planted_meaning_is_found_and_holds_on_unseen_windows(plant, term):
    examples = latent(plant)
    explanation = Lexical().read([], examples)
    assert explanation.status == "ok"
    if term.startswith("bigram"):  # either word alone already tells them apart
        assert any(t.split(":")[1] in ("of the", "of", "the") for t in explanation.predicate["any"])
    else:
        assert term in explanation.predicate["any"]
    assert held_out(explanation, examples) >= 0.95
    assert explanation.evidence["promoted"] == [" of"]


def test_a_word_pair_is_needed_where_each_word_alone_stands_everywhere():
    draw = random.Random(4)
    found = []
    for split in ("train", "test"):
        for i in range(60):
            found.append(window(draw, ["list", "of"], split, i))
            both = window(draw, ["of", "list"], split, 100 + i)  # the same two words, the other way round
            found.append(Window(both.window_id, split, "near_miss", -1, i, both.tokens, (0.0,) * 10, both.peak))
    examples = LatentExamples(1, 9, 0.1, 5.0, tuple(found))
    explanation = Lexical().read([], examples)
    assert "bigram:list of" in explanation.predicate["any"]
    assert held_out(explanation, examples) >= 0.9


def test_a_latent_without_a_pattern_scores_near_chance_on_unseen_windows():
    scores = []
    for seed in range(12):
        examples = latent(lambda d: [d.choice(WORDS)], seed=seed)
        scores.append(held_out(Lexical().read([], examples), examples))
    # twelve latents of 80 windows each: the mean's standard error is about 0.01
    assert abs(sum(scores) / len(scores) - 0.5) < 0.06


def test_confidence_is_lower_where_the_rule_explains_less():
    sure, unsure = (Lexical().read([], latent(lambda d: ["return"], noise=n)).confidence for n in (0, 25))
    assert sure > unsure + 0.1 and 0 <= unsure <= sure <= 1


def test_too_few_windows_are_no_explanation():
    few = LatentExamples(3, 2, 1e-5, 1.0, tuple(w for w in latent(lambda d: ["x"]).windows if w.document_id in (0, 100)))
    explanation = Lexical().read([], few)
    assert (explanation.status, explanation.label, explanation.predicate) == ("too_few_examples", "", None)


def test_labels_read_well():
    assert in_words(["word:return", "bigram:of the"]) == "\u201creturn\u201d or \u201cof the\u201d"
    assert in_words(["class:number", "ending:ing", "token: con"]) == "numbers, words in -ing or \u201ccon\u2026\u201d"


def test_terms_come_from_the_text_alone():
    one = window(random.Random(1), ["return"], "train", 0)
    silent = Window(one.window_id, "train", "random", -1, 0, one.tokens, (0.0,) * 10, one.peak)
    assert terms(one) == terms(silent)
    assert [p.text for p in pieces("don't f(x)_1")] == ["don", "'", "t", "f", "(", "x", ")", "_1"]
