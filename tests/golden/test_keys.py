"""Keys that must not move by accident. A key that moves makes everybody compute, and pay, again: change one only as a
decision, with the stage's version, and say so in the changelog."""

from __future__ import annotations

from dataclasses import replace

from flows.composing import composed
from flows.config import pipeline
from flows.recipes import recipes

KEYS = {
    "analyse": "14305436c0d368a36c7cf72513b13b5d12091c35e8308b1fd24081bf260c631d",
    "capture": "6f0c7badd970cf520f34533a9d4c07f0a85ed434cd7a9aebac1418722d56ba61",
    "corpus": "c63c771c0cc9d0935a1697b13cd0b76d720d72a86326fc2f8d35b992a9c9b847",
    "encode": "a3ad0e32dfad61ab51ddc21b647893c54695970292147602b12f06a30e9d6049",
    "evaluate": "f837a2e9b317364b8490e147ef5af362328e7ae251ea2667680163e225da4d65",
    "explain": "20ca59a593dfe5d8f6a068e0fd7bb67604bce5fa5d154bb4eb8c6a722dbc43ae",
    "lm": "536b8965819596842d0efaadf3ed45179c116e0415c8355edce9ac79920d5775",
    "mine": "faa806368cccba10d0bb34c341381f617024ccb7751fbb0f0995f03a4e3280cf",
    "normalise": "b4c7e38afe70b5819725cea606e511c569c7749bb638f746492c55c252c2aa88",
    "report": "1374542c70fffdf267fe52a790a7dfe77ee0173437e4ef749023529439011b2a",
    "score/detection": "67a2452ed5ca12bc2ffed2c069858c7a25680f1e047339a3e4f8fdd52dd3e56c",
    "train": "6e7fe57905fa08801c4e2c012ec4d4dbdc6e1c1f2dbf3f77751bd6f65b57ba5b",
}


def keys() -> dict[str, str]:
    found = pipeline(composed([]))
    # the interpreter's version is part of the docstrings corpus: held still here
    wanted = recipes(replace(found, corpus=found.corpus.model_copy(update={"python": "3.11.7"})))
    named = {name: recipe.key for name, recipe in wanted.named["layers.1"].items()}
    shard = next(r for r in wanted.all() if r.stage.name == "capture")
    encoded = next(r for r in wanted.all() if r.stage.name == "encode")
    return {**named, "capture": shard.key, "encode": encoded.key}


def test_the_keys_of_the_default_run_are_these():
    assert keys() == KEYS
