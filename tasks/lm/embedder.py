"""Texts as vectors: a sentence-transformers model, by folder or hub id. Shapes: P texts, D width of a vector."""

from __future__ import annotations

import importlib.util
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self

from tasks.lazy import np, torch, transformers
from tasks.lm.loading import device_of, quiet
from tasks.lm.pretrained import Pretrained
from tasks.progress import Progress
from tasks.spec import Runtime, SpecError

if TYPE_CHECKING:
    import numpy as np

_TOKENS = 64
"""Tokens a text is taken to have, when it is said how many texts make a batch."""

_CHUNK = 4096
"""Texts between two reports of progress."""


class Embeds(Protocol):
    """Anything that turns texts into vectors of length 1: their inner product is how alike they are."""

    def queries(self, texts: Sequence[str], prefix: str | None = None) -> np.ndarray:
        """float32 (P, D), of texts that say what is looked for, each after a prefix; None: the model's own, if it has one."""

    def passages(self, texts: Sequence[str], progress: Progress | None = None) -> np.ndarray:
        """float32 (P, D), of texts in which it may be found."""


class EmbedderSpec(Pretrained):
    """Which model turns texts into vectors, and what it is told before them."""

    hub_id: str | None = "sentence-transformers/all-MiniLM-L6-v2"
    """Id on the Hugging Face hub; ``path`` goes before it."""

    revision: str | None = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
    """Commit on the hub, 40 hex characters."""

    passage_prefix: str | None = None
    """Put before each window; null takes what the model itself brings for passages, mostly nothing."""

    @property
    def embedder(self) -> Hashable:
        """The name of this model among what was opened once."""
        return ("embedder", self.path, self.hub_id, self.revision, self.fingerprint, self.passage_prefix)

    def pinned(self) -> Self:
        needs(self.WHERE, "sentence-transformers")
        return super().pinned()

    def open_embedder(self, runtime: Runtime) -> Embeds:
        """The model, on the run's device."""
        needs(self.WHERE, "sentence-transformers")
        import sentence_transformers

        source, revision = self.source()
        with quiet():
            model = sentence_transformers.SentenceTransformer(
                source,
                revision=revision,
                device=device_of(runtime),
                trust_remote_code=False,
                local_files_only=self.path is not None,
                model_kwargs={"use_safetensors": True},
            )
        model.eval().requires_grad_(False)
        if isinstance(model.tokenizer, transformers.PreTrainedTokenizerBase):
            model.tokenizer.split_special_tokens = True  # a passage that spells [SEP] ends nothing
        return Embedder(model, self, max(1, runtime.lm_batch_tokens // _TOKENS))


class Embedder:
    """A sentence-transformers model."""

    def __init__(self, model: Any, spec: EmbedderSpec, batch: int) -> None:
        self.model, self.spec, self.batch = model, spec, batch
        self._last: tuple[list[str], np.ndarray] = ([], np.zeros((0, 0), np.float32))
        """A latent's control looks at the same passages again."""

    def queries(self, texts: Sequence[str], prefix: str | None = None) -> np.ndarray:
        return self._vectors(self.model.encode_query, texts, prefix, Progress())

    def passages(self, texts: Sequence[str], progress: Progress | None = None) -> np.ndarray:
        texts = list(texts)
        if texts != self._last[0]:
            found = self._vectors(self.model.encode_document, texts, self.spec.passage_prefix, progress or Progress())
            if len(texts) > _CHUNK:
                return found
            self._last = texts, found
        return self._last[1]

    def _vectors(self, encode: Any, texts: Sequence[str], prefix: str | None, progress: Progress) -> np.ndarray:
        parts = []
        with progress.bar("embed", len(texts), "texts") as bar, torch.inference_mode():
            for first in range(0, len(texts), _CHUNK):
                some = list(texts[first : first + _CHUNK])
                # The library sorts by length, so that a batch has little padding.
                found = encode(
                    some, prompt=prefix, batch_size=self.batch, normalize_embeddings=True, show_progress_bar=False
                )
                parts.append(np.asarray(found, np.float32))
                bar.advance(len(some))
        return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


def needs(where: str, package: str) -> None:
    """Raise ``SpecError`` when an optional package is not there. Imports nothing."""
    module = {"faiss-cpu": "faiss"}.get(package, package.replace("-", "_"))
    if importlib.util.find_spec(module) is None:
        group, _, kind = where.rpartition(".")
        raise SpecError(f"{group} = {kind!r}, but the package {package} is not installed; pip install 'saint-sae[embed]'")
