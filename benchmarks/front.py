"""The L0 / FVU front: every kind of SAE at a few sparsities, on the same activations of a language model.

    python benchmarks/front.py [--lm PATH] [--corpus PATH] [--hookpoint layers.2] [--n-tokens 640000] [override ...]

One capture and one norm serve all; what lies in the store is not made again, so a run that is interrupted goes on, and one
with more settings trains only those. Prints a table (or JSON), and draws L0 against FVU. Further arguments are overrides
as of ``saint run``: ``train.lr=1e-3``, ``capture.max_tokens=200000``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from flows.config import load
from flows.console import display
from flows.realise import realise
from flows.recipes import recipes

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "standard": [{"l1_coefficient": c} for c in (0.1, 0.2, 0.4)],
    "gated": [{"l1_coefficient": c} for c in (0.15, 0.3, 0.6)],
    "jumprelu": [
        *({"sparsity_coefficient": c} for c in (0.002, 0.004, 0.01)),
        {"penalty": "tanh", "sparsity_coefficient": 0.003},
        {"penalty": "target", "target_l0": 16, "sparsity_coefficient": 1.0},
    ],
    "topk": [{"k": k} for k in (8, 16, 32)],
    "batchtopk": [{"k": k} for k in (8, 16, 32)],
    "matryoshka": [{"k": k} for k in (8, 16, 32)],
}


def jobs(args: argparse.Namespace) -> list[tuple[str, str, list[str]]]:
    """Kind, setting in words, and overrides of each SAE."""
    common = [
        "lm=hf", f"lm.path={args.lm}", "corpus=parquet", f"corpus.path={args.corpus}", f"capture.hookpoints=[{args.hookpoint}]",
        f"train.n_tokens={args.n_tokens}", "runtime.mode=inline", f"backend.root={args.store}", *args.overrides,
    ]  # fmt: skip
    found = []
    for kind in args.kinds.split(","):
        for setting in SETTINGS[kind]:
            fields = [f"sae.{name}={value}" for name, value in setting.items()]
            said = " ".join(f"{name}={value}" for name, value in setting.items())
            found.append((kind, said, [*common, f"sae={kind}", f"sae.expansion_factor={args.expansion}", *fields]))
    return found


def made(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Train and evaluate; a row for each SAE."""
    named, pipeline = [], None
    for kind, said, overrides in jobs(args):
        pipeline = load(overrides)
        (recipes_of,) = recipes(pipeline).named.values()
        named.append((kind, said, recipes_of))
    assert pipeline is not None
    with display() as progress:
        realise([found["evaluate"] for _, _, found in named], pipeline.store, pipeline.runtime, progress)
    rows = []
    for kind, said, found in named:
        trained, evaluated = (pipeline.store.open(found[stage].artifact) for stage in ("train", "evaluate"))
        figures = evaluated.summary
        rows.append({
            "kind": kind, "setting": said, "l0": figures["l0"], "fvu": figures["fvu"],
            "ce_loss_recovered": figures["ce_loss_recovered"], "dead_fraction": figures["dead_fraction"],
            "seconds": trained.manifest.made_by.get("seconds"), "tokens_per_second": trained.summary["tokens_per_second"],
        })  # fmt: skip
    return rows


def drawn(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """The front as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
    for kind in dict.fromkeys(row["kind"] for row in rows):
        points = sorted((row["l0"], row["fvu"]) for row in rows if row["kind"] == kind)
        axes.plot(*zip(*points, strict=True), marker="o", label=kind)
    axes.set(xscale="log", yscale="log", xlabel="L0, active latents of a token", ylabel="FVU", title=title)
    axes.grid(True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lm", default=str(DATA / "lm-stories260k"), help="folder of a Hugging Face model")
    parser.add_argument("--corpus", default=str(DATA / "corpus-tinystories" / "train.parquet"), help="Parquet file of text")
    parser.add_argument("--hookpoint", default="layers.2")
    parser.add_argument("--n-tokens", type=int, default=640_000, help="rows that each SAE is trained on")
    parser.add_argument("--expansion", type=float, default=8, help="n_latents / d_in")
    parser.add_argument("--kinds", default=",".join(SETTINGS), help="kinds, parted by commas")
    parser.add_argument("--store", default="saint-store", help="folder of the store")
    parser.add_argument("--plot", default="front.png", help="file of the picture")
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    rows = made(args)
    drawn(rows, Path(args.plot), f"{Path(args.lm).name} {args.hookpoint}, {args.n_tokens:,} tokens, x {args.expansion:g}")
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    print("| kind | setting | L0 | FVU | CE recovered | dead | train s |\n|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['kind']} | {row['setting']} | {row['l0']:.1f} | {row['fvu']:.4f} | {row['ce_loss_recovered']:.4f} | "
            f"{row['dead_fraction']:.3f} | {row['seconds']:.0f} |"
        )


if __name__ == "__main__":
    main()
