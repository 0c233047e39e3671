"""Keys that must not move by accident. A key that moves makes everybody compute, and pay, again: change one only as a
decision, with the stage's version, and say so in the changelog."""

from __future__ import annotations

from dataclasses import replace

from flows.config import composed, pipeline
from flows.recipes import recipes

KEYS = {
    "analyse": "362842313b58febabaa4e9be3f13af4677bcbcb66cc13764b4020ec4f892ddf0",
    "capture": "6f0c7badd970cf520f34533a9d4c07f0a85ed434cd7a9aebac1418722d56ba61",
    "corpus": "c63c771c0cc9d0935a1697b13cd0b76d720d72a86326fc2f8d35b992a9c9b847",
    "evaluate": "f837a2e9b317364b8490e147ef5af362328e7ae251ea2667680163e225da4d65",
    "explain": "f4f402bfa232cb00e8dd5861337512385e89755c4772ef94ffa010f6d3a492fe",
    "lm": "536b8965819596842d0efaadf3ed45179c116e0415c8355edce9ac79920d5775",
    "mine": "8bdedf6dc2ca7495a3345646a17ea82b09edf15f89acc20ed9f1e5010837d214",
    "mine_shard": "b0636ddf6ccc29744fe23b53f129002512b17a9d39fa65f55a06205730d5eec9",
    "normalise": "b4c7e38afe70b5819725cea606e511c569c7749bb638f746492c55c252c2aa88",
    "report": "56024270da6730e3efbaeebbd1d3250c16ef1c7d7d43cd48338a7ff0153eb77d",
    "score/detection": "000c9b62a9e9e4c3ff4d7d102a3c617daba31c23be20e9f7d8a9ce0903ed8922",
    "train": "6e7fe57905fa08801c4e2c012ec4d4dbdc6e1c1f2dbf3f77751bd6f65b57ba5b",
}


def keys() -> dict[str, str]:
    found = pipeline(composed([]))
    # the interpreter's version is part of the docstrings corpus: held still here
    wanted = recipes(replace(found, corpus=found.corpus.model_copy(update={"python": "3.11.7"})))
    named = {name: recipe.key for name, recipe in wanted.named["layers.1"].items()}
    shard = next(r for r in wanted.all() if r.stage.name == "capture")
    survey = next(r for r in wanted.all() if r.stage.name == "mine_shard")
    return {**named, "capture": shard.key, "mine_shard": survey.key}


def test_the_keys_of_the_default_run_are_these():
    assert keys() == KEYS
