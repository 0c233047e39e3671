"""The evaluated SAEs of a store: every model and hookpoint has a front of its own, and nothing is counted twice or left unsaid."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from artifacts.store import Store
from flows.cli import main
from flows.evaluated import ranked
from tasks.reporting.evaluated import facts, listed, page
from tasks.spec import Spec, SpecError
from tasks.stage import Job, Recipe, Summary, stage
from tests.making import make


class FiguresSpec(Spec):
    figures: dict[str, Any]
    sae: dict[str, Any] = {}


def a(name: str) -> Any:
    """A stage that makes nothing but a summary; an SAE also has the file by which it is known."""

    @stage(name, version=1)
    def made(job: Job[FiguresSpec]) -> Summary:
        if name in ("train", "adopt"):
            (job.out / "sae.json").write_text(json.dumps({"spec": {"kind": "gated"}}))
        return job.spec.figures

    return made


def lm(name: str) -> Recipe:
    return a("lm")(FiguresSpec(figures={"name": name}))


def sae(kind: str, hookpoint: str, seed: int = 0, by: str = "train") -> Recipe:
    shape = {} if by == "adopt" else {"kind": kind}
    return a(by)(FiguresSpec(figures={"hookpoint": hookpoint, "n_latents": 64, "seed": seed}, sae=shape))


def evaluation(of: Recipe, model: str, l0: float, fvu: float, ce: float | None = 0.9, rows: int = 0) -> Recipe:
    found = {"l0": l0, "fvu": fvu, "ce_loss_recovered": ce, "dead_fraction": 0.0}
    shard = a("capture")(FiguresSpec(figures={"rows": rows}))
    return a("evaluate")(FiguresSpec(figures=found), lm=lm(model), sae=of, shards=[shard])


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[Store, dict[str, Recipe]]:
    store = Store.at(tmp_path_factory.mktemp("evaluated") / "store")
    found = {
        "good": sae("topk", "layers.1", 1), "better": sae("jumprelu", "layers.1", 2), "beaten": sae("topk", "layers.1", 3),
        "elsewhere": sae("topk", "layers.2", 4), "imported": sae("", "layers.1", 5, by="adopt"), "alone": sae("topk", "layers.1", 6),
    }  # fmt: skip
    every = [
        evaluation(found["good"], "small", 10, 0.3), evaluation(found["better"], "small", 20, 0.2),
        evaluation(found["beaten"], "small", 21, 0.25, None), evaluation(found["elsewhere"], "small", 30, 0.9),
        evaluation(found["imported"], "large", 40, 0.95, rows=1),
    ]  # fmt: skip
    for recipe in [*every, found["alone"]]:
        make(recipe, store)
    return store, found


def by_name(found: dict[str, Any], named: dict[str, Recipe]) -> dict[str, dict[str, Any]]:
    names = {str(recipe.artifact): name for name, recipe in named.items()}
    return {names[row["train"]]: row for row in found["rows"]}


def test_each_model_and_hookpoint_has_its_own_front(world):
    store, named = world
    found = ranked(store)
    rows = by_name(found, named)
    assert {name for name, row in rows.items() if row["pareto"]} == {"good", "better", "elsewhere", "imported"}
    assert not rows["beaten"]["pareto_ce"], "what was not measured is on no front"
    assert found["not_evaluated"] == [str(named["alone"].artifact)]
    assert [row["hookpoint"] for row in found["rows"]] == ["layers.1"] * 4 + ["layers.2"], "large before small, then by hookpoint"
    assert "on" not in found["rows"][0] and json.dumps(found)


def test_kinds_are_known_of_trained_and_of_imported_saes(world):
    rows = by_name(ranked(world[0]), world[1])
    assert rows["better"]["kind"] == "jumprelu" and rows["imported"]["kind"] == "gated", "the latter's file says so"
    assert rows["imported"]["settings"] == {"kind": "gated", "model": "large"}


def test_named_saes_are_ranked_among_themselves(world):
    store, named = world
    found = ranked(store, [str(named[name].artifact) for name in ("beaten", "elsewhere")])
    assert {name: row["pareto"] for name, row in by_name(found, named).items()} == {"beaten": True, "elsewhere": True}
    assert found["not_evaluated"] == [] and found["rows"][0]["settings"] == {"kind": "topk"}, "one model needs no name"


def test_an_sae_without_an_evaluation_is_refused_by_name(world):
    store, named = world
    with pytest.raises(SpecError, match="but this store has no evaluation of train/.*; saint score train/.* --report makes one"):
        ranked(store, [str(named["alone"].artifact)])


def test_the_newest_evaluation_counts_and_unlike_ones_are_told_apart(tmp_path):
    store = Store.at(tmp_path / "store")
    one, other = sae("topk", "layers.1", 1), sae("topk", "layers.1", 2)
    make(evaluation(one, "small", 10, 0.5), store)
    time.sleep(1.1)  # manifests tell the time by the second
    make(evaluation(one, "small", 10, 0.4), store)
    make(evaluation(other, "small", 20, 0.3, rows=2), store)
    found = ranked(store)
    assert [row["fvu"] for row in found["rows"]] == [0.4, 0.3]
    assert found["apart"] == ["small at layers.1"] and "not all measured on the same rows" in facts(found)[0]


def test_the_page_has_a_plot_for_each_hookpoint_with_a_point_for_each_sae(world):
    store, named = world
    text = page(ranked(store))
    labels = [f'aria-label="{metric} against L0 {i}"' for i in range(3) for metric in ("FVU", "CE loss recovered")]
    assert all(text.count(label) == 1 for label in labels)
    for row in by_name(ranked(store), named).values():
        assert text.count(f"<title>{row['job']}: L0") == (1 if row["ce_loss_recovered"] is None else 2)
    assert 'class="swatch"' in text and "default-src 'none'" in text


def test_the_command_prints_a_table_json_and_a_page(world, tmp_path, capsys):
    store, named = world
    place = f"backend.root={store.backend.disk[1]}"
    assert main(["compare", place, "--html", str(tmp_path / "page.html")]) == 0
    said = capsys.readouterr().out
    assert "FVU, CE" in said and "not evaluated: " in said and (tmp_path / "page.html").stat().st_size > 10_000
    assert all(column.title in said.split("\n")[0] for column in listed(ranked(store)))
    assert main(["compare", place, str(named["good"].artifact), str(named["better"].artifact), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["of"] == "saes" and len(found["rows"]) == 2
    assert main(["compare", place, str(named["good"].artifact), "latents=0:3"]) == 2
    assert "SAEs are compared as wholes" in capsys.readouterr().err


def test_a_store_without_evaluations_says_so(tmp_path, capsys):
    store = Store.at(tmp_path / "store")
    make(sae("topk", "layers.1"), store)
    assert main(["compare", f"backend.root={tmp_path / 'store'}"]) == 0
    assert "no SAE of this store was evaluated" in capsys.readouterr().out
