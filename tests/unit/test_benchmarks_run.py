"""Benchmarks run, at sizes at which they say nothing; peers are left out, who need environments of their own."""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys

import pytest
from rich.progress import Progress

from benchmarks import environments, peers, planted


def test_the_planted_benchmark_trains_scores_writes_and_draws(tmp_path, capsys):
    truth = ["--d", "8", "--true-latents", "12", "--mean-l0", "1.5", "--children", "2", "--correlation", "0.2"]
    budget = ["--steps", "30", "--batch", "32", "--rows", "1000", "--seeds", "2", "--scored", "1024"]
    files = ["--json", str(tmp_path / "found.json"), "--plot", str(tmp_path / "found.png")]
    planted.main(["topk", "standard", *truth, *budget, *files])
    assert "ours, topk" in capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())["found"]
    assert [run["seed"] for run in found["ours, topk"]["runs"]] == [0, 1]
    assert all(0 < run["mcc"] <= 1 and run["l0"] == pytest.approx(2.0, abs=0.2) for run in found["ours, topk"]["runs"])
    assert found["ours, standard"]["options"]["l1_coefficient"] > 0
    assert (tmp_path / "found.png").read_bytes()[:4] == b"\x89PNG"


def test_a_truth_that_cannot_be_is_told_in_one_line():
    with pytest.raises(SystemExit, match="planted.mean_l0 = 9, but 12 latents"):
        planted.main(["topk", "--true-latents", "12", "--mean-l0", "9"])


def test_a_coefficient_is_found_at_which_a_falling_curve_comes_to_its_target():
    tries = []

    def l0(coefficient: float) -> float:
        tries.append(coefficient)
        return 100 / coefficient

    found = planted.tuned(l0, 5.0, 1.0)
    assert abs(l0(found) / 5.0 - 1) < 0.1 and len(tries) <= 9
    assert planted.tuned(lambda c: 7.0, 5.0, 1.0, tries=3) in (1.0, 4.0, 16.0)  # nothing helps: any of those tried


@pytest.mark.slow  # five processes that import torch
def test_contestants_take_turns_in_processes_of_their_own_and_learn_the_same_curve(tmp_path):
    shape = {"d": 16, "n_latents": 64, "k": 4, "batch": 64, "lr": 1e-2}
    entries = peers.chosen(["ours, topk, float32"])
    assert [label for label, _, _ in entries] == ["dense TopK, autograd, Adam", "ours, topk, float32"]
    wrong = ("nobody", "ours", {"what": "ours", "kind": "nothing", "bf16": False})
    with Progress(disable=True) as progress:
        found = peers.compared([*entries, wrong], shape, rounds=2, steps=1, where=None, progress=progress)
        curves = peers.curves(entries, shape, 20, [0], None, progress)
    assert "nothing" in found["nobody"]["error"] and "failed" in peers.table(found)
    ours = found["ours, topk, float32"]
    assert len(ours["wall"]) == 2 and ours["times_cpu"] > 0 and ours["growth_mb"] >= 0
    dense, own = (curves[label][0]["points"] for label, _, _ in entries)
    assert [step for step, _ in own] == list(range(1, 21)) and own[-1][1] < own[0][1]
    # The dense one begins with the same weights, and does the same sums in another order.
    assert math.isclose(own[0][1], dense[0][1], rel_tol=1e-3) and math.isclose(own[-1][1], dense[-1][1], rel_tol=0.02)
    peers.plotted(curves, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_options_of_the_comparison_belong_to_the_train_benchmark():
    parser = argparse.ArgumentParser()
    peers.add_arguments(parser)
    asked = parser.parse_args(["--peers", "--only", "topk", "Adam", "--curve", "100"])
    assert asked.peers and asked.only == ["topk", "Adam"] and asked.curve == 100


def test_an_environment_of_an_unknown_peer_is_refused_and_the_pin_is_that_of_the_constraints(tmp_path):
    with pytest.raises(environments.EnvironmentFailed, match="peer = 'nobody', but there are sae-lens, eai-sparsify"):
        environments.environment("nobody", tmp_path)
    assert environments.torch_pin().startswith("torch==")
    (tmp_path / "sae-lens").mkdir()
    (tmp_path / "sae-lens" / "something").write_text("")
    with pytest.raises(environments.EnvironmentFailed, match="is no virtual environment; use another folder"):
        environments.environment("sae-lens", tmp_path)
    assert (tmp_path / "sae-lens" / "something").exists()


def test_an_environment_that_is_there_is_given_back_and_left_alone(tmp_path):
    folder = tmp_path / "eai-sparsify"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    stamp = {"requirements": list(environments.PEERS["eai-sparsify"].requirements), "torch": environments.torch_pin()}
    (folder / "saint-environment.json").write_text(json.dumps({**stamp, "python": sys.version.split()[0]}))
    script = environments.__file__
    done = subprocess.run([sys.executable, script, "eai-sparsify", "--where", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(folder / "bin" / "python")
