"""eai-sparsify. Runs in its environment.

Its ``Trainer`` takes activations from a language model's forward pass only, so the operations of its step (version 1.3.3,
trainer.py) are repeated here around its own ``SparseCoder`` and optimisers, in the same order.
"""

from importlib.metadata import version

import torch
from schedulefree import ScheduleFreeWrapper
from sparsify import SparseCoder, SparseCoderConfig
from sparsify.sign_sgd import SignSGD
from talking import Contestant, serve


class Sparsify(Contestant):
    version = version("eai-sparsify")

    def __init__(self, asked):
        torch.manual_seed(asked.get("seed", 0))
        self.sae = SparseCoder(asked["d"], SparseCoderConfig(num_latents=asked["n_latents"], k=asked["k"]))
        if asked.get("optimizer", "signum") == "signum":  # its default, at its own learning rate
            self.optimizer = ScheduleFreeWrapper(
                SignSGD(self.sae.parameters(), lr=5e-3 / (asked["n_latents"] / 2**14) ** 0.5), momentum=0.95
            )
            self.optimizer.train()
        else:
            self.optimizer = torch.optim.Adam(self.sae.parameters(), lr=asked["lr"])
        self.since_fired = torch.zeros(asked["n_latents"], dtype=torch.long)
        self.fired = torch.zeros(asked["n_latents"], dtype=torch.bool)
        self.begun = False

    def step(self, x):
        if not self.begun:
            self.sae.b_dec.data = x.mean(0)
            self.begun = True
        self.sae.set_decoder_norm_to_unit_norm()
        found = self.sae(x=x, y=x, dead_mask=None, total_variance=(x - x.mean(0)).pow(2).sum())
        self.fired[found.latent_indices.flatten()] = True
        float(found.fvu.detach())
        (found.fvu + 0.0 * found.auxk_loss + found.multi_topk_fvu / 8).backward()
        self.sae.remove_gradient_parallel_to_decoder_directions()
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            self.since_fired += len(x)
            self.since_fired[self.fired] = 0
            self.fired.zero_()

    def x_hat(self, x):
        averaged = hasattr(self.optimizer, "eval")
        if averaged:  # schedule-free: the weights to use are an average of those that are trained
            self.optimizer.eval()
        found = self.sae(x).sae_out
        if averaged:
            self.optimizer.train()
        return found


if __name__ == "__main__":
    serve(Sparsify)
