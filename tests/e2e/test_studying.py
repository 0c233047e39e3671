"""``saint explain`` and ``saint score`` on a small world: from nothing, on what a store has, and after much of it is gone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from artifacts.keys import Artifact
from artifacts.store import Store
from flows.cli import main
from flows.goals import Goal
from flows.lineage import Held, recipe_of
from flows.sweep import check_stamp, jobs, packed, stamp, unpacked, wanted
from tests.small import overrides

WINDOWS = ("mine", "encode")
"""Stages between an SAE and its explanations."""


class Lab:
    """A small world, and commands given in it."""

    def __init__(self, folder: Path, capsys, small: list[str]) -> None:
        self.folder, self.capsys, self.small = folder, capsys, small

    @property
    def store(self) -> Store:
        return Store.at(self.folder / "store")

    def saint(self, *arguments: str) -> str:
        """What a command says that must succeed."""
        code = main([*arguments, f"backend.root={self.folder / 'store'}", "runtime.mode=inline"])
        said = self.capsys.readouterr()
        assert code == 0, said.err
        return said.out

    def refused(self, *arguments: str) -> str:
        """The one line of a command that must fail by the user's mistake."""
        code = main([*arguments, f"backend.root={self.folder / 'store'}", "runtime.mode=inline"])
        said = self.capsys.readouterr().err.strip()
        assert code == 2 and "\n" not in said, said
        return said.removeprefix("error: ")

    def of(self, stage: str) -> list[Artifact]:
        """Artifacts of a stage, the oldest first as far as manifests can tell."""
        return [a for a in self.store.artifacts() if a.stage == stage]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, list[str], str]:
    """A world in which twenty latents of an SAE are explained, from nothing."""
    folder = tmp_path_factory.mktemp("studying")
    small = [*overrides(folder), "train.n_tokens=20000"]
    assert main(["explain", *small, "latents=0:20", f"backend.root={folder / 'store'}", "runtime.mode=inline"]) == 0
    (made,) = [str(a) for a in Store.at(folder / "store").artifacts() if a.stage == "explain"]
    return folder, small, made


@pytest.fixture
def lab(built, capsys) -> Lab:
    return Lab(built[0], capsys, built[1])


@pytest.fixture
def copied(built, capsys, tmp_path) -> Lab:
    """The same with a store of its own, in which things may be lost."""
    shutil.copytree(built[0] / "store", tmp_path / "store")
    return Lab(tmp_path, capsys, built[1])


def sae(lab: Lab) -> str:
    return str(lab.of("train")[0])


def lost(lab: Lab, *stages: str) -> None:
    for artifact in [a for a in lab.store.artifacts() if a.stage in stages]:
        lab.store.delete(artifact)


def test_to_explain_from_nothing_makes_what_explanations_need_and_no_more(lab):
    assert {a.stage for a in lab.store.artifacts()} >= {"corpus", "lm", "capture", "train", "mine", "explain"}
    assert not lab.of("evaluate") and not lab.of("report")


def test_an_sae_in_the_store_is_taken_up_where_it_is(lab, built):
    said = lab.saint("explain", sae(lab), "latents=0:20")
    assert "nothing to make" in said and built[2] in said, "the same recipe by way of its manifests, and so the same key"


def test_every_recipe_is_found_again_by_its_manifest(lab):
    for artifact in lab.store.artifacts():
        recipe = recipe_of(lab.store, artifact)
        assert not isinstance(recipe, Held) and recipe.artifact == artifact
        assert recipe.json["inputs"] == lab.store.find(artifact).inputs


def test_a_run_of_the_same_settings_finds_what_was_explained_by_name(lab):
    lab.saint("explain", sae(lab), "latents=[1,3]")
    assert "nothing to make" in lab.saint("explain", *lab.small, "explain.latents=[1,3]")


def test_scores_are_added_to_explanations_that_there_are(lab, built):
    plan = lab.saint("score", built[2], "--plan")
    assert "2 to make" in plan and not lab.of("score")
    said = lab.saint("score", built[2], "score.seed=1")
    assert "mean balanced accuracy" in said and "latents.parquet" in said and "shuffled explanations" in said
    assert "nothing to make" in lab.saint("score", built[2], "score.seed=1")
    (made,) = lab.of("score")
    assert lab.store.find(made).inputs["explain"].startswith(built[2])
    run = json.loads(lab.saint("show", "last", "--json").replace("runtime.mode=inline", ""))["run"]
    assert run["command"] == "score" and run["overrides"][0] == built[2]


def test_other_scorers_and_judges_are_other_columns(lab, built):
    import pyarrow.parquet as pq

    before = set(lab.of("analyse"))
    lab.saint("score", built[2], "scorers=[detection,{kind: detection, n_positive: 10}]")
    (made,) = set(lab.of("analyse")) - before
    table = pq.read_table(lab.store.open(made).path / "latents.parquet")
    assert {"score_detection n_positive=10", "score_detection n_positive=20"} <= set(table.column_names)
    assert table.num_rows == 128


def test_a_report_of_an_sae_in_the_store_is_the_one_that_a_run_would_make(lab, built):
    said = lab.saint("score", built[2], "--report", "report.n_cards=12")
    page = Path(said.split("report: ")[1].splitlines()[0]).read_text("utf-8")
    assert "by latent<br>(macro)" in page and "What became of every latent" in page
    assert main(["report", f"backend.root={lab.folder / 'store'}"]) == 0 and lab.capsys.readouterr().out.strip() in said
    assert "nothing to make" in lab.saint("run", *lab.small, "explain.latents=0:20", "report.n_cards=12")


def test_a_sweep_of_explainers_is_one_run(lab):
    n = len(lab.of("explain"))
    said = lab.saint("explain", sae(lab), "-m", "latents=0:3", "explainer.max_terms=1,2")
    assert "2 jobs" in said and len(lab.of("explain")) == n + 2


def test_a_worker_elsewhere_wants_the_same_of_what_it_is_handed(lab):
    (artifact,) = lab.of("train")
    goal = Goal("score", f"train/{artifact.key}")
    found = jobs([[f"backend.root={lab.folder / 'store'}", "explain.latents=0:9"]], goal)
    handed = json.loads(json.dumps(packed(found)))
    back = unpacked(handed)
    assert back[0].goal == goal and wanted(back).all() == wanted(found).all()
    check_stamp(back, stamp(found), "here")


def test_windows_that_are_gone_are_made_again_under_the_same_key(copied, built):
    before = copied.of("mine")
    lost(copied, *WINDOWS, "explain")
    said = copied.saint("explain", sae(copied), "latents=0:20")
    assert "20 latents explained" in said and copied.of("mine") == before and str(copied.of("explain")[0]) == built[2]


def test_what_is_needed_and_cannot_be_made_again_is_named(copied):
    name = sae(copied)
    lost(copied, *WINDOWS, "corpus")
    assert "20 latents explained" in copied.saint("explain", name, "latents=0:20"), "nothing needs the text"
    lost(copied, *WINDOWS, "explain")
    test = next(a for a in copied.of("capture") if copied.store.find(a).spec["split"] == "test")
    copied.store.delete(test)
    said = copied.refused("explain", name)
    assert said.startswith("corpus/") and "is needed, but neither it nor its recipe is in this store any more" in said


def test_some_latents_of_explanations_that_there_are_can_be_scored_and_a_range_beyond_the_end_is_refused(lab, built):
    lab.saint("score", built[2], "latents=0:7", "score.seed=9")
    (made,) = [a for a in lab.of("score") if lab.store.find(a).spec.get("latents") == "0:7"]
    assert lab.store.find(made).summary["n"] == 7
    assert "score.latents = '0:100000', but the SAE has latents 0 to" in lab.refused("score", built[2], "latents=0:100000")


def test_an_sae_without_its_captures_is_explained_from_windows_that_there_are(copied):
    name = sae(copied)
    lost(copied, "capture", "normalise", *set(WINDOWS) - {"mine"}, "corpus")
    assert "latents explained" in copied.saint("explain", name, "latents=5:8")
    assert "latents explained" in copied.saint("explain", str(copied.of("mine")[0]), "latents=5:9")
    assert "to make" in copied.saint("score", str(copied.of("explain")[0]))
    assert "and a report evaluates the SAE" in copied.refused("score", str(copied.of("explain")[0]), "--report")
    assert "the activations it was trained on are gone" in copied.refused("explain", name, "mine.seed=7")
    lost(copied, "mine")
    assert "name windows that there are" in copied.refused("explain", name)
    assert "are gone and with them which SAE they were of" in copied.refused("score", str(copied.of("explain")[0]))


@pytest.mark.parametrize(("arguments", "message"), [
    (["explain", "SAE", "sae.k=5"], "sae.k=5, but train/.* is made already and has its own; leave it out"),
    (["explain", "SAE", "lm=gpt2"], "lm=gpt2, but train/"),
    (["score", "EXPLAIN", "explain.latents=0:3"], "explain.latents=0:3, but explain/.* is made already"),
    (["explain", "SAE", "latents=[128]"], "but the SAE has latents 0 to 127; leave out 128"),
    (["explain", "SAE", "latents=200:300"], "but the SAE has latents 0 to 127"),
    (["explain", "SAE", "latents=some"], "a choice of latents is all, a range"),
    (["explain", "corpus/"], "is none of what saint explain begins with: an SAE"),
    (["explain", "train/ffff"], "no artifact of this store is called so"),
    (["explain", "SAE", "SAE"], "takes one artifact to begin with"),
    (["score", "EXPLAIN", "scorers=[]"], "saint score needs one at least"),
    (["score", "EXPLAIN", "scorers=[nonesuch]"], "nonesuch"),
    (["explain", "SAE", "explainer=default"], "it asks an LLM and client is none"),
    (["compare", "EXPLAIN"], "it takes two or more"),
])  # fmt: skip
def test_mistakes_are_one_line(lab, built, arguments, message):
    import re

    names = {"SAE": sae(lab), "EXPLAIN": built[2]}
    assert re.search(message, lab.refused(*(names.get(a, a) for a in arguments)))


def test_help_lists_the_commands(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in ("explain", "score", "compare", "ledger"))
