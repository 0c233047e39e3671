"""sae-lens, driven through its own ``SAETrainer``. Runs in its environment."""

import sae_lens
import torch
from sae_lens import (
    SAE,
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    GatedTrainingSAE,
    GatedTrainingSAEConfig,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from talking import Contestant, serve

KINDS = {
    "topk": (TopKTrainingSAE, TopKTrainingSAEConfig),
    "batchtopk": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig),
    "matryoshka": (MatryoshkaBatchTopKTrainingSAE, MatryoshkaBatchTopKTrainingSAEConfig),
    "jumprelu": (JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig),
    "gated": (GatedTrainingSAE, GatedTrainingSAEConfig),
    "standard": (StandardTrainingSAE, StandardTrainingSAEConfig),
}


class SAELens(Contestant):
    version = sae_lens.__version__

    def __init__(self, asked):
        torch.manual_seed(asked.get("seed", 0))
        cls, config = KINDS[asked["kind"]]
        options = {"k": asked["k"]} if hasattr(config, "k") else {}
        self.sae = cls(config(d_in=asked["d"], d_sae=asked["n_latents"], **options, **asked.get("options", {})))
        steps, batch = asked.get("n_steps", 10**6), asked["batch"]
        settings = SAETrainerConfig(
            total_training_samples=steps * batch,
            train_batch_size_samples=batch,
            lr=asked["lr"],
            lr_end=asked["lr"],
            lr_warm_up_steps=asked.get("warmup_steps", 0),
            lr_decay_steps=asked.get("decay_steps", 0),
            dead_feature_window=asked.get("dead_after_steps", 10**9),
        )
        self.trainer = SAETrainer(settings, self.sae, data_provider=iter(()))

    def step(self, x):  # what ``SAETrainer.fit`` does with a batch, logs and checkpoints aside
        self.trainer.step(x)
        self.trainer.n_training_steps += 1

    def x_hat(self, x):
        return self.sae(x)

    def encoded(self, folder):
        self.sae.save_inference_model(folder)
        sae = SAE.load_from_disk(folder)

        def encode(x):
            latents = sae.encode(x)
            return latents.to_dense(), sae.decode(latents)

        return encode, sae.W_dec


if __name__ == "__main__":
    serve(SAELens)
