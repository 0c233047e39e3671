"""The latent cache and the windows cut from it, beside a plain implementation of what delphi does (eai-delphi 0.1.1).

    python -m benchmarks.mine [--tokens 200000] [--n-latents 8192] [--k 32] [--rounds 12] [--latents 128] [--json FILE]

Both get the same sparse top-k of an encoder that is not part of this, and take turns, so that a machine whose speed drifts
treats them alike. The plain one scatters it into a dense buffer, looks for what is not zero, keeps lists until the end,
and makes a Python object of every window, its tokens decoded one by one. Memory is measured in processes of their own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from tasks.mine import MineSpec, written
from tasks.mining.cache import Encoded, LatentCache, NpyFile
from tasks.mining.reading import ByLatent as TableByLatent
from tasks.mining.reading import windows_of
from tasks.mining.sorting import ByLatent
from tasks.mining.split import Split
from tasks.mining.tables import Growing, windows_schema
from tasks.spec import Runtime

CONTEXT, ROWS, WINDOW = 256, 16384, 32


class Text:
    """Made-up rows: tokens by Zipf's law, latents of very different densities. A few blocks, over and over."""

    def __init__(self, n_latents: int, k: int, vocabulary: int = 8192, n_blocks: int = 2) -> None:
        draw = torch.Generator().manual_seed(0)
        loudness = torch.randn(n_latents, generator=draw)
        self.blocks = []
        for _ in range(n_blocks):
            parts = []
            for _ in range(0, ROWS, 1024):
                noise = torch.rand(1024, n_latents, generator=draw).clamp_(1e-9).log_().neg_().log_().neg_()
                parts.append((noise + loudness).topk(k, dim=-1).indices)
            index = torch.cat(parts)
            value = torch.rand(index.shape, generator=draw).log_().neg_() + 1e-4
            self.blocks.append((index.numpy(), value.numpy()))
        chance = 1 / np.arange(1, vocabulary + 1)
        self.chance, self.vocabulary = chance / chance.sum(), vocabulary

    def parts(self, n_tokens: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        for i, start in enumerate(range(0, n_tokens, ROWS)):
            index, value = self.blocks[i % len(self.blocks)]
            yield start, index[: n_tokens - start], value[: n_tokens - start]

    def tokens(self, start: int, n: int) -> np.ndarray:
        return np.random.default_rng(start).choice(self.vocabulary, n, p=self.chance).astype(np.int32)


class Ours:
    """The stages encode and mine, without encoder and language model."""

    def __init__(self, folder: Path, text: Text, n_latents: int) -> None:
        self.folder, self.text, self.n_latents = folder, text, n_latents
        folder.mkdir(parents=True, exist_ok=True)
        self.sorter = ByLatent(folder / "scratch", n_latents)

    def take(self, start: int, index: np.ndarray, value: np.ndarray) -> None:
        self.sorter.take(start, index, value)

    def finish(self, n_tokens: int) -> None:
        self.sorter.finish(self.folder)
        for name in ("token_id", "document_id", "sentence_id"):
            with NpyFile(self.folder / f"{name}.npy", np.int32, n_tokens) as file:
                for start in range(0, n_tokens, ROWS):
                    rows = np.arange(start, min(start + ROWS, n_tokens))
                    column = {"document_id": rows // (4 * CONTEXT), "sentence_id": rows // 24}
                    file.write(column[name] if name in column else self.text.tokens(start, len(rows)))
        np.save(self.folder / "context_offsets.npy", np.append(np.arange(0, n_tokens, CONTEXT), n_tokens))

    def split(self, name: str) -> Split:
        texts = [f" {i}" for i in range(self.text.vocabulary)]
        self.texts = np.array(texts, object)
        cache = LatentCache([Encoded.at(self.folder, name)])
        return Split(name, cache, MineSpec().kept(name), None, texts, Runtime(mode="inline"))  # type: ignore[arg-type]

    def windows(self, split: Split, latents: range, out: Path) -> tuple[int, float]:
        """Train windows and negatives of some latents, through the table, as explainers get them.

        How many, and how much of the CPU's seconds went into drawing them.
        """
        begun = time.process_time()
        found = [at for at in map(split.of, latents) if not split.lacks(at)]
        drawn = [split.windows(at) for at in found]
        seconds = time.process_time() - begun
        with Growing(out, windows_schema()) as table:
            for columns in drawn:
                table.add(columns)
        with TableByLatent(out) as read:
            return sum(len(list(windows_of(read.of(latent), self.texts))) for latent in latents), seconds


class Plain:
    """What delphi does, plainly: dense, in memory, an object for every window, a call of the tokenizer for every token."""

    def __init__(self, folder: Path, text: Text, n_latents: int) -> None:
        self.folder, self.text, self.n_latents = folder, text, n_latents
        folder.mkdir(parents=True, exist_ok=True)
        self.locations: list[torch.Tensor] = []
        self.activations: list[torch.Tensor] = []
        self.counts = torch.zeros(n_latents, dtype=torch.int64)

    def take(self, start: int, index: np.ndarray, value: np.ndarray) -> None:
        for first in range(0, len(index), 8 * CONTEXT):  # batches of eight contexts
            at = torch.from_numpy(index[first : first + 8 * CONTEXT])
            dense = torch.zeros(len(at), self.n_latents)
            dense.scatter_(1, at, torch.from_numpy(value[first : first + 8 * CONTEXT]))
            where = (dense.abs() > 1e-5).nonzero()
            row = where[:, 0] + start + first
            self.locations.append(torch.stack([row // CONTEXT, row % CONTEXT, where[:, 1]], 1))
            self.activations.append(dense[dense.abs() > 1e-5])
            self.counts += (dense > 0).sum(0)

    def finish(self, n_tokens: int) -> None:
        locations, activations = torch.cat(self.locations), torch.cat(self.activations)
        tokens = np.concatenate([self.text.tokens(s, min(ROWS, n_tokens - s)) for s in range(0, n_tokens, ROWS)])
        for part in range(5):
            a, b = (self.n_latents * i // 5 for i in (part, part + 1))
            inside = (locations[:, 2] >= a) & (locations[:, 2] < b)
            where = locations[inside].numpy() - np.array([0, 0, a])
            np.savez(self.folder / f"{part}.npz", locations=where.astype(np.uint16), first=a,
                     activations=activations[inside].half().numpy(), tokens=tokens.astype(np.int64))  # fmt: skip

    def load(self) -> None:
        """The first fifth of the latents, sorted by latent."""
        with np.load(self.folder / "0.npz") as found:
            order = np.argsort(found["locations"][:, 2], kind="stable")
            self.where = found["locations"][order].astype(np.int64)
            self.values, self.tokens = found["activations"][order].astype(np.float32), found["tokens"]
        self.bounds = np.searchsorted(self.where[:, 2], np.arange(self.n_latents // 5 + 1))

    def windows(self, latent: int, tokenizer: Any) -> int:
        """An object for each activating window; then 40 and 50 of them, and 50 in which the latent is silent, as texts."""
        mine = slice(self.bounds[latent], self.bounds[latent + 1])
        flat = self.where[mine, 0] * CONTEXT + self.where[mine, 1]
        window, values = flat // WINDOW, self.values[mine]
        ids, which = np.unique(window, return_inverse=True)
        dense = np.zeros((len(ids), WINDOW), np.float32)
        dense[which, flat % WINDOW] = values
        tokens = self.tokens[: len(self.tokens) // WINDOW * WINDOW].reshape(-1, WINDOW)
        ids = ids[ids < len(tokens)]
        objects = [
            {"tokens": tokens[ids[i]], "activations": dense[i], "max": float(dense[i].max())}
            for i in np.argsort(-dense[: len(ids)].max(1))
        ]
        draw, size, chosen = Random(22), len(objects) // 10, []
        for each in (4, 5):  # train and test, of the same windows
            for q in range(10):
                inside = objects[q * size : (q + 1) * size]
                chosen += draw.sample(inside, min(each, len(inside)))
        silent = np.setdiff1d(np.arange(len(tokens)), ids)
        drawn = np.random.default_rng(42).choice(silent, 50) if len(silent) >= 50 else []
        shown = [one["tokens"] for one in chosen] + [tokens[i] for i in drawn]
        for row in shown:
            _ = [tokenizer.decode(int(t)) for t in row]
        for one in chosen:
            one["normalised"] = np.ceil(10 * one["activations"] / objects[0]["max"]).clip(0, 10)
        return len(shown)


def tokenizer_of(vocabulary: int) -> Any:
    """A byte-level BPE as transformers wraps it, which is what such code decodes with."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    found = Tokenizer(models.BPE())
    found.pre_tokenizer, found.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
    found.train_from_iterator([p.read_text() for p in Path(__file__).parents[1].glob("*/*.py")], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=found)


class Peak:
    """The largest anonymous memory of this process in a while, in bytes: pages of mapped files belong to the system."""

    def __enter__(self) -> Peak:
        self.base = self.largest = anonymous()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(0.005):
            self.largest = max(self.largest, anonymous())

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def anonymous() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("RssAnon:")[1].split()[0])


def peak(which: str, n_tokens: int, n_latents: int, k: int) -> None:
    """Print the peak of caching and of windows beyond what was there before, in bytes. Runs in a process of its own."""
    text, found = Text(n_latents, k), []
    with tempfile.TemporaryDirectory() as folder:
        made = (Ours if which == "ours" else Plain)(Path(folder) / "cache", text, n_latents)
        with Peak() as memory:
            for part in text.parts(n_tokens):
                made.take(*part)
            made.finish(n_tokens)
        found.append(memory.largest - memory.base)
        tokenizer = tokenizer_of(text.vocabulary)
        with Peak() as memory:
            if isinstance(made, Ours):
                train = made.split("train")
                written(Path(folder), MineSpec(), train, made.split("test"), lambda n: None)
            else:
                made.load()
                for latent in range(32):
                    made.windows(latent, tokenizer)
        found.append(memory.largest - memory.base)
    print(json.dumps(found))


def compare(args: argparse.Namespace, folder: Path) -> dict[str, float]:
    text = Text(args.n_latents, args.k)
    ours, plain = Ours(folder / "ours", text, args.n_latents), Plain(folder / "plain", text, args.n_latents)
    seconds: dict[str, list[float]] = {"ours": [], "plain": [], "floor": []}
    with open(folder / "floor", "wb") as floor:
        for start, index, value in text.parts(args.tokens):
            for name, work in (
                ("plain", lambda: plain.take(start, index, value)),  # noqa: B023
                ("ours", lambda: ours.take(start, index, value)),  # noqa: B023
                ("floor", lambda: (index.astype(np.uint32).tofile(floor), value.tofile(floor))),  # noqa: B023
            ):
                begun = time.process_time()
                work()
                seconds[name].append((time.process_time() - begun) / len(index))
    ends = {}
    for name, made in (("plain", plain), ("ours", ours)):
        begun = time.process_time()
        made.finish(args.tokens)
        ends[name] = (time.process_time() - begun) / args.tokens
    cost = {name: 1e6 * (statistics.median(found) + ends.get(name, 0)) for name, found in seconds.items()}
    size = sum(p.stat().st_size for p in (folder / "ours").iterdir() if p.is_file())
    old = sum(p.stat().st_size for p in (folder / "plain").iterdir() if p.is_file())
    print(f"{args.tokens:,} tokens, n_latents {args.n_latents}, k {args.k}, {torch.get_num_threads()} thread(s), CPU time\n")
    print(f"{'caching, without the encoder':42}{'us/token':>10}{'x plain':>9}{'bytes/token':>13}")
    print(f"{'plain: dense, nonzero, lists':42}{cost['plain']:10.2f}{1:9.2f}{old / args.tokens:13.0f}")
    print(f"{'ours: top-k, external counting sort':42}{cost['ours']:10.2f}{cost['plain'] / cost['ours']:9.1f}"
          f"{size / args.tokens:13.0f}")  # fmt: skip
    print(f"{'floor: 8 bytes an activation, written once':42}{cost['floor']:10.2f}{cost['plain'] / cost['floor']:9.1f}"
          f"{8 * args.k:13.0f}\n")  # fmt: skip

    plain.locations, plain.activations = [], []
    plain.load()
    tokenizer, split = tokenizer_of(text.vocabulary), ours.split("train")
    step = max(1, args.latents // args.rounds)
    per: dict[str, list[float]] = {"plain": [], "drawn": [], "ours": []}
    shown = {"ours": 0, "plain": 0}
    ours.windows(split, range(step), folder / "w.parquet")  # what all latents share is made once
    for first in range(0, step * args.rounds, step):
        latents = range(first, first + step)
        begun = time.process_time()
        shown["plain"] += sum(plain.windows(latent, tokenizer) for latent in latents)
        between = time.process_time()
        n_windows, drawing = ours.windows(split, latents, folder / "w.parquet")
        shown["ours"] += n_windows
        per["drawn"].append(drawing / step)
        per["plain"].append((between - begun) / step)
        per["ours"].append((time.process_time() - between) / step)
    ms = {name: 1e3 * statistics.median(found) for name, found in per.items()}
    ratio = {
        name: statistics.median(p / o for p, o in zip(per["plain"], found, strict=True)) for name, found in per.items()
    }
    n = step * args.rounds
    print(f"{'windows of one split, as texts':42}{'ms/latent':>10}{'x plain':>9}{'windows/latent':>16}")
    print(f"{'plain: objects, a decode per token':42}{ms['plain']:10.2f}{1:9.2f}{shown['plain'] / n:16.0f}")
    print(f"{'ours: drawn':42}{ms['drawn']:10.2f}{ratio['drawn']:9.1f}{shown['ours'] / n:16.0f}")
    print(f"{'ours: drawn, written, read as texts':42}{ms['ours']:10.2f}{ratio['ours']:9.1f}{shown['ours'] / n:16.0f}\n", flush=True)
    figures = {"us_per_token": cost["ours"], "times_plain": cost["plain"] / cost["ours"]}
    return {**figures, "ms_per_latent": ms["ours"], "windows_times_plain": ratio["ours"]}


def memory(args: argparse.Namespace) -> dict[str, list[float]]:
    print(f"{'peak memory beyond the start, MB':42}{'caching':>16}{'windows':>16}")
    found: dict[str, list[float]] = {}
    for which in ("plain", "ours"):
        for times in (1, 4):
            n = times * args.memory_tokens
            command = [sys.executable, "-m", "benchmarks.mine", "--peak-of", which, "--tokens", str(n),
                       "--n-latents", str(args.n_latents), "--k", str(args.k)]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[f"{which} {n}"] = [b / 1e6 for b in json.loads(done.stdout)]
            print(f"{f'{which}, {n:,} tokens':42}{found[f'{which} {n}'][0]:16.0f}{found[f'{which} {n}'][1]:16.0f}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--n-latents", type=int, default=8192)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=8, help="turns of each at windows")
    parser.add_argument("--latents", type=int, default=128, help="latents whose windows are made")
    parser.add_argument("--memory-tokens", type=int, default=50_000, help="and four times as many; 0 leaves it out")
    parser.add_argument("--peak-of", choices=["ours", "plain"], help=argparse.SUPPRESS)
    parser.add_argument("--json", help="write the figures to this file")
    args = parser.parse_args()
    if args.peak_of:
        peak(args.peak_of, args.tokens, args.n_latents, args.k)
        return
    with tempfile.TemporaryDirectory() as folder:
        figures: dict[str, Any] = compare(args, Path(folder))
    if args.memory_tokens:
        figures["peak_mb"] = memory(args)
    if args.json:
        Path(args.json).write_text(json.dumps({"arguments": vars(args), "figures": figures}, indent=1))


if __name__ == "__main__":
    main()
