"""SAEs to and fro between SAINT and sae-lens, eai-sparsify and dictionary-learning themselves: how far latents and reconstructions differ.

    python -m benchmarks.roundtrip [--where FOLDER] [--json]

Each peer works in an environment of its own (``benchmarks/environments.py``; ``--where`` is its folder of environments). It
writes SAEs of every architecture that it has, with perturbed weights; we read them. We write SAEs of every kind that its format
holds, under norms none, mean, rms and whiten; it reads them. Figures are the largest difference over the largest number. Exit code 1 if
one is above 1e-5, or if an SAE that ought to be refused is not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.environments import PEERS, EnvironmentFailed, environment
from tasks.formats.base import Portable, formats, opened
from tasks.kinds import decode, spec_class
from tasks.norms.base import FittedNorm, Statistics
from tasks.spec import SpecError

ALLOWED = 1e-5
D, N_LATENTS, K, N_TOKENS = 24, 160, 6, 256
WORKER = Path(__file__).with_name("workers") / "porting.py"
FORMAT = {"sae-lens": "saelens", "eai-sparsify": "sparsify", "dictionary-learning": "dictionary_learning"}


def inputs() -> np.ndarray:
    """Activations as models have them: far from 0, dimensions of different scale."""
    draw = np.random.default_rng(7)
    return (draw.standard_normal((N_TOKENS, D)) * np.linspace(0.5, 2.5, D) + np.linspace(-1, 1.5, D)).astype(np.float32)


def ours(it: Portable, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Latents, dense, and reconstructions as SAINT gives them."""
    raw = torch.from_numpy(x)
    latents = it.trained.encode(raw)
    f = torch.zeros(len(raw), it.sae.n_latents).scatter_add(1, latents.index_BK, latents.value_BK)
    return f.numpy(), it.trained.reconstruct(raw).numpy()


def apart(got: tuple[np.ndarray, np.ndarray], answer: Path) -> dict[str, float]:
    """The largest differences of latents and of reconstructions, over the largest number of each."""
    with np.load(answer) as held:
        want = held["f"], held["x_hat"]
    pairs = zip(("latents", "reconstructions"), got, want, strict=True)
    found = {name: float(np.abs(g - w).max() / max(1.0, np.abs(w).max())) for name, g, w in pairs}
    return {**found, "l0": float((want[0] > 0).sum(1).mean())}


def run(python: Path, peer: str, what: str, folder: Path) -> None:
    command = [str(python), str(WORKER), peer, what, str(folder)]
    bare = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "WANDB_MODE": "disabled"}  # nothing of ours reaches it
    done = subprocess.run(command, capture_output=True, text=True, env=bare)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")


def read_by_us(peer: str, python: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """What the peer wrote."""
    folder.mkdir(parents=True)
    np.save(folder / "inputs.npy", inputs())
    run(python, peer, "write", folder)
    for case in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        row = {"peer": peer, "way": "it writes, we read", "case": case.name}
        refuses = case.name.startswith("refused")
        try:
            it = opened(case, allow_pickle=True)
            found = apart(ours(it, inputs()), case / "answer.npz")
            fine = max(found["latents"], found["reconstructions"]) <= ALLOWED and not refuses
            yield {**row, **found, "kind": it.sae.spec.kind, "fine": fine, "said": "read, and ought to be refused" if refuses else ""}
        except SpecError as error:
            yield {**row, "fine": refuses, "said": str(error).replace(str(folder), "...")}


def stirred(kind: str, seed: int, **fields: Any) -> Any:
    """An SAE of ours with weights that are nobody's initial ones."""
    more = {"k": K} if "k" in spec_class("tasks.saes", kind).model_fields else {}
    spec = decode("tasks.saes", {"kind": kind, "n_latents": N_LATENTS, "expansion_factor": None, **more, **fields}, "sae")
    sae = spec.build(D, seed)
    draw = torch.Generator().manual_seed(seed)
    for name, tensor in sae.weights().items():
        tensor.add_(torch.randn(tensor.shape, generator=draw) * (0.3 if tensor.dim() == 1 else 0.2))
        if name.startswith("threshold"):
            tensor.abs_()
    return sae


def written_by_us(peer: str, python: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """What the peer makes of ours."""
    format = formats()[FORMAT[peer]]
    folder.mkdir(parents=True)
    x = inputs()
    np.save(folder / "inputs.npy", x)
    cases: dict[str, Portable] = {}
    states = {"none": {}, "mean": {"mean": torch.from_numpy(x.mean(0))}}
    states["rms"] = {**states["mean"], "scale": torch.tensor(1.7)}
    rows = torch.from_numpy(x) @ torch.randn(D, D, generator=torch.Generator().manual_seed(2))
    states["whiten"] = decode("tasks.norms", {"kind": "whiten"}, "norm").fit(Statistics.of(rows), [rows])
    for kind in format.WRITES:
        for norm, state in states.items():
            fitted = FittedNorm(decode("tasks.norms", {"kind": norm}, "norm"), state)
            cases[f"{kind}, norm {norm}"] = Portable(stirred(kind, 1), fitted, "layers.4", {"model": "gpt2"})
        if peer != "dictionary-learning":
            for skip in (False, True):
                sae = stirred(kind, 2, skip=skip, subtract_b_dec=False)
                it = Portable(sae, hookpoint="layers.4.mlp_in:layers.4.mlp", about={"model": "gpt2"})
                cases[f"{kind}, {'skip ' if skip else ''}transcoder"] = it
    if peer == "eai-sparsify":
        cases["groupmax"] = Portable(stirred("topk", 3, groupmax=True, k=5), hookpoint="layers.4")
    for name, it in list(cases.items()):
        try:
            format.write(it, folder / name)
        except SpecError as error:
            cases.pop(name)
            if "transcoder" not in name:
                yield {"peer": peer, "way": "we write, it reads", "case": name, "fine": False, "said": str(error)}
    run(python, peer, "read", folder)
    for name, it in cases.items():
        row = {"peer": peer, "way": "we write, it reads", "case": name, "kind": it.sae.spec.kind}
        if (failed := folder / name / "error.txt").exists():
            yield {**row, "fine": False, "said": failed.read_text()[:300]}
            continue
        found = apart(ours(it, x), folder / name / "answer.npz")
        yield {**row, **found, "fine": max(found["latents"], found["reconstructions"]) <= ALLOWED, "said": ""}


def rows(where: Path | None = None) -> Iterator[dict[str, Any]]:
    """Every case, both ways."""
    with tempfile.TemporaryDirectory(prefix="saint-roundtrip-") as scratch:
        for peer in PEERS:
            python = environment(peer, where)
            yield from read_by_us(peer, python, Path(scratch) / peer / "theirs")
            yield from written_by_us(peer, python, Path(scratch) / peer / "ours")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--where", type=Path, help="folder that holds the peers' environments")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    asked = parser.parse_args()
    try:
        found = list(rows(asked.where))
    except EnvironmentFailed as failure:
        print(failure, file=sys.stderr)
        return 1
    if asked.json:
        print(json.dumps(found, indent=1))
    else:
        print("| peer | way | case | our kind | L0 | latents apart | reconstructions apart | |\n|---|---|---|---|---|---|---|---|")
        for row in found:
            figures = [f"{row[n]:.1e}" if n in row else "" for n in ("latents", "reconstructions")]
            l0 = f"{row['l0']:.1f}" if "l0" in row else ""
            verdict = ("refused: " if row["fine"] and row["said"] else "" if row["fine"] else "WRONG ") + row["said"][:160]
            print("|", " | ".join([row["peer"], row["way"], row["case"], row.get("kind", ""), l0, *figures, verdict]), "|")
    wrong = sum(not row["fine"] for row in found)
    print(f"{len(found)} cases, {wrong} of them wrong (more than {ALLOWED:g} apart)", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
