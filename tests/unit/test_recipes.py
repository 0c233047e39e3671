"""The DAG: who rests on what, and that documents which score an explanation were seen by nothing before."""

from __future__ import annotations

import pytest

from flows.config import load
from flows.ordering import lanes
from flows.recipes import Wanted, recipes
from tasks.stage import Recipe


def wanted(*overrides: str) -> Wanted:
    return recipes(load(overrides))


def shards_below(recipe: Recipe) -> set[str]:
    """Splits of the captures that a recipe is made from, however far away."""
    own = {recipe.spec.split} if recipe.stage.name == "capture" else set()
    return own.union(*(shards_below(parent) for parent in recipe.parents()))


def test_a_default_run_is_these_artifacts():
    counts: dict[str, int] = {}
    for recipe in wanted("capture.n_shards=3").all():
        counts[recipe.stage.name] = counts.get(recipe.stage.name, 0) + 1
    assert counts == {
        "corpus": 1, "lm": 1, "capture": 5, "normalise": 1, "train": 1, "evaluate": 1, "encode": 4, "mine": 1,
        "explain": 1, "score": 1, "analyse": 1, "report": 1,
    }  # fmt: skip


def test_every_recipe_comes_after_what_it_is_made_from():
    seen: set[Recipe] = set()
    for recipe in wanted("capture.hookpoints=[layers.0,layers.1]").all():
        assert set(recipe.parents()) <= seen
        seen.add(recipe)


def test_an_sae_is_trained_without_the_test_split_and_evaluated_on_nothing_else():
    named = wanted().named["layers.1"]
    assert shards_below(named["normalise"]) == {"train"}
    assert shards_below(named["train"]) == {"train", "validation"}
    assert {shard.spec.split for shard in named["evaluate"].inputs["shards"]} == {"test"}
    assert {s.inputs["shard"].spec.split for s in named["mine"].inputs["encoded"]} == {"train", "test"}


def test_hookpoints_share_corpus_model_and_pass_but_no_sae():
    both = wanted("capture.hookpoints=[layers.0,layers.1.mlp]")
    first, second = both.named["layers.0"], both.named["layers.1.mlp"]
    assert first["corpus"] is second["corpus"] and first["lm"] is second["lm"]
    assert first["train"] != second["train"] and len(both.finals) == 2
    captures = [recipe for recipe in both.all() if recipe.stage.name == "capture"]
    assert len(captures) == 12 and len(lanes(captures)) == 1


def test_a_model_that_is_trained_here_rests_on_the_corpus_and_another_does_not(tmp_path, monkeypatch):
    assert wanted().named["layers.1"]["lm"].inputs.keys() == {"corpus"}
    (tmp_path / "config.json").write_text(
        '{"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 16, "vocab_size": 9, "max_position_embeddings": 128}'
    )
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "tokenizer.json").write_text("{}")
    assert wanted("lm=hf", f"lm.path={tmp_path}").named["layers.1"]["lm"].inputs == {}


def test_every_scorer_is_a_score_of_its_own_and_the_report_shows_all():
    named = wanted("scorers=[detection,fuzzing]").named["layers.1"]
    assert {"score/detection", "score/fuzzing"} <= named.keys()
    assert set(named["report"].inputs["scores"]) == {named["score/detection"], named["score/fuzzing"]}


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test")


def test_a_judge_does_not_move_the_key_of_an_explanation_that_asks_nobody(key):
    free, judged = (wanted(*more).named["layers.1"] for more in ([], ["client=anthropic_batch"]))
    assert free["explain"] == judged["explain"] and free["score/detection"] != judged["score/detection"]


def test_who_answers_is_part_of_what_was_asked(key):
    asked = ["explainer=default", "client=anthropic_batch", "client.price_input=1", "client.price_output=5"]
    one, other = (wanted(*asked, f"client.model={model}").named["layers.1"] for model in ("claude-a", "claude-b"))
    assert one["explain"] != other["explain"] and one["mine"] == other["mine"]
