"""Makes artifacts in tests: a recipe and all that it needs, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from artifacts.store import Opened, Store
from flows.ordering import lanes, missing
from tasks.progress import Progress
from tasks.realising import make_all
from tasks.spec import Runtime
from tasks.stage import Recipe


def make(recipe: Recipe, store: Store, runtime: Runtime | None = None, progress: Progress | None = None) -> Opened:
    """The artifact of a recipe, made now if it does not exist."""
    return make_together([recipe], store, runtime, progress)[0]


def make_together(
    recipes: Sequence[Recipe], store: Store, runtime: Runtime | None = None, progress: Progress | None = None
) -> list[Opened]:
    """The artifacts of some recipes, in the passes that a run would make them in."""
    while todo := missing(recipes, store):
        exists = cache(store.find)  # one answer for all, or another process's commit would split a lane in two
        ready = [r for r in todo if all(exists(p.artifact) for p in r.parents())]
        for lane in lanes(ready):
            make_all(lane, store, runtime or Runtime(mode="inline", device="cpu"), progress or Progress())
    return [store.open(recipe.artifact) for recipe in recipes]
