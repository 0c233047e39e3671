"""Ours, the dense formulation, and the floor: what needs no environment but SAINT's own."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from talking import Contestant, serve

from benchmarks.train import Dense
from tasks.kinds import decode


class Ours(Contestant):
    def __init__(self, asked):
        spec = decode("tasks.saes", {"n_latents": asked["n_latents"], "expansion_factor": None, "k": asked["k"], "kind": asked["kind"]})
        self.sae, self.lr = spec.build(asked["d"], asked.get("seed", 0)), asked["lr"]
        self.learner = self.sae.learner(dead_after_tokens=10**12, bf16=asked["bf16"])
        self.begun = False

    def step(self, x):
        if not self.begun:  # as tasks.fitting does
            self.sae.b_dec_D.copy_(x.mean(0))
            self.begun = True
        self.learner.step(x, self.lr)

    def x_hat(self, x):
        return self.sae.decode(self.sae.encode(x), x)


class Plain(Contestant):
    def __init__(self, asked):
        self.dense = Dense(asked["d"], asked["n_latents"], asked["k"], "cpu", asked["lr"], asked.get("seed", 0))
        self.x_hat, self.begun = self.dense.x_hat, False

    def step(self, x):
        if not self.begun:
            self.dense.b_dec.data.copy_(x.mean(0))
            self.begun = True
        self.dense.step(x)


class Floor(Contestant):
    """The encoder's matrix product alone, which nobody who picks the k largest can do without."""

    def __init__(self, asked):
        self.dtype = torch.bfloat16 if asked["bf16"] else torch.float32
        self.W = torch.randn(asked["n_latents"], asked["d"]).to(self.dtype)
        self.buffer = torch.empty(min(256, asked["batch"]), asked["n_latents"], dtype=self.dtype)

    def step(self, x):
        rows = x.to(self.dtype)
        for piece in rows.split(len(self.buffer)):
            torch.mm(piece, self.W.t(), out=self.buffer[: len(piece)])


if __name__ == "__main__":
    serve(lambda asked: {"ours": Ours, "dense": Plain, "floor": Floor}[asked["what"]](asked))
