"""How far a recipe turns a model: the share of its texts that mention a word, by themselves and steered.

    python benchmarks/steering.py RECIPE WORD [SAMPLES] [STORE]

Each prompt of the recipe is continued SAMPLES times (200), with seeds that count up from the recipe's, both sides from the same draws. A
text mentions the word where it stands there by itself, in any case, with or without an s.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from flows.api import load_recipe
from flows.steered import open_recipe
from tasks.steering.recipe import SteeringRecipe


def main(path: str, word: str, samples: str = "200", store: str | None = None) -> None:
    recipe, said = SteeringRecipe.load(path), re.compile(rf"\b{re.escape(word)}s?\b", re.IGNORECASE)
    opened = load_recipe(recipe, store)
    texts: dict[str, list[str]] = {"default": [], "steered": []}
    begun = time.perf_counter()
    for seed in range(recipe.seed, recipe.seed + int(samples)):
        found = open_recipe(recipe.model_copy(update={"seed": seed}), opened.models).run()
        for side, held in texts.items():
            each = getattr(found, side)
            held += [each] if isinstance(each, str) else each
    n = len(texts["default"])
    print(f"{n} texts a side of up to {recipe.n_tokens} tokens, {time.perf_counter() - begun:.0f} s")
    for side, held in texts.items():
        share = sum(bool(said.search(text)) for text in held) / n
        every = " ".join(held)
        words = len(said.findall(every)) / len(re.findall(r"\w+", every))
        print(f"{side:8} {share:6.1%} mention it; {words:.2%} of all words")


if __name__ == "__main__":
    main(*sys.argv[1:])
