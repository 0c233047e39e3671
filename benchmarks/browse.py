"""How long a search and a latent's page take over 65,536 latents, and what the index costs.

    python benchmarks/browse.py                          # on two cores; floors: page 300 ms, search 200 ms
    python benchmarks/browse.py n_latents=131072 d=2304 n=100

Writes the files of a store of that size, of random but lifelike contents, into a temporary folder: windows, sentences, promoted tokens
as ``tasks/mining`` writes them, two explainers' labels with scores, decoder rows. Prints median and worst.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

from artifacts.keys import Artifact, Key
from artifacts.manifest import Manifest
from artifacts.store import Opened
from tasks.browsing.index import Index
from tasks.browsing.latent import latent_page
from tasks.browsing.query import SORTS, Query
from tasks.browsing.shelf import Explained, Shelf
from tasks.mining.statistics import BINS, histogram_edges
from tasks.mining.tables import Growing, lists, sentences_schema, windows_schema

FLOOR_MS = {"page": 300, "search": 200}
TOKENS, PER_LATENT, VOCABULARY = 32, 80, 50_257
WORDS = 20_000


def main() -> None:
    settings = {"n_latents": 65_536, "d": 768, "n": 300, "threads": 2}
    settings |= {name: int(value) for name, value in (word.split("=") for word in sys.argv[1:])}
    torch.set_num_threads(settings["threads"])
    pa.set_cpu_count(settings["threads"])
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        shelf = shelf_of(Path(folder), settings["n_latents"], settings["d"])
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        print(f"store: {settings['n_latents']:,} latents, {size / 1e9:.2f} GB, written in {time.perf_counter() - began:.0f} s")
        measure(shelf, settings["n"])


def measure(shelf: Shelf, n: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    index = Index(shelf)
    index.near  # noqa: B018  made when first asked for; here it belongs to the index
    seconds = time.perf_counter() - began
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"index: {seconds:.1f} s, the process grew by {grown / 1e3:.0f} MB")
    draw = np.random.default_rng(1)
    latents = draw.integers(0, index.n, n).tolist()
    texts = [index.label(latent) for latent in latents]
    queries = [Query(text) for text in ("a", "w1", "w1 w2", *(text for text in texts if text))]
    queries += [Query(" ".join(text.split()[:2]), sort=sort) for text, sort in zip(texts, list(SORTS) * n, strict=False)]
    queries += [Query("w", sort="score", min_score=0.7, min_density=1e-4, statuses=("ok",))] * 5
    report("page", [lambda one=one: latent_page(index, one) for one in latents])
    report("search", [lambda one=one: index.rows(index.find(one).latents_F[:50]) for one in queries])


def report(name: str, calls: list[Callable[[], Any]]) -> None:
    took, worked = [], []
    for call in calls:
        began, working = time.perf_counter(), time.process_time()
        call()
        took.append(1e3 * (time.perf_counter() - began))
        worked.append(1e3 * (time.process_time() - working))
    rank = sorted(took)
    worst, verdict = rank[-1], "holds" if rank[-1] <= FLOOR_MS[name] else "does NOT hold"
    figures = f"median {statistics.median(took):.1f} ms, 99% {rank[int(0.99 * len(rank))]:.1f} ms, worst {worst:.1f} ms"
    # seconds of both cores together: what it takes whoever else keeps this machine busy
    figures += f" (CPU: median {statistics.median(worked):.1f} ms, worst {max(worked):.1f} ms)"
    print(f"{name}: {figures} of {len(took)}; floor {FLOOR_MS[name]} ms {verdict}")


def opened(folder: Path, stage: str, spec: dict[str, Any], summary: dict[str, Any]) -> Opened:
    folder.mkdir(parents=True, exist_ok=True)
    key = Key(f"{abs(hash(str(folder))):064x}"[-64:])
    return Opened(Manifest(Artifact(stage, key), 1, spec, {}, "a", (), summary, {"when": "2026-01-01"}), folder)


def shelf_of(folder: Path, n: int, d: int) -> Shelf:
    """A shelf of artifacts as the stages write them."""
    draw = np.random.default_rng(0)
    mine = opened(folder / "mine", "mine", {}, {"histogram_edges": histogram_edges()})
    dead = draw.random(n) < 0.05
    fires = np.where(dead, 0, draw.lognormal(6, 2, n).astype(np.int64) + 1)
    (mine.path / "tokens.json").write_text(json.dumps([f" t{i}" for i in range(VOCABULARY)]))
    largest = np.where(dead, 0, draw.lognormal(2, 0.5, n)).astype(np.float32)
    _facts(mine.path, fires, largest, draw)
    _windows(mine.path, np.flatnonzero(~dead), largest, draw)
    _promoted(mine.path, n, draw)
    explained = tuple(_explained(folder / name, name, n, dead, draw) for name in ("default", "contrastive"))
    sae = opened(folder / "sae", "train", {}, {"n_latents": n})
    save_file({"W_dec_ND": torch.from_numpy(draw.standard_normal((n, d), np.float32))}, sae.path / "sae.safetensors")
    return Shelf(mine, explained, sae)


def _facts(folder: Path, fires: np.ndarray, largest: np.ndarray, draw: np.random.Generator) -> None:
    n = len(fires)
    histogram = draw.integers(0, 1000, (n, BINS)) * (fires > 0)[:, None]
    table = {
        "latent": np.arange(n, dtype=np.int32), "n_fires": fires, "density": fires / 1e7, "max_value": largest,
        "mean_value": largest / 4, "histogram": lists(histogram), "single_token_share": draw.random(n, np.float32),
    }  # fmt: skip
    pq.write_table(pa.table(table), folder / "latents.parquet", compression="zstd")


def _windows(folder: Path, alive: np.ndarray, largest: np.ndarray, draw: np.random.Generator) -> None:
    m, half = PER_LATENT, PER_LATENT // 2
    group = (["top"] * (half // 2) + ["quantile"] * (half - half // 2)) + ["near_miss"] * half
    with (
        Growing(folder / "windows.parquet", windows_schema()) as windows,
        Growing(folder / "sentences.parquet", sentences_schema()) as sentences,
    ):
        for latent in alive.tolist():
            values = np.zeros((m, TOKENS), np.float32)
            values[:half, TOKENS // 2] = np.sort(draw.random(half, np.float32))[::-1] * largest[latent]
            values[:half, TOKENS // 2 + 1] = values[:half, TOKENS // 2] / 3
            windows.add({
                "latent": np.full(m, latent, np.int32), "window_id": [f"train/{latent}/{i}" for i in range(m)],
                "split": ["train"] * m, "group": group, "rank": np.arange(m, dtype=np.int32),
                "quantile": np.r_[np.arange(half) * 10 // half, np.full(m - half, -1)].astype(np.int32),
                "document_id": np.zeros(m, np.int32), "sentence_id": np.zeros(m, np.int32),
                "size": np.full(m, TOKENS), "tokens": draw.integers(0, VOCABULARY, m * TOKENS, np.int32),
                "values": values.reshape(-1), "peak": np.full(m, TOKENS // 2, np.int32),
                "starts_context": np.zeros(m, bool), "strength": values.max(1),
                "neighbour": np.full(m, -1, np.int32), "similarity": np.full(m, np.nan, np.float32),
            })  # fmt: skip
            sentences.add({
                "latent": np.full(10, latent, np.int32), "ranking": ["max"] * 10, "rank": np.arange(10, dtype=np.int32),
                "sentence_id": np.zeros(10, np.int32), "document_id": np.zeros(10, np.int32), "split": ["train"] * 10,
                "value": np.ones(10, np.float32),
            })  # fmt: skip
            windows.latent_ends()
            sentences.latent_ends()


def _promoted(folder: Path, n: int, draw: np.random.Generator) -> None:
    item = pa.list_(pa.struct([("token", pa.string()), ("logit", pa.float32())]))
    schema = pa.schema([("latent", pa.int32()), ("promoted", item), ("suppressed", item)])
    tokens = pa.array([f" t{i}" for i in range(VOCABULARY)])
    with pq.ParquetWriter(folder / "promoted.parquet", schema, compression="zstd") as writer:
        for start in range(0, n, 256):
            size = min(256, n - start)

            def told(size: int = size) -> pa.Array:
                chosen = tokens.take(pa.array(draw.integers(0, VOCABULARY, 10 * size)))
                logits = pa.array(draw.random(10 * size, np.float32))
                items = pa.StructArray.from_arrays([chosen, logits], names=["token", "logit"])
                return pa.ListArray.from_arrays(pa.array(np.arange(0, 10 * size + 1, 10, dtype=np.int32)), items)

            latent = pa.array(np.arange(start, start + size), pa.int32())
            writer.write_table(pa.Table.from_arrays([latent, told(), told()], schema=schema))


def _explained(folder: Path, name: str, n: int, dead: np.ndarray, draw: np.random.Generator) -> Explained:
    explain = opened(folder / "explain", "explain", {"explainer": {"kind": name}, "client": {"kind": "anthropic_batch"}}, {})
    seldom = (WORDS * draw.random((n, 12)) ** 3).astype(int)  # few words are in many labels, as in any language
    status = np.where(dead, "too_few_examples", np.where(draw.random(n) < 0.02, "refused", "ok"))
    label = [" ".join(f"w{w}" for w in row) if s == "ok" else "" for row, s in zip(seldom, status, strict=True)]
    rows = {
        "latent": np.arange(n, dtype=np.int32), "status": status.tolist(), "label": label, "confidence": draw.random(n),
        "predicate": [None] * n, "evidence": ['{"reasoning": "because of what is seen there, and of what is not"}'] * n,
        "model": ["a-model"] * n, "request_digest": ["0" * 64] * n, "input_tokens": [2000] * n, "output_tokens": [40] * n,
        "usd": [0.001] * n,
    }  # fmt: skip
    # as tasks/asking.py writes rows, 2,000 to a row group
    pq.write_table(pa.table(rows), explain.path / "explanations.parquet", compression="zstd", row_group_size=2000)
    score = opened(folder / "score", "score", {"scorer": {"kind": "detection"}}, {"metric": "balanced accuracy", "range": [0, 1]})
    value = np.where(status == "ok", draw.uniform(0.4, 1, n), np.nan)
    known = {name: pa.array(column, from_pandas=True) for name, column in
             (("value", value), ("low", value - 0.1), ("high", value + 0.1), ("control_value", value * 0 + 0.5))}  # fmt: skip
    scored = {"latent": np.arange(n, dtype=np.int32), "status": np.where(status == "ok", "ok", "no_explanation").tolist()}
    pq.write_table(pa.table({**scored, **known}), score.path / "scores.parquet", compression="zstd")
    return Explained(explain, name, {"detection": score})


if __name__ == "__main__":
    main()
