"""SAEs trained on activations whose dictionary is known, scored against it: a check that anybody can run on a laptop.

    python -m benchmarks.planted [topk batchtopk ...] [--seeds 3] [--steps 3000] [--lr 3e-3] [--json FILE] [--plot FILE]
    python -m benchmarks.planted topk --d 64 --true-latents 256 --mean-l0 8 --correlation 0.3 --children 3
    python -m benchmarks.planted --peers [--where FOLDER]     # sae-lens' own trainer, on the same batches

mcc: mean |cosine| of true and trained directions, matched one to one; f1: of firing, row by row, in each matched pair. The
other columns are explained in ``tasks.planted.scores``. Everything is scored on rows that nobody was trained on, with the
encoder that users get (a threshold for batchtopk, say).

The budget of all contestants is the same: rows, steps, batch, learning rate and its schedule (up over 2% of the steps, down
to 0 over the last 20%), and k, which is the true mean L0 unless ``--k`` says otherwise. Kinds that have a sparsity coefficient
instead of k get the one at which their L0 comes nearest to k, looked for with the first seed, for each contestant alike.
Otherwise each has its own defaults: ours those of ``conf/sae``, sae-lens' those of its configuration classes.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import Progress

import conf
from benchmarks.peers import Worker, prepared
from tasks.kinds import decode, kinds, spec_class
from tasks.planted.scores import Scores, scored
from tasks.planted.truth import Planted, PlantedSpec
from tasks.saes.base import Latents
from tasks.spec import SpecError

HELD_OUT = 1 << 40
"""First of the rows that scores are made on: no training comes that far."""

THEIR_SPARSITY = {"standard": "l1_coefficient", "gated": "l1_coefficient", "jumprelu": "l0_coefficient"}
"""Names of sae-lens' sparsity coefficients, of kinds that have no k."""

THEIR_KINDS = ("topk", "batchtopk", "matryoshka", "jumprelu", "gated", "standard")


class Budget:
    """What all contestants have alike."""

    def __init__(self, args: argparse.Namespace, spec: PlantedSpec) -> None:
        self.d, self.n_latents = spec.d, args.n_latents or spec.n_latents
        self.k = args.k or max(1, round(spec.mean_l0))
        self.steps, self.batch, self.lr = args.steps, args.batch, args.lr
        self.warmup, self.decay = max(1, round(0.02 * args.steps)), max(1, round(0.2 * args.steps))
        self.dead_after, self.n_scored = args.dead_after, args.scored

    def lr_at(self, step: int) -> float:
        """The learning rate of a step: as sae-lens' scheduler has it."""
        up = (step + 1) / self.warmup
        down = (self.steps - step) / self.decay
        return self.lr * min(1.0, up, down)


def ours(kind: str, planted: Planted, rows: np.ndarray, budget: Budget, seed: int, options: Mapping[str, Any]) -> Scores:
    """Train one of our kinds, as ``tasks.fitting`` does it, and score it."""
    fields = {**_conf(kind), "n_latents": budget.n_latents, "expansion_factor": None, **options}
    if "k" in spec_class("tasks.saes", kind).model_fields:
        fields["k"] = budget.k
    sae = decode("tasks.saes", fields, "sae").build(budget.d, seed)
    learner = sae.learner(dead_after_tokens=budget.dead_after)
    warmup = max(1, round(0.05 * budget.steps))
    for step in range(budget.steps):
        first = step * budget.batch % len(rows)
        x = torch.from_numpy(rows[first : first + budget.batch])
        if step == 0:
            sae.b_dec_D.detach().copy_(x.mean(0))
        now = {"done": step / budget.steps} if sae.spec.AGES else {}
        learner.step(x, budget.lr_at(step), sparsity=min(1.0, (step + 1) / warmup), **now)
    for tensor in sae.weights().values():
        tensor.requires_grad_(False)
    return scored(planted, sae, HELD_OUT, HELD_OUT + budget.n_scored)


def _conf(kind: str) -> dict[str, Any]:
    path = Path(conf.__file__).parent / "sae" / f"{kind}.yaml"
    return dict(OmegaConf.to_container(OmegaConf.load(path))) if path.exists() else {"kind": kind}  # type: ignore[arg-type]


def theirs(
    kind: str, planted: Planted, data: Path, budget: Budget, seed: int, options: Mapping[str, Any], where: Path | None
) -> Scores:
    """Train with sae-lens' own trainer on the same batches, and score the SAE that it saves for inference."""
    options = dict(options)
    if kind == "matryoshka":
        shares = spec_class("tasks.saes", "matryoshka").model_fields["prefixes"].default
        options["matryoshka_widths"] = [max(1, round(share * budget.n_latents)) for share in shares]
    if kind in THEIR_SPARSITY:
        options[THEIR_SPARSITY[kind].replace("coefficient", "warm_up_steps")] = max(1, round(0.05 * budget.steps))
    fields = {
        "kind": kind, "d": budget.d, "n_latents": budget.n_latents, "k": budget.k, "batch": budget.batch, "lr": budget.lr,
        "seed": seed, "options": options, "data": str(data), "n_steps": budget.steps, "warmup_steps": budget.warmup,
        "decay_steps": budget.decay, "dead_after_steps": max(1, budget.dead_after // budget.batch),
    }  # fmt: skip
    sample = planted.sample(HELD_OUT, HELD_OUT + budget.n_scored)
    with tempfile.TemporaryDirectory() as name, Worker("sae-lens", where) as worker:
        folder = Path(name)
        np.save(folder / "held_out.npy", sample.x_BD.numpy())
        worker.ask("make", **fields)
        worker.ask("steps", n=budget.steps)
        worker.ask("encode", data=str(folder / "held_out.npy"), out=name)
        latents_BM, x_hat, W_dec = (torch.from_numpy(np.load(folder / f"{n}.npy")) for n in ("latents", "x_hat", "W_dec"))
    scores = Scores(planted.directions_ND, W_dec)
    scores.add(sample, Latents(torch.arange(latents_BM.shape[1]).expand(latents_BM.shape), latents_BM), x_hat)
    return scores


def tuned(run: Callable[[float], float], target: float, start: float, tries: int = 8) -> float:
    """The coefficient, of those tried, at which ``run`` (which gives an L0) comes nearest to ``target`` on a log scale."""
    seen: dict[float, float] = {}
    low, high = None, None  # coefficients with too many latents, and with too few
    at = start
    for _ in range(tries):
        seen[at] = run(at)
        if abs(seen[at] / target - 1) < 0.03:
            break
        if seen[at] > target:
            low = at
        else:
            high = at
        at = math.sqrt(low * high) if low and high else (4 * at if low else at / 4)
    return min(seen, key=lambda c: abs(math.log(max(seen[c], 1e-3) / target)))


COLUMNS = ("mcc", "f1", "precision", "recall", "mmcs", "uniqueness", "shrinkage", "fvu", "l0")


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    args = _parser().parse_args(arguments)
    try:
        spec = PlantedSpec(
            d=args.d, n_latents=args.true_latents, mean_l0=args.mean_l0, zipf=args.zipf, magnitude=args.magnitude,
            orthogonal=args.orthogonal, correlation=args.correlation, children=args.children, noise=args.noise, bias=args.bias,
        )  # fmt: skip
        budget, found = Budget(args, spec), {}
        if args.peers:
            prepared(["sae-lens"], args.where)
        progress = Progress(console=Console(stderr=True), transient=True)
        with progress, ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            contestants = [("ours", kind) for kind in args.kinds or _known()]
            if args.peers:
                contestants = [
                    pair for _, k in contestants for pair in (("ours", k), ("sae-lens", k)) if pair[0] == "ours" or k in THEIR_KINDS
                ]
            task = progress.add_task("", total=args.seeds * len(contestants))
            chosen: dict[tuple[str, str], dict[str, float]] = {}
            for seed in range(args.seeds):
                planted = Planted(spec, seed)
                data = folder / f"{seed}.npy"
                n_rows = min(args.rows, args.steps * args.batch) // args.batch * args.batch
                rows = planted.rows(0, n_rows).numpy()
                np.save(data, rows)
                for who, kind in contestants:
                    progress.update(task, description=f"{who}, {kind}, seed {seed}")

                    def trained(options: Mapping[str, Any], who=who, kind=kind, planted=planted, rows=rows, data=data, seed=seed):
                        if who == "ours":
                            return ours(kind, planted, rows, budget, seed, options)
                        return theirs(kind, planted, data, budget, seed, options, args.where)

                    if (who, kind) not in chosen:
                        chosen[who, kind] = _options(who, kind, trained, budget)
                    begun = time.perf_counter()
                    scores = trained(chosen[who, kind])
                    figures = scores.figures() | {"seconds": time.perf_counter() - begun}
                    entry = {"seed": seed, **figures, "f1_of_pairs": scores.f1().tolist(), "true_of_pairs": scores.true_P.tolist()}
                    found.setdefault(f"{who}, {kind}", {"options": chosen[who, kind], "runs": []})["runs"].append(entry)
                    progress.update(task, advance=1)
    except SpecError as mistake:
        sys.exit(str(mistake))
    print(
        f"d {spec.d}, {spec.n_latents} true latents of which {spec.mean_l0:g} fire (Zipf {spec.zipf:g}); {budget.n_latents} trained, "
        f"k {budget.k}; {budget.steps} steps of {budget.batch}, lr {budget.lr:g}; mean ± standard deviation of {args.seeds} seeds"
    )
    print(table(found))
    if args.json:
        Path(args.json).write_text(json.dumps({"planted": spec.payload(), "budget": vars(budget), "found": found}, indent=1))
    if args.plot:
        plotted(found, Planted(spec, 0).probability_N.tolist(), args.plot)
    return found


def _known() -> list[str]:
    return [kind for kind in kinds("tasks.saes") if kind != "load"]


def _options(who: str, kind: str, trained: Callable[[Mapping[str, Any]], Scores], budget: Budget) -> dict[str, float]:
    spec = spec_class("tasks.saes", kind)
    name = spec.SPARSITY if who == "ours" else THEIR_SPARSITY.get(kind)
    if not name:
        return {}
    start = spec.model_fields[name].default if who == "ours" else 1.0
    value = tuned(lambda c: trained({name: c}).figures()["l0"], budget.k, float(start))
    return {name: value}


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Means and standard deviations over seeds, as text."""
    lines = [f"{'':24}" + "".join(f"{name:>16}" for name in (*COLUMNS[:2],)) + "".join(f"{n:>11}" for n in (*COLUMNS[2:], "seconds"))]
    for label, held in found.items():
        row = f"{label:24}"
        for name in (*COLUMNS, "seconds"):
            values = [run[name] for run in held["runs"]]
            mean = statistics.mean(values)
            if name in COLUMNS[:2]:
                text = f"{mean:.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")
                row += f"{text:>16}"
            else:
                row += f"{mean:>11.3f}" if name not in ("l0", "seconds") else f"{mean:>11.2f}"
        option = ", ".join(f"{n} {v:.3g}" for n, v in held["options"].items())
        lines.append(row + (f"  ({option})" if option else ""))
    return "\n".join(lines)


def plotted(found: Mapping[str, Mapping[str, Any]], probability_N: list[float], path: Path) -> None:
    """MCC and F1 of every seed, and the F1 of each true latent against how often it fires (first seed)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(14, 4.5), layout="constrained")
    for i, (label, held) in enumerate(found.items()):
        for axis, name in zip(axes, ("mcc", "f1"), strict=False):
            axis.scatter([i] * len(held["runs"]), [run[name] for run in held["runs"]], color=f"C{i % 10}", s=20)
        first = held["runs"][0]
        x = [probability_N[n] for n in first["true_of_pairs"]]
        axes[2].scatter(x, first["f1_of_pairs"], s=6, alpha=0.5, color=f"C{i % 10}", label=label)
    for axis, name in zip(axes, ("MCC", "F1 of firing"), strict=False):
        axis.set(ylabel=name, xticks=range(len(found)))
        axis.set_xticklabels(list(found), rotation=45, ha="right", fontsize="small")
    axes[2].set(xscale="log", xlabel="probability of firing of a true latent", ylabel="F1 of firing")
    axes[2].legend(fontsize="x-small")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="kind", help="kinds of SAE; none: all that we have")
    truth = parser.add_argument_group("the truth")
    truth.add_argument("--d", type=int, default=64, help="width of the activations")
    truth.add_argument("--true-latents", type=int, default=128)
    truth.add_argument("--mean-l0", type=float, default=5.0, help="true latents that fire in a row, on average")
    truth.add_argument("--zipf", type=float, default=0.5, help="exponent of the firing probabilities")
    truth.add_argument("--magnitude", choices=["constant", "exponential", "folded_normal"], default="folded_normal")
    truth.add_argument("--orthogonal", action="store_true", help="directions orthogonal within each d of them")
    truth.add_argument("--correlation", type=float, default=0.0, help="share of firing that latents have in common, below 1")
    truth.add_argument("--children", type=int, default=0, help="children of each parent; 0: no hierarchy")
    truth.add_argument("--noise", type=float, default=0.01)
    truth.add_argument("--bias", type=float, default=1.0)
    budget = parser.add_argument_group("the budget, the same for all")
    budget.add_argument("--n-latents", type=int, help="trained latents (default: as many as there are)")
    budget.add_argument("--k", type=int, help="default: the mean L0 of the truth")
    budget.add_argument("--steps", type=int, default=3000)
    budget.add_argument("--batch", type=int, default=512)
    budget.add_argument("--lr", type=float, default=3e-3)
    budget.add_argument("--rows", type=int, default=500_000, help="rows made for training; more steps go around")
    budget.add_argument("--dead-after", type=int, default=20_000, help="rows of silence after which a latent counts as dead")
    budget.add_argument("--seeds", type=int, default=3, help="each seed is another truth, and other initial weights")
    parser.add_argument("--scored", type=int, default=16_384, help="held-out rows that scores are made on")
    parser.add_argument("--peers", action="store_true", help="train with sae-lens too")
    parser.add_argument("--where", type=Path, help="folder of the peers' environments (see benchmarks/environments.py)")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--plot", type=Path, help="draw them into this picture")
    return parser


if __name__ == "__main__":
    main()
