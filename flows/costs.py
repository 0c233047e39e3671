"""What explaining and scoring would cost: explainers and scorers are pure, so an imagined latent is put to them, and the
very questions that they would ask about it are priced."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator, Sequence

from flows.config import Pipeline
from tasks.choosing import counted, parsed_latents
from tasks.clients.base import Request
from tasks.explainers.base import Amplified, Explanation, LatentExamples, Sentence, Window
from tasks.stage import Recipe

ANSWER_TOKENS = 300
"""Of an answer, as a guess; ``max_tokens`` is the most, and leaves room for thinking."""


def usd(p: Pipeline, todo: Sequence[Recipe], n_latents: int, answered: Sequence[Recipe] = ()) -> float | None:
    """US dollars expected of some recipes of stages explain and score, on an SAE of so many latents; None without a price.

    Questions that several scorers put alike are paid for once, and not at all if one of those ``answered`` put them.
    """
    found, explained = imagined(p), parsed_latents(p.explain.get("latents", "all"))
    total = 0.0
    asked = {same for recipe in answered for same, _ in _questions(recipe, p, found)}
    for recipe in todo:
        times = min(counted(explained, n_latents), counted(recipe.spec.latents, n_latents, f"{recipe.stage.name}.latents"))
        for same, request in _questions(recipe, p, found):
            if same not in asked:
                asked.add(same)
                short = dataclasses.replace(request, max_tokens=min(request.max_tokens, ANSWER_TOKENS))
                cost = recipe.spec.client.estimate([short]).usd
                if cost is None:
                    return None
                total += cost * times
    return total


def _questions(recipe: Recipe, p: Pipeline, found: LatentExamples) -> Iterator[tuple[Hashable, Request]]:
    """What a recipe with a client asks about a latent, each with what makes it the same question as another's."""
    about = recipe.inputs["explain"].key if recipe.stage.name == "score" else recipe.key
    for request in _asked(recipe, p, found):
        yield (about, recipe.spec.latents, recipe.spec.client.digest(request)), request


def _asked(recipe: Recipe, p: Pipeline, found: LatentExamples) -> Iterator[Request]:
    if recipe.stage.name == "explain":
        yield from recipe.spec.explainer.requests(found)
        return
    scorer, predicate = recipe.spec.scorer, {"any": ["word:it"]} if p.explainer.GIVES_PREDICATE else None
    if not scorer.needs_client(predicate is not None) or (scorer.USES_EXPLANATION and p.explainer.SAYS == "nothing"):
        return
    for label in ("x" * 100, "y" * 100)[: 2 if recipe.spec.control and scorer.USES_EXPLANATION else 1]:
        yield from scorer.requests(Explanation(found.latent, "ok", label, predicate=predicate), found, recipe.spec.seed)


def imagined(p: Pipeline) -> LatentExamples:
    """A latent with as many windows as mining keeps, of English text, no two alike."""
    windows = []
    for split, sampler in (("train", p.mine.train_sampler), ("test", p.mine.test_sampler)):
        groups = [("quantile", i % 10) for i in range(sampler.n)]
        groups += [(str(getattr(kind, "kind", "random")), -1) for kind in p.mine.negatives for _ in range(kind.n)]
        windows += [_window(p, split, i, *group) for i, group in enumerate(groups)]
    n_prompts = len(p.amplify.get("prompts") or ()) or 16
    said = tuple(f"prompt {i}" for i in range(n_prompts))
    plain, steered = (tuple(f"{how}{i:03} " + "word " * 20 for i in range(n_prompts)) for how in ("a", "b"))
    tokens = tuple((f" w{i}", 1.0) for i in range(10))
    return LatentExamples(
        0, 1000, 0.01, 10.0, tuple(windows), tokens, tokens,
        amplified=Amplified(1.0, 0.5, tokens, tokens, said, plain, steered),
        sentences=tuple(Sentence("max", f"sentence {i:03} " + "word " * 20, 1.0) for i in range(p.mine.n_sentences)),
    )  # fmt: skip


def _window(p: Pipeline, split: str, i: int, group: str, quantile: int) -> Window:
    n = p.mine.windows.window_tokens
    tokens = (f" w{i:04}", *([" word"] * (n - 1)))
    values = [0.0] * n
    if quantile >= 0:
        values[n // 2] = 10.0 - quantile
    return Window(f"{split}/{i}/0", split, group, quantile, i, tokens, tuple(values), n // 2)
