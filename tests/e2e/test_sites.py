"""Whole runs of a transcoder and of a crosscoder, up to their reports, and from the SAE on again."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from artifacts.store import Store
from flows.cli import main
from tests.small import overrides

TRANSCODER, CROSSCODER = "layers.1.mlp_in:layers.1.mlp", "layers.0+layers.1"
FEW = [
    "capture.n_shards=2", "train.n_tokens=20000", "train.lr=0.005", "evaluate.ce_contexts=16", "mine.n_pool=128", "report.n_cards=8",
    "explain.latents=top:12", "runtime.mode=inline", "runtime.device=cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A folder with the reports of both."""
    folder = tmp_path_factory.mktemp("sites")
    world, before = [o for o in overrides(folder) if not o.startswith("capture.hookpoints")], Path.cwd()
    os.chdir(folder)
    try:
        for preset, hookpoint in (("transcoder", TRANSCODER), ("crosscoder", CROSSCODER)):
            assert main(["run", *world, *FEW, f"sae={preset}", f"capture.hookpoints=[{hookpoint}]"]) == 0
        yield folder, world
    finally:
        os.chdir(before)


def made(folder: Path, stage: str, hookpoint: str | None = None) -> list:
    store = Store.at(folder / "saint-store")
    found = [store.open(a) for a in store.artifacts() if a.stage == stage]
    return [one for one in found if hookpoint is None or one.summary["hookpoint"] == hookpoint]


def test_a_transcoder_comes_to_its_report(lab):
    (sae,), (found,) = (made(lab[0], stage, TRANSCODER) for stage in ("train", "evaluate"))
    body = json.loads((sae.path / "sae.json").read_text())
    assert body["widths"] == {"layers.1.mlp_in": 32, "layers.1.mlp": 32} and not body["spec"].get("subtract_b_dec", True)
    assert 0 < found.summary["fvu"] < 0.9 and found.summary["ce_sae"] != found.summary["ce_clean"]
    pages = [(one.path / "report.html").read_text() for one in made(lab[0], "report")]
    assert sum(f"at {TRANSCODER}" in page for page in pages) == 1


def test_a_crosscoder_comes_to_its_report_with_the_fit_of_each_site(lab):
    (found,) = made(lab[0], "evaluate", CROSSCODER)
    assert {"fvu at layers.0", "fvu at layers.1"} < found.summary.keys() and 0 < found.summary["fvu"] < 0.5
    pages = [(one.path / "report.html").read_text() for one in made(lab[0], "report")]
    assert sum(f"at {CROSSCODER}" in page and "fvu at layers.0" in page for page in pages) == 1


def test_sites_of_a_model_are_captured_once_and_a_second_run_makes_nothing(lab, capsys):
    folder, world = lab
    assert sorted({one.summary["hookpoint"] for one in made(folder, "capture")}) == ["layers.0", "layers.1", "layers.1.mlp", "layers.1.mlp_in"]
    for preset, hookpoint in (("transcoder", TRANSCODER), ("crosscoder", CROSSCODER)):
        capsys.readouterr()
        assert main(["plan", *world, *FEW, f"sae={preset}", f"capture.hookpoints=[{hookpoint}]", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["missing"] == 0


@pytest.mark.parametrize("hookpoint", [TRANSCODER, CROSSCODER])
def test_explaining_begins_with_the_sae_that_is_there(lab, hookpoint):
    folder = lab[0]
    (sae,) = made(folder, "train", hookpoint)
    for capture in made(folder, "capture"):
        Store.at(folder / "saint-store").delete(capture.artifact)  # their recipes are known, and the latents were encoded before
    n = len(made(folder, "explain"))
    asked = ["explain", str(sae.artifact), "explainer=lexical", "explain.latents=0:5", "mine.n_pool=128", "runtime.mode=inline"]
    assert main(asked) == 0
    assert len(made(folder, "explain")) == n + 1 and not made(folder, "capture")


def test_a_sweep_over_sites_is_one_comparison(lab, capsys):
    folder, world = lab
    asked = [*world, *FEW, "sae=topk", f"capture.hookpoints=[layers.1],[{CROSSCODER}],[embed+layers.0]", "--json"]
    capsys.readouterr()
    assert main(["plan", "-m", *asked]) == 0
    stages = {line["stage"]: line for line in json.loads(capsys.readouterr().out)["stages"]}
    assert stages["train"]["n"] == 3 and stages["compare"]["n"] == 1
    assert stages["capture"]["n"] == 3 * 4  # layers.0, layers.1 and embed: hookpoints are shared between jobs
