"""Capturing activations, side by side: sentence by sentence as SAINT did it, and this project's stage.

    python -m benchmarks.capture [--sentences 768] [--d 256] [--layers 8] [--repeats 2] [--threads 1]

The SAINT-like capture pads 32 sentences in the order of the text to the longest of them, runs the whole model with its
unembedding, keeps all hidden states, and saves one .pt file a sentence. Ours is the whole stage: tokenising, buckets by
length, a forward pass that ends at the hookpoint (in the lower half of the model), statistics, Zarr with checksums,
commit with digests and fsync. A random Llama on the docstrings of the standard library; both are interleaved in one run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
import transformers

from artifacts.store import Opened, Store
from tasks.capture import CaptureSpec, capture
from tasks.corpora.docstrings import Docstrings
from tasks.corpus import CorpusSpec, corpus, sentences
from tasks.lms.hf import HF
from tasks.progress import Progress
from tasks.provide import ProvideSpec, provide
from tasks.realising import make_all
from tasks.spec import Runtime
from tasks.stage import Recipe
from tests.small import write_model


def made(recipe: Recipe, store: Store, runtime: Runtime) -> Opened:
    make_all([recipe], store, runtime, Progress())
    return store.open(recipe.artifact)


def saint_like(model: torch.nn.Module, tokenizer: object, texts: list[str], layer: int, folder: Path) -> int:
    """One file a sentence; returns tokens stored."""
    n = 0
    with torch.no_grad():
        for start in range(0, len(texts), 32):
            held = tokenizer(
                texts[start : start + 32], return_tensors="pt", padding=True, truncation=True, max_length=128
            )
            states = model(**held, output_hidden_states=True).hidden_states[layer + 1]
            for i, x_TD in enumerate(states):
                kept = x_TD[held.attention_mask[i].bool()][1:].clone()
                torch.save(kept, folder / f"{start + i}.pt")
                n += len(kept)
    return n


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sentences", type=int, default=768)
    parser.add_argument("--d", type=int, default=256)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    runtime = Runtime(mode="inline", device="cpu", lm_batch_tokens=4096)
    layer = args.layers // 2 - 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model_folder = write_model(folder / "model", args.d, args.layers)
        store = Store.at(folder / "store")
        text = corpus(CorpusSpec(corpus=Docstrings(max_sentences=args.sentences).pinned()))
        lm = provide(ProvideSpec(lm=HF(path=str(model_folder)).pinned()))
        texts = sentences(made(text, store, runtime), "train")["text"].to_pylist()
        made(lm, store, runtime)
        model = transformers.AutoModelForCausalLM.from_pretrained(model_folder).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder)
        tokenizer.pad_token = tokenizer.bos_token
        ways = {
            "ours, a context a sentence": {"context": "sentence", "context_tokens": 128},
            "ours, sentences sharing contexts": {"context": "document", "context_tokens": 128},
            "ours, sharing, bfloat16 model": {"context": "document", "context_tokens": 128, "dtype": "bfloat16"},
            "ours, three hookpoints at once": {"context": "sentence", "context_tokens": 128},
        }
        best: dict[str, float] = {}
        for repeat in range(args.repeats):
            (folder / f"pt{repeat}").mkdir()
            begun = time.perf_counter()
            n = saint_like(model, tokenizer, texts, layer, folder / f"pt{repeat}")
            rate = n / (time.perf_counter() - begun)
            best["SAINT-like"] = max(best.get("SAINT-like", 0), rate)
            for way, fields in ways.items():
                hookpoints = [layer, layer - 1, layer - 2] if "three" in way else [layer]
                todo = [capture(CaptureSpec(hookpoint=f"layers.{i}", **fields), corpus=text, lm=lm) for i in hookpoints]
                begun = time.perf_counter()
                make_all(todo, store, runtime, Progress())
                seconds = time.perf_counter() - begun
                rows = store.open(todo[0].artifact).summary["n_rows"]
                best[way] = max(best.get(way, 0), rows * len(todo) / seconds)
                for recipe in todo:
                    store.delete(recipe.artifact)
        print(f"{len(texts)} sentences, {n:,} tokens, d {args.d}, {args.layers} layers, hookpoint layers.{layer}")
        for way, rate in best.items():
            print(f"{way:36} {rate:10,.0f} rows/s  {rate / best['SAINT-like']:5.1f} x")


if __name__ == "__main__":
    main()
