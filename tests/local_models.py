"""Stand-ins for models that run on this machine: an embedder and a reader that know words, and tiny real ones."""

from __future__ import annotations

import importlib.util
import math
import zlib
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
import pytest

from tasks.scorers.base import Bench
from tasks.scorers.surprisal import UNSAID
from tasks.spec import Runtime
from tests import testbed
from tests.planted import WORDS
from tests.small import write_model

CPU = Runtime(mode="inline", device="cpu")
_OTHER = 16

embed = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("sentence_transformers", "faiss")),
    reason="sentence-transformers and faiss-cpu are not installed; pip install 'saint-sae[embed]'",
)


class BagOfWords:
    """An embedder to which a text is the words that bear meaning, and a little of all others."""

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def queries(self, texts: Sequence[str], prefix: str | None = None) -> np.ndarray:
        return self.passages([(prefix or "") + text for text in texts])

    def passages(self, texts: Sequence[str], progress: object = None) -> np.ndarray:
        self.seen.append(list(texts))
        vectors = np.zeros((len(texts), len(WORDS) + _OTHER), np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            for word in text.split():
                if word in WORDS:
                    vector[WORDS.index(word)] += 1
                else:
                    vector[len(WORDS) + zlib.crc32(word.encode()) % _OTHER] += 0.02
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


class Repeating:
    """A language model that expects the words it has read, each as often as it was there."""

    def surprise(self, prefix: str, texts: Sequence[str]) -> list[float | None]:
        counts = Counter(prefix.split())
        total = counts.total() + 1000

        def nats(text: str) -> float | None:
            words = text.split()
            return -sum(math.log((counts[w] + 0.5) / total) for w in words) / len(words) if words else None

        return [nats(text) for text in texts]


class Executing:
    """An embedder and a reader to whom a text is what it fulfils of some descriptions, in the language of the test-bed.

    Neither sees whether a window begins a text, since neither is told.
    """

    def __init__(self, known: Sequence[str]) -> None:
        self.known = list(known)

    def queries(self, texts: Sequence[str], prefix: str | None = None) -> np.ndarray:
        assert set(texts) <= set(self.known), f"{texts} was not told of"
        wanted = np.array([[said == text for said in self.known] for text in texts], np.float32)
        return np.concatenate([wanted, 0 * wanted], 1)

    def passages(self, texts: Sequence[str], progress: object = None) -> np.ndarray:
        found = np.array([[fulfils(said, text) for said in self.known] for text in texts], np.float32)
        return np.concatenate([found, 1 - found], 1) / math.sqrt(len(self.known))  # of one length, whatever is fulfilled

    def surprise(self, prefix: str, texts: Sequence[str]) -> list[float | None]:
        said = prefix.rpartition("Note: ")[2].removesuffix("\nPassage:")
        return [5.0 - (said != UNSAID and fulfils(said, text)) for text in texts]


def fulfils(said: str, text: str) -> bool:
    """Whether a description of the test-bed is true of a word of a text."""
    return any(testbed.fires(said, text.split(), False))


def bench_with(models: dict[Hashable, object]) -> Bench:
    """A bench on which some models are open already."""
    bench = Bench(CPU)
    for name, model in models.items():
        bench.once(name, lambda model=model: model)
    return bench


def write_embedder(folder: Path) -> Path:
    """A tiny random sentence-transformers model, as a folder."""
    import sentence_transformers
    from sentence_transformers.models import Pooling, Transformer

    body = Transformer(str(write_model(folder / "body", n_layers=1)), max_seq_length=64)
    body.tokenizer.pad_token = body.tokenizer.eos_token
    pooling = Pooling(body.get_embedding_dimension(), pooling_mode="mean")
    sentence_transformers.SentenceTransformer(modules=[body, pooling], device="cpu").save(str(folder / "embedder"))
    return folder / "embedder"
