"""Processes of peers, each in its own environment, and the comparison of training speed in turns.

``Worker`` is one such process. ``compared`` gives each contestant a few steps at a time, one contestant after the other and
never two at once, so that a machine whose speed drifts treats them alike; ratios are medians over turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from benchmarks.environments import environment

_WORKERS = Path(__file__).parent / "workers"
_SCRIPTS = {
    "ours": "for_ours.py",
    "sae-lens": "for_sae_lens.py",
    "eai-sparsify": "for_sparsify.py",
    "dictionary-learning": "for_dictionary_learning.py",
}


class WorkerFailed(RuntimeError):
    """A contestant's process ended, or said that it could not do what it was asked for."""


class Worker:
    """A contestant's process: waits, and works when asked. A context manager; leaving it ends the process."""

    def __init__(self, peer: str, where: Path | None = None, label: str = "") -> None:
        """``peer``: ``ours``, or a name of ``benchmarks.environments.PEERS``, whose environment is made if need be."""
        self.label = label or peer
        python = Path(sys.executable) if peer == "ours" else environment(peer, where)
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - it lives as long as the process
        read, write = os.pipe()  # of its own: some libraries print to stdout when they are imported
        self._answers = os.fdopen(read)
        self._process = subprocess.Popen(
            [str(python), str(_WORKERS / _SCRIPTS[peer]), str(write)],
            stdin=subprocess.PIPE, stdout=self._errors, stderr=self._errors, pass_fds=[write], text=True,
        )  # fmt: skip
        os.close(write)

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        """What the worker answers. Raises ``WorkerFailed``."""
        assert self._process.stdin
        line = ""
        try:
            self._process.stdin.write(json.dumps({"do": do, **fields}) + "\n")
            self._process.stdin.flush()
            line = self._answers.readline()
        except BrokenPipeError:
            pass
        answer = json.loads(line) if line else {"error": f"its process ended with {self._process.wait()}"}
        if "error" in answer:
            self._errors.seek(0)
            said = "    ".join(self._errors.readlines()[-8:])
            raise WorkerFailed(f"{self.label} could not {do}: {answer['error']}; the last it said:\n    {said}")
        return answer

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._answers, self._errors):
            try:
                if pipe:
                    pipe.close()
            except BrokenPipeError:
                pass


Entry = tuple[str, str, Mapping[str, Any]]
"""Label, peer, and fields of ``make``. The first of a list is what the others are measured against."""

ENTRIES: list[Entry] = [
    ("dense TopK, autograd, Adam", "ours", {"what": "dense"}),
    ("ours, topk, float32", "ours", {"what": "ours", "kind": "topk", "bf16": False}),
    ("ours, topk, bfloat16 search", "ours", {"what": "ours", "kind": "topk", "bf16": True}),
    ("ours, batchtopk, float32", "ours", {"what": "ours", "kind": "batchtopk", "bf16": False}),
    ("ours, batchtopk, bfloat16 search", "ours", {"what": "ours", "kind": "batchtopk", "bf16": True}),
    ("sae-lens, topk", "sae-lens", {"kind": "topk"}),
    ("sae-lens, batchtopk", "sae-lens", {"kind": "batchtopk"}),
    ("eai-sparsify, signum", "eai-sparsify", {"optimizer": "signum"}),
    ("eai-sparsify, Adam", "eai-sparsify", {"optimizer": "adam"}),
    ("dictionary-learning, topk", "dictionary-learning", {"kind": "topk"}),
    ("dictionary-learning, batchtopk", "dictionary-learning", {"kind": "batchtopk"}),
    ("floor: encoder matmul, float32", "ours", {"what": "floor", "bf16": False}),
    ("floor: encoder matmul, bfloat16", "ours", {"what": "floor", "bf16": True}),
]


def chosen(only: Sequence[str]) -> list[Entry]:
    """Entries whose label contains one of some words, the dense formulation always with them; all without words."""
    return [e for i, e in enumerate(ENTRIES) if not only or i == 0 or any(word in e[0] for word in only)]


def written(path: Path, d: int, n_rows: int) -> Path:
    """A file of planted activations: 4 d directions in superposition, 20 of them in a row, some noise."""
    import numpy as np

    from tasks.planted.truth import Planted, PlantedSpec

    planted = Planted(PlantedSpec(d=d, n_latents=4 * d, mean_l0=min(20.0, d / 2), zipf=0.5, noise=0.01, bias=1.0))
    rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n_rows, d))
    for start in range(0, n_rows, 8192):
        stop = min(n_rows, start + 8192)
        rows[start:stop] = planted.rows(start, stop).numpy()
    rows.flush()
    return path


def compared(
    entries: Sequence[Entry], shape: Mapping[str, Any], rounds: int, steps: int, where: Path | None, progress: Progress
) -> dict[str, dict[str, Any]]:
    """Figures of each contestant by label, from turns of ``steps`` steps; the first turn warms up and is not counted.

    ``shape``: d, n_latents, k, batch, lr. A contestant that fails is left out of the rest, with ``error`` in its place.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        data = written(folder / "rows.npy", shape["d"], 8 * shape["batch"])
        workers, found = _made(entries, stack, where, {**shape, "data": str(data)}, progress)
        task = progress.add_task("turns", total=(rounds + 1) * len(workers))
        for turn in range(rounds + 1):
            for label in list(workers):
                progress.update(task, advance=1, description=f"turn {turn} of {rounds}: {label}")
                try:
                    times = workers[label].ask("steps", n=steps)
                except WorkerFailed as failure:
                    found[label] = {"error": str(failure)}
                    workers.pop(label)
                    continue
                if turn:
                    found[label]["wall"].append(statistics.mean(times["wall"]))
                    found[label]["cpu"].append(statistics.mean(times["cpu"]))
        for label, worker in workers.items():
            peak = worker.ask("peak")
            found[label] |= {"peak_mb": peak["mb"], "growth_mb": peak["mb"] - peak["start_mb"]}
        progress.remove_task(task)
    base = found[entries[0][0]]
    for figures in found.values():
        if "error" not in figures:
            for clock in ("wall", "cpu"):
                pairs = zip(base[clock], figures[clock], strict=True)
                figures[f"times_{clock}"] = statistics.median(b / own for b, own in pairs)
                figures[f"tokens_per_{clock}_second"] = shape["batch"] / statistics.median(figures[clock])
    return found


def curves(
    entries: Sequence[Entry], shape: Mapping[str, Any], n_steps: int, seeds: Sequence[int], where: Path | None, progress: Progress
) -> dict[str, list[dict[str, Any]]]:
    """FVU on held-out rows over ``n_steps`` steps on the same batches: by label, for each seed steps and FVU of that moment."""
    every, found = max(1, n_steps // 20), {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        n_train, n_held_out = min(n_steps, 200) * shape["batch"], 8192
        data = written(folder / "rows.npy", shape["d"], n_train + n_held_out)
        task = progress.add_task("curves", total=len(entries) * len(seeds) * n_steps)
        for seed in seeds:
            fields = {**shape, "data": str(data), "train_rows": n_train, "seed": seed}
            for entry in entries:
                with ExitStack() as one:
                    workers, _ = _made([entry], one, where, fields, progress)
                    for label, worker in workers.items():
                        points = []
                        for step in range(0, n_steps, every):
                            n = min(every, n_steps - step)
                            worker.ask("steps", n=n)
                            held_out = worker.ask("fvu", start=n_train, stop=n_train + n_held_out)
                            points.append((step + n, held_out["fvu"]))
                            progress.update(task, advance=n, description=f"{label}, seed {seed}")
                        found.setdefault(label, []).append({"seed": seed, "points": points})
        progress.remove_task(task)
    return found


def _made(
    entries: Sequence[Entry], stack: ExitStack, where: Path | None, fields: Mapping[str, Any], progress: Progress
) -> tuple[dict[str, Worker], dict[str, dict[str, Any]]]:
    workers, found = {}, {}
    for label, peer, own in entries:
        worker = stack.enter_context(Worker(peer, where, label))
        try:
            version = worker.ask("make", **fields, **own)["version"]
        except WorkerFailed as failure:
            progress.console.print(f"{failure}", style="red", markup=False)
            found[label] = {"error": str(failure)}
            continue
        workers[label], found[label] = worker, {"version": version, "wall": [], "cpu": []}
    return workers, found


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Figures of ``compared`` as text."""
    head = f"{'':40}{'tokens/s':>10}{'tokens/CPU-s':>14}{'x dense':>9}{'x dense, CPU-s':>16}{'peak MB':>10}{'over import':>13}"
    lines = [head]
    for label, f in found.items():
        if "error" in f:
            lines.append(f"{label:40}  failed: {f['error'].splitlines()[0]}")
            continue
        named = f"{label} {f['version']}"
        rate = f"{f['tokens_per_wall_second']:10.0f}{f['tokens_per_cpu_second']:14.0f}"
        lines.append(
            f"{named:40}{rate}{f['times_wall']:9.2f}{f['times_cpu']:16.2f}{f['peak_mb']:10.0f}{f['growth_mb']:13.0f}"
        )
    return "\n".join(lines + against(found))


def against(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """How many times as fast as each other contestant of its kind ours is: medians of the turns' own ratios."""
    lines = []
    for label, own in found.items():
        if not label.startswith("ours") or "error" in own:
            continue
        kind, ratios = label.split(", ")[1], []
        for other, figures in found.items():
            if "error" in figures or other.startswith(("ours", "floor")) or (kind == "topk") == ("batchtopk" in other):
                continue
            wall, cpu = (
                statistics.median(b / o for b, o in zip(figures[clock], own[clock], strict=True)) for clock in ("wall", "cpu")
            )
            ratios.append(f"{wall:.1f} ({cpu:.1f}) {other}")
        if ratios:
            lines.append(f"{label} is x as fast, wall (CPU): " + "; ".join(ratios))
    return lines


def plotted(found: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Curves as a picture: a colour for each contestant, a line for each seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for i, (label, runs) in enumerate(found.items()):
        for j, run in enumerate(runs):
            steps, values = zip(*run["points"], strict=True)
            axes.plot(steps, values, color=f"C{i}", alpha=0.8, label=label if j == 0 else None)
    axes.set(xlabel="steps", ylabel="FVU of held-out rows", yscale="log")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def prepared(peers: Iterable[str], where: Path | None) -> None:
    """Make the environments that are needed, before anything is timed or drawn."""
    for peer in sorted(set(peers) - {"ours"}):
        environment(peer, where)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a comparison with peers."""
    group = parser.add_argument_group("with --peers")
    group.add_argument("--peers", action="store_true", help="compare with sae-lens, eai-sparsify and dictionary-learning")
    group.add_argument("--only", nargs="+", default=[], metavar="WORD", help="contestants whose name contains one of these")
    group.add_argument("--where", type=Path, help="folder of the peers' environments (see benchmarks/environments.py)")
    group.add_argument("--lr", type=float, default=1e-3)
    group.add_argument("--curve", type=int, metavar="STEPS", help="compare FVU over this many steps, instead of speed")
    group.add_argument("--seeds", type=int, default=2, help="seeds of a curve")
    group.add_argument("--plot", type=Path, metavar="FILE", help="draw the curves into this picture")


def main(args: argparse.Namespace) -> None:
    """``benchmarks/train.py --peers``."""
    shape = {"d": args.d, "n_latents": args.n_latents, "k": args.k, "batch": args.batch, "lr": args.lr}
    entries = chosen(args.only)
    prepared((peer for _, peer, _ in entries), args.where)
    print("d={d} n_latents={n_latents} k={k} batch={batch} lr={lr:g}".format(**shape), f"load {os.getloadavg()[0]:.1f}")
    with Progress(console=Console(stderr=True), transient=True) as progress:
        if args.curve:
            learns = [entry for entry in entries if entry[2].get("what") != "floor"]
            found: Any = curves(learns, shape, args.curve, range(args.seeds), args.where, progress)
        else:
            found = compared(entries, shape, args.rounds, args.steps, args.where, progress)
    if args.curve:
        shown = [point[0] for point in next(iter(found.values()))[0]["points"]][3::4]
        print(f"{'FVU of held-out rows at step':40}" + "".join(f"{step:9}" for step in shown))
        for label, runs in found.items():
            for run in runs:
                values = "".join(f"{value:9.4f}" for step, value in run["points"] if step in shown)
                print(f"{label + ', seed ' + str(run['seed']):40}{values}")
        if args.plot:
            plotted(found, args.plot)
    else:
        print(table(found))
    if args.json:
        facts = {n: str(v) if isinstance(v, Path) else v for n, v in vars(args).items()}
        Path(args.json).write_text(json.dumps({"arguments": facts, "figures": found}, indent=1))
