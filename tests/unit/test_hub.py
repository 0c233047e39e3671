"""SAEs from the hub: only the needed files are fetched, a revision becomes a commit, and the cache serves without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.formats._hub import needed
from tasks.spec import SpecError
from tests import foreign
from tests.fake_hub import fake_hub

ROOT = Path(__file__).parents[2]

CHILD = """
import json, sys
from tasks.adopt import AdoptSpec
from tasks.spec import SpecError
for fields in json.loads(sys.argv[1]):
    try:
        spec = AdoptSpec(**fields).pinned()
        found = {"payload": spec.payload(), "hookpoint": spec.hookpoint, "sizes": spec.found.sizes(spec.files)}
        if spec.allow_pickle:
            it = spec.read()
            found |= {"k": it.sae.spec.k, "model": it.about["model"]}
        print(json.dumps(found))
    except SpecError as error:
        print(json.dumps({"error": str(error)}))
"""


def asked(cache: Path, url: str, *specs):
    """What a fresh process makes of some specs, with this hub and this cache."""
    env = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(cache), "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    env |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "HF_HUB_DISABLE_XET": "1"}
    env.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run([sys.executable, "-c", CHILD, json.dumps(specs)], capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()[-len(specs) :]]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    many = root / "someone" / "gpt2-res"
    for layer in (3, 4):
        foreign.saelens(many / f"blocks.{layer}", "jumprelu", metadata={"hook_name": f"blocks.{layer}.hook_resid_post"})
        foreign.safetensors(many / f"blocks.{layer}" / "sparsity.safetensors", sparsity=foreign.Weights().b_enc)
    (many / "README.md").write_text("# SAEs")
    qwen = root / "Qwen" / f"SAE-Res-Qwen3-1.7B-Base-W32K-L0_{foreign.K}"
    w = foreign.Weights()
    for layer in (0, 1):
        foreign.pickle(qwen / f"layer{layer}.sae.pt", W_enc=w.enc, W_dec=w.dec.T, b_enc=w.b_enc, b_dec=w.b_dec)
    with fake_hub(root) as hub:
        yield hub


def test_one_sae_of_a_repository_is_fetched_and_nothing_else_and_serves_without_a_network(world, tmp_path):
    world.asked.clear()
    where = {"repo": "someone/gpt2-res", "subfolder": "blocks.4"}
    (found,) = asked(tmp_path, world.url, where)
    assert sorted(world.asked) == ["blocks.4/cfg.json", "blocks.4/sae_weights.safetensors"]
    assert (found["sizes"], found["hookpoint"]) == ([foreign.M, foreign.D], "layers.4")
    assert found["payload"]["revision"] == world.commit("someone/gpt2-res") and found["payload"]["repo"] == "someone/gpt2-res"
    dead = "http://127.0.0.1:9"  # from here on there is no hub
    again, unknown = asked(tmp_path, dead, where, {"repo": "someone/other", "subfolder": "x"})
    assert again == found
    assert "sae.repo = 'someone/other', but at revision main it can be had neither from the hub nor from its cache" in unknown["error"]


def test_k_and_model_come_from_a_repositorys_name_and_pickles_only_where_they_are_allowed(world, tmp_path):
    where = {"repo": f"Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_{foreign.K}", "subfolder": "layer1.sae.pt"}
    refused, found, absent = asked(tmp_path, world.url, where, {**where, "allow_pickle": True}, {"repo": "no/such"})
    assert "is a pickle, and pickles can run code" in refused["error"]
    assert (found["k"], found["model"], found["hookpoint"]) == (foreign.K, "Qwen3-1.7B-Base", "layers.1")
    assert "sae.repo = 'no/such', but" in absent["error"]


def test_what_is_needed_of_a_repository_is_one_sae_or_an_error():
    names = ["README.md", "a/cfg.json", "a/sae.safetensors", "a/optimizer.pt", "b/0.pt", "b/1.pt", "config.yaml"]
    assert needed(names, "r", "a", False) == ["a/cfg.json", "a/sae.safetensors", "config.yaml"]
    scope = ["x/hyperparams.json", "x/checkpoints/final.safetensors"]
    assert needed(scope, "r", "x", False) == sorted(scope)
    with pytest.raises(SpecError, match=r"has no weights there; name one of its folders with some \(a, b\)"):
        needed(names, "r", "", False)
    with pytest.raises(SpecError, match=r"has 2 files with weights there \(b/0.pt, b/1.pt\); name one"):
        needed(names, "r", "b", True)
