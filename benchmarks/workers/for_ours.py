"""Ours, the dense formulation, and the floors: what needs no environment but SAINT's own."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import torch.nn.functional as F
from talking import Contestant, serve

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


class Dense(Contestant):
    """TopK as most tutorials write it: everything dense, autograd, Adam, decoder rows renormalised."""

    def __init__(self, asked):
        draw = torch.Generator().manual_seed(asked.get("seed", 0))
        W = F.normalize(torch.randn(asked["n_latents"], asked["d"], generator=draw), dim=-1)
        self.k = asked["k"]
        self.W_enc, self.W_dec = W.t().clone().requires_grad_(True), W.clone().requires_grad_(True)
        self.b_enc = torch.zeros(asked["n_latents"], requires_grad=True)
        self.b_dec = torch.zeros(asked["d"], requires_grad=True)
        self.adam = torch.optim.Adam([self.W_enc, self.W_dec, self.b_enc, self.b_dec], lr=asked["lr"])
        self.begun = False

    def x_hat(self, x):
        pre = (x - self.b_dec) @ self.W_enc + self.b_enc
        value, index = pre.topk(self.k, dim=-1)
        return torch.zeros_like(pre).scatter(-1, index, value.relu()) @ self.W_dec + self.b_dec

    def step(self, x):
        if not self.begun:
            self.b_dec.data.copy_(x.mean(0))
            self.begun = True
        loss = (self.x_hat(x) - x).square().sum() / (x - x.mean(0)).square().sum()
        self.adam.zero_grad()
        loss.backward()
        with torch.no_grad():
            self.W_dec.grad -= (self.W_dec.grad * self.W_dec).sum(-1, keepdim=True) * self.W_dec
            self.adam.step()
            self.W_dec /= self.W_dec.norm(dim=-1, keepdim=True)


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
    serve(lambda asked: {"ours": Ours, "dense": Dense, "floor": Floor}[asked["what"]](asked))
