"""A new SAE kind, explainer or scorer is one file and one YAML: dropped into a copy of the project, it runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.small import overrides

ROOT = Path(__file__).parents[2]

FILES = {
    "tasks/saes/absolute.py": '''
"""Keeps every positive pre-activation; L1 holds them down."""
from __future__ import annotations
from typing import ClassVar, Literal
from tasks.lazy import torch
from tasks.saes.base import SAE, Latents, SAESpec

class AbsoluteSpec(SAESpec):
    MAKES: ClassVar[str] = "Absolute"
    kind: Literal["absolute"] = "absolute"
    l1: float = 0.01
    most: int = 16

class Absolute(SAE):
    EQUATION = "x_hat = W_dec relu(W_enc x + b_enc) + b_dec"

    def dense(self, x_BD):
        return torch.relu(x_BD @ self.W_enc_ND.T + self.b_enc_N)

    def encode(self, x_BD):
        value, index = self.dense(x_BD).topk(min(self.spec.most, self.n_latents))
        return Latents(index, value)

    def loss(self, x_BD, dead_N, y_BD=None, sparsity=1.0):
        z = self.dense(x_BD)
        x_hat = z @ self.W_dec_ND + self.b_dec_D
        mse = (x_hat - x_BD).pow(2).sum(-1).mean()
        return {"total": mse + self.spec.l1 * z.sum(-1).mean(), "l1": z.sum(-1).mean()}
''',
    "conf/sae/absolute.yaml": "kind: absolute\nexpansion_factor: 4\nn_latents: null\nl1: 0.01\nmost: 16\n",
    "tasks/explainers/loudest.py": '''
"""Names the token on which the latent is loudest."""
from __future__ import annotations
from typing import ClassVar, Literal
from tasks.explainers.base import Explainer, Explanation

class Loudest(Explainer):
    NEEDS_CLIENT: ClassVar[bool] = False
    kind: Literal["loudest"] = "loudest"

    def read(self, replies, examples):
        seen = examples.train(activating=True)
        if not seen:
            return Explanation(examples.latent, "too_few_examples")
        best = max(seen, key=lambda w: max(w.values))
        return Explanation(examples.latent, "ok", label=f"loudest on {best.tokens[best.peak].strip()}")
''',
    "conf/explainer/loudest.yaml": "kind: loudest\n",
    "tasks/scorers/length.py": '''
"""Scores an explanation by how short it is: no judge, and no use."""
from __future__ import annotations
from typing import Literal
from tasks.scorers.base import Score, Scorer

class Length(Scorer):
    kind: Literal["length"] = "length"

    def needs_client(self, explanation_has_predicate):
        return False

    def score(self, replies, explanation, examples, seed, bench=None):
        if explanation.status != "ok":
            return Score(examples.latent, "no_explanation")
        return Score(examples.latent, "ok", value=1 / (1 + len(explanation.label)), low=0.0, high=1.0, n=1)
''',
    "conf/scorer/length.yaml": "kind: length\n",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    top = tmp_path_factory.mktemp("project")
    for name in ("flows", "tasks", "artifacts", "conf"):
        shutil.copytree(ROOT / name, top / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in FILES.items():
        (top / name).write_text(text.lstrip())
    return top


def saint(project: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project)},
        capture_output=True,
        text=True,
        timeout=280,
    )


def test_new_kinds_run_end_to_end_without_touching_any_other_file(project, tmp_path_factory):
    world = tmp_path_factory.mktemp("world")
    done = saint(
        project,
        "run",
        *[o for o in overrides(world) if not o.startswith("sae.k=")],
        "runtime.mode=inline",
        f"backend.root={world / 'store'}",
        "sae=absolute",
        "explainer=loudest",
        "scorers=[length]",
    )
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    listed = saint(project, "ls", "--json", f"backend.root={world / 'store'}")
    stages = {row["stage"] for row in json.loads(listed.stdout)["artifacts"]}
    assert {"train", "evaluate", "explain", "score", "report"} <= stages


def test_a_kind_that_is_not_there_is_told_with_the_file_to_add(project):
    done = saint(project, "plan", "sae.kind=nonesuch")
    assert done.returncode == 2
    assert "absolute" in done.stderr and "tasks/saes/nonesuch.py" in done.stderr
    assert "Traceback" not in done.stderr
