"""Training speed of our TopK SAE against the dense formulation, and against the encoder matmul that nobody can avoid.

    python benchmarks/train.py [--d 512] [--n-latents 8192] [--k 32] [--batch 2048] [--rounds 5] [--json FILE]
    python benchmarks/train.py --peers [--only NAME ...] [--curve STEPS] [--where FOLDER] [--plot FILE]

All contestants take turns in one process, a few steps at a time, so that a machine whose speed drifts treats them
alike. Quote the ratios; tokens per second are of this machine at this moment. With ``--peers``, sae-lens, eai-sparsify and
dictionary-learning take turns too, and everybody has a process of its own (see ``benchmarks.peers``).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.nn.functional as F

from benchmarks import peers
from tasks.learning.sparse import SparseLearner
from tasks.saes.batchtopk import BatchTopK
from tasks.saes.topk import TopK


class Dense:
    """TopK as SAINT and most tutorials write it: dense everything, autograd, Adam, decoder rows renormalised."""

    def __init__(self, d: int, n_latents: int, k: int, device: str) -> None:
        draw = torch.Generator().manual_seed(0)
        W = F.normalize(torch.randn(n_latents, d, generator=draw), dim=-1)
        self.k = k
        self.W_enc = W.t().clone().to(device).requires_grad_(True)
        self.W_dec = W.clone().to(device).requires_grad_(True)
        self.b_enc = torch.zeros(n_latents, device=device, requires_grad=True)
        self.b_dec = torch.zeros(d, device=device, requires_grad=True)
        self.adam = torch.optim.Adam([self.W_enc, self.W_dec, self.b_enc, self.b_dec], lr=1e-3)

    def step(self, x: torch.Tensor) -> None:
        pre = (x - self.b_dec) @ self.W_enc + self.b_enc
        value, index = pre.topk(self.k, dim=-1)
        latents = torch.zeros_like(pre).scatter(-1, index, value.relu())
        x_hat = latents @ self.W_dec + self.b_dec
        loss = (x_hat - x).square().sum() / (x - x.mean(0)).square().sum()
        self.adam.zero_grad()
        loss.backward()
        with torch.no_grad():
            grad = self.W_dec.grad
            grad -= (grad * self.W_dec).sum(-1, keepdim=True) * self.W_dec
            self.adam.step()
            self.W_dec /= self.W_dec.norm(dim=-1, keepdim=True)


def contestants(args: argparse.Namespace) -> dict[str, Callable[[torch.Tensor], object]]:
    """What takes turns, by name."""
    device = torch.device(args.device)

    def ours(kind: type[TopK] | type[BatchTopK], bf16: bool) -> Callable[[torch.Tensor], object]:
        sae = kind(n_latents=args.n_latents, expansion_factor=None, k=args.k).build(args.d).to(device=device)
        learner = SparseLearner(sae, dead_after_tokens=10**12, bf16=bf16)
        return lambda x: learner.step(x, 1e-3)["fvu"]

    def floor(dtype: torch.dtype) -> Callable[[torch.Tensor], object]:
        W = torch.randn(args.n_latents, args.d, device=device).to(dtype)
        buffer = torch.empty(min(256, args.batch), args.n_latents, dtype=dtype, device=device)

        def run(x: torch.Tensor) -> None:
            rows = x.to(dtype)
            for start in range(0, len(rows), len(buffer)):
                piece = rows[start : start + len(buffer)]
                torch.mm(piece, W.t(), out=buffer[: len(piece)])

        return run

    dense = Dense(args.d, args.n_latents, args.k, args.device)
    return {
        "dense TopK, autograd, Adam": dense.step,
        "ours, topk, float32": ours(TopK, False),
        "ours, topk, bfloat16 search": ours(TopK, True),
        "ours, batchtopk, float32": ours(BatchTopK, False),
        "ours, batchtopk, bfloat16 search": ours(BatchTopK, True),
        "floor: encoder matmul, float32": floor(torch.float32),
        "floor: encoder matmul, bfloat16": floor(torch.bfloat16),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d", type=int, default=512, help="width of the activations")
    parser.add_argument("--n-latents", type=int, default=8192)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch", type=int, default=2048, help="tokens in a step")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant")
    parser.add_argument("--steps", type=int, default=2, help="steps in a turn")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", help="write the figures to this file")
    peers.add_arguments(parser)
    args = parser.parse_args()
    if args.peers:
        return peers.main(args)

    draw = torch.Generator().manual_seed(1)
    truth = F.normalize(torch.randn(4 * args.d, args.d, generator=draw), dim=-1)
    codes = torch.rand(8 * args.batch, 4 * args.d, generator=draw)
    data = ((codes * (codes > 0.99)) @ truth + 0.01 * torch.randn(8 * args.batch, args.d, generator=draw)).to(args.device)
    batches = data.split(args.batch)

    runs = contestants(args)
    wall: dict[str, list[float]] = {name: [] for name in runs}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(args.rounds + 1):  # the first turn warms up and is not counted
        for name, step in runs.items():
            w, c = time.perf_counter(), time.process_time()
            for i in range(args.steps):
                step(batches[(turn * args.steps + i) % len(batches)])
            if args.device != "cpu":
                torch.cuda.synchronize()
            if turn:
                wall[name].append((time.perf_counter() - w) / args.steps)
                cpu[name].append((time.process_time() - c) / args.steps)
    base = next(iter(runs))
    print(f"d={args.d} n_latents={args.n_latents} k={args.k} batch={args.batch}, {torch.get_num_threads()} threads")
    print(f"{'':34}{'tokens/s':>10}{'tokens/CPU-s':>14}{'x dense':>9}{'x dense, CPU-s':>16}")
    figures = {}
    for name in runs:
        w, c = statistics.median(wall[name]), statistics.median(cpu[name])
        ratio = statistics.median(b / o for b, o in zip(wall[base], wall[name], strict=True))
        ratio_cpu = statistics.median(b / o for b, o in zip(cpu[base], cpu[name], strict=True))
        figures[name] = {"tokens_per_second": args.batch / w, "tokens_per_cpu_second": args.batch / c}
        figures[name] |= {"times_dense": ratio, "times_dense_cpu": ratio_cpu}
        print(f"{name:34}{args.batch / w:10.0f}{args.batch / c:14.0f}{ratio:9.2f}{ratio_cpu:16.2f}")
    if args.json:
        Path(args.json).write_text(json.dumps({"arguments": vars(args), "figures": figures}, indent=1))


if __name__ == "__main__":
    main()
