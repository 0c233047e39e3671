"""What is missing, and in which order and company it is made: parents first, what one pass of a model gives together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from artifacts.keys import Artifact, canonical_json
from artifacts.store import Store
from tasks.stage import Recipe


class Seen:
    """What was found in a store, for whoever looks again and again: what exists stays, what does not is not looked for
    twice within ``backend.poll_seconds``."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.there: set[Artifact] = set()
        self._absent: dict[Artifact, float] = {}

    def has(self, artifact: Artifact) -> bool:
        """Whether an artifact exists, as far as is known. Raises ``ArtifactCorrupt`` for a damaged manifest."""
        if artifact in self.there:
            return True
        looked = self._absent.get(artifact)
        if looked is not None and time.monotonic() - looked < self._store.backend.poll_seconds:
            return False
        if self._store.find(artifact) is None:
            self._absent[artifact] = time.monotonic()
            return False
        self.there.add(artifact)
        return True


def missing(wanted: Sequence[Recipe], store: Store, seen: Seen | None = None) -> list[Recipe]:
    """What must be made for ``wanted``, parents first, each once. Stops walking back at what exists,
    so that a finished SAE hides the activations it was trained on, which may be gone."""
    order: dict[Artifact, Recipe] = {}
    visited: set[Artifact] = set()
    seen = seen or Seen(store)

    def visit(recipe: Recipe) -> None:
        if recipe.artifact in visited:
            return
        visited.add(recipe.artifact)
        if seen.has(recipe.artifact):
            return
        for parent in recipe.parents():
            visit(parent)
        order[recipe.artifact] = recipe

    for recipe in wanted:
        visit(recipe)
    return list(order.values())


def lanes(recipes: Sequence[Recipe]) -> list[list[Recipe]]:
    """Recipes that are realised by one call of their stage: same stage and same inputs (one model, one pass).

    Stages that make one artifact at a time have a lane each. Keeps the order of the first of each lane.
    """
    found: dict[Any, list[Recipe]] = {}
    for recipe in recipes:
        alone = recipe.stage.together is None
        found.setdefault(recipe.key if alone else (recipe.stage.name, canonical_json(recipe.input_keys)), []).append(recipe)
    return list(found.values())
