"""Reading activations, side by side: our chunks, zarr-python's, and a memory map of the same rows as the floor.

    python -m benchmarks.read [--rows 262144] [--d 768] [--repeats 5] [--codec crc32c]

Warm page cache, one process, the readers interleaved so that a busy machine slows all of them alike. Chunks of 1,024
rows are read in one shuffled order into a pool that is already there; time is the best of the repeats.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from artifacts.activations import CHUNK_ROWS, Activations, ActivationWriter
from artifacts.shuffled import ShuffledRows


def realistic(n: int, d: int) -> torch.Tensor:
    """Rows with what a residual stream has: a low-rank part, and a few dimensions far out."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(n, 32, generator=draw) @ torch.randn(32, d, generator=draw) / 6
    x += 0.3 * torch.randn(n, d, generator=draw)
    x[:, :: max(1, d // 4)] *= 40
    return x.bfloat16()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=262_144)
    parser.add_argument("--d", type=int, default=768)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--codec", choices=["crc32c", "blosc"], default="crc32c")
    parser.add_argument("--batch", type=int, default=4096)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), args.rows - args.rows % CHUNK_ROWS, args.d, args.repeats, args.codec, args.batch)


def compare(folder: Path, n: int, d: int, repeats: int, codec: str, batch: int) -> None:
    import zarr

    x, row = realistic(n, d), np.arange(n)
    begun = time.perf_counter()
    with ActivationWriter(folder / "a.zarr", d, codec=codec) as writer:
        for start in range(0, n, 8192):
            part = slice(start, start + 8192)
            writer.append(x[part], row[part], row[part], row[part], row[part], [len(row[part])])
    wrote = time.perf_counter() - begun
    bits = x.view(torch.int16).numpy()
    bits.tofile(folder / "flat")
    flat = np.memmap(folder / "flat", np.int16, "r", shape=(n, d))
    array = zarr.open_array(folder / "a.zarr/activations", mode="r")
    order = np.random.default_rng(0).permutation(n // CHUNK_ROWS)
    pool = torch.zeros(
        64, CHUNK_ROWS, d, dtype=torch.bfloat16
    )  # of the size that shuffling mixes, so beyond the caches
    into = pool.view(torch.int16).numpy()
    ours = Activations.open(folder / "a.zarr")

    def by_map() -> None:
        for i, c in enumerate(order):
            np.copyto(into[i % 64], flat[c * CHUNK_ROWS : (c + 1) * CHUNK_ROWS])

    def by_us_verified() -> None:
        fresh = Activations.open(folder / "a.zarr")
        for i, c in enumerate(order):
            fresh.chunk(int(c), pool[i % 64])

    def by_us_again() -> None:
        for i, c in enumerate(order):
            ours.chunk(int(c), pool[i % 64])

    def by_zarr() -> None:
        for i, c in enumerate(order):
            np.copyto(into[i % 64].view(np.uint16), array[c * CHUNK_ROWS : (c + 1) * CHUNK_ROWS])

    def shuffled() -> None:
        for _ in islice(ShuffledRows([ours], batch, seed=0, dtype=torch.bfloat16).batches(), n // batch):
            pass

    by_us_again()  # so that the second reading is one
    readers: dict[str, Callable[[], None]] = {
        "np.memmap (floor)": by_map,
        "ours, crc32c verified": by_us_verified,
        "ours, once verified": by_us_again,
        "zarr-python": by_zarr,
        f"ours, shuffled rows in batches of {batch}": shuffled,
    }
    best = dict.fromkeys(readers, float("inf"))
    for _ in range(repeats):
        for name, read in readers.items():
            begun = time.perf_counter()
            read()
            best[name] = min(best[name], time.perf_counter() - begun)
    size = bits.nbytes
    stored = sum(p.stat().st_size for p in (folder / "a.zarr/activations").rglob("*") if p.is_file())
    print(f"{n:,} rows x {d} bfloat16 = {size / 1e6:,.0f} MB, codec {codec}, stored {size / stored:.2f} times smaller")
    print(f"{'write':44} {size / wrote / 1e6:8,.0f} MB/s")
    floor = best["np.memmap (floor)"]
    for name, seconds in best.items():
        print(f"{name:44} {size / seconds / 1e6:8,.0f} MB/s  {seconds / floor:5.2f} x the floor's time")


if __name__ == "__main__":
    main()
