"""Shuffled rows: every row once an epoch, in an order that only (seed, epoch) decide."""

from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest
import torch

from artifacts.activations import Activations, ActivationWriter
from artifacts.shuffled import ShuffledRows


def shards(folder, sizes):
    """Shards whose rows count on from one to the next, in column 0."""
    found, first = [], 0
    for i, n in enumerate(sizes):
        row = np.arange(n)
        with ActivationWriter(folder / f"{i}.zarr", 2, store_dtype="float32") as writer:
            writer.append(torch.arange(first, first + n).float().repeat(2, 1).T, row, row, row, row, [n])
        found.append(Activations.open(folder / f"{i}.zarr"))
        first += n
    return found


def ids(batches, n):
    return torch.cat(list(itertools.islice(batches, n)))[:, 0].long()


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return shards(tmp_path_factory.mktemp("shards"), [9000, 500, 20_500])


@pytest.mark.parametrize("pool_chunks", [1, 4, 64])
def test_every_row_comes_once_an_epoch(three, pool_chunks):
    reader = ShuffledRows(three, 1000, pool_chunks, seed=5)
    seen = ids(reader.batches(), 60)
    assert torch.equal(seen[:30_000].sort().values, torch.arange(30_000))
    assert torch.equal(seen[30_000:].sort().values, torch.arange(30_000))
    assert not torch.equal(seen[:30_000], seen[30_000:])
    assert reader.epoch_of(45) == 1.5


def test_a_batch_that_an_epoch_does_not_fill_goes_on_with_the_next(three):
    seen = ids(ShuffledRows(three, 700, seed=5).batches(), 43)  # 42.86 batches are an epoch
    assert len(seen) == 30_100
    assert torch.equal(seen[:30_000].sort().values, torch.arange(30_000))


def test_the_seed_decides_the_order_and_prefetching_does_not(three):
    straight = ids(ShuffledRows(three, 512, 4, seed=1, prefetch=0).batches(), 30)
    assert torch.equal(straight, ids(ShuffledRows(three, 512, 4, seed=1, prefetch=3).batches(), 30))
    assert not torch.equal(straight, ids(ShuffledRows(three, 512, 4, seed=2).batches(), 30))


def test_a_pool_mixes_rows_from_all_over(three):
    batch = ids(ShuffledRows(three, 1000, 64, seed=0).batches(), 1)
    # 1,000 of 30,000 rows drawn evenly: the mean's standard error is 30,000 / sqrt(12 * 1,000) = 274; five of them
    assert abs(batch.double().mean() - 15_000) < 1370
    assert len(torch.unique(batch // 1024)) == 30


def test_pools_hold_at_least_as_many_chunks_as_asked(three):
    pools = ShuffledRows(three, 10, 4)._pools(0)  # 31 chunks: 7 pools of 4 or 5, none left over
    sizes = [len(pool.chunks) for pool in itertools.islice(pools, 7)]
    assert sum(sizes) == 31
    assert min(sizes) >= 4


def test_the_order_is_the_one_it_has_always_been(three):
    reader = ShuffledRows(three, 6, 8, seed=11)
    assert reader._permutation(6, 0, 0).tolist() == [5, 0, 4, 3, 2, 1]
    assert ids(reader.batches(), 1).tolist() == [8657, 6044, 17591, 5197, 13973, 29238]


def test_rows_come_in_the_dtype_that_was_asked_for(three):
    assert next(ShuffledRows(three, 8).batches()).dtype == torch.float32
    assert next(ShuffledRows(three, 8, dtype=torch.bfloat16).batches()).dtype == torch.bfloat16


def test_the_thread_ends_with_its_iterator(three):
    before = threading.active_count()
    batches = ShuffledRows(three, 512, prefetch=2).batches()
    next(batches)
    assert threading.active_count() > before
    batches.close()
    for _ in range(100):
        if threading.active_count() == before:
            break
        time.sleep(0.02)
    assert threading.active_count() == before


def test_what_cannot_be_read_is_refused_at_once(three, tmp_path):
    ActivationWriter(tmp_path / "empty.zarr", 2).close()
    with pytest.raises(ValueError, match="1 shards hold no rows"):
        ShuffledRows([Activations.open(tmp_path / "empty.zarr")], 8)
    with pytest.raises(ValueError, match="batch = 0"):
        ShuffledRows(three, 0)
    ActivationWriter(tmp_path / "wide.zarr", 5).close()
    with pytest.raises(ValueError, match="widths"):
        ShuffledRows([*three, Activations.open(tmp_path / "wide.zarr")], 8)
