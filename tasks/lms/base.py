"""Where a language model comes from."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from tasks.spec import Spec
from tasks.stage import Job, Summary


class Facts(NamedTuple):
    """What can be known of a model before it is loaded."""

    name: str
    n_layers: int
    d_model: int
    vocab_size: int | None = None
    context_length: int | None = None
    d_mlp: int | None = None
    """Width of an MLP's hidden activations."""

    d_heads: int | None = None
    """Width of a block's attention heads side by side."""

    adds_positions: bool | None = None
    """Whether positions are added to the embeddings of tokens, so that block 0 reads another thing than these."""


class LMSpec(Spec):
    """What all kinds of language model share; each adds a field ``kind``."""

    NEEDS_CORPUS: ClassVar[bool] = False
    """Whether the model is trained on the run's corpus, so that its key depends on it."""

    def facts(self) -> Facts | None:
        """Shape of the model, read without torch or network; None where only loading can tell."""
        return None

    def provide(self, job: Job) -> Summary:
        """Make the artifact: weights, or a pin on where they lie. Returns the facts of the model."""
        raise NotImplementedError
