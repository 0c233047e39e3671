"""dictionary-learning, driven through its trainers' own ``update``. Runs in its environment."""

from importlib.metadata import version

from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from dictionary_learning.trainers.top_k import TopKTrainer
from talking import Contestant, serve

KINDS = {"topk": TopKTrainer, "batchtopk": BatchTopKTrainer}


class DictionaryLearning(Contestant):
    version = version("dictionary-learning")

    def __init__(self, asked):
        self.trainer = KINDS[asked["kind"]](
            steps=asked.get("n_steps", 10**6), activation_dim=asked["d"], dict_size=asked["n_latents"], k=asked["k"],
            layer=0, lm_name="none", lr=asked["lr"], warmup_steps=0, seed=asked.get("seed", 0), device="cpu",
        )  # fmt: skip
        self.at = 0

    def step(self, x):
        self.trainer.update(self.at, x)
        self.at += 1

    def x_hat(self, x):
        return self.trainer.ae(x)


if __name__ == "__main__":
    serve(DictionaryLearning)
