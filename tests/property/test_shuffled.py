"""A resumed reader sees what a straight one sees, wherever it starts and however the rows lie."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from artifacts.shuffled import ShuffledRows


class Memory:
    """Activations of known rows, in chunks of 8, without a disk."""

    d, dtype, CHUNK = 1, torch.float32, 8

    def __init__(self, first: int, n_rows: int) -> None:
        self.first, self.n_rows, self.n_chunks = first, n_rows, -(-n_rows // self.CHUNK)

    def rows_of(self, i: int) -> int:
        return min(self.CHUNK, self.n_rows - i * self.CHUNK)

    def chunk(self, i: int, out: torch.Tensor) -> torch.Tensor:
        start = self.first + i * self.CHUNK
        out[:, 0] = torch.arange(start, start + self.rows_of(i))
        return out


def in_memory(sizes):
    firsts = np.cumsum([0, *sizes])
    return [Memory(int(first), n) for first, n in zip(firsts, sizes, strict=False)]


READERS = {
    "sizes": st.lists(st.integers(0, 60), min_size=1, max_size=5).filter(sum),
    "batch": st.integers(1, 70),
    "pool": st.integers(1, 12),
    "seed": st.integers(0, 2**31),
}


@settings(max_examples=60, deadline=None)
@given(**READERS, start=st.integers(0, 25), prefetch=st.sampled_from([0, 0, 0, 2]))
def test_a_resumed_run_reads_what_a_straight_run_reads(sizes, batch, pool, seed, start, prefetch):
    rows = in_memory(sizes)
    straight = list(itertools.islice(ShuffledRows(rows, batch, pool, seed, prefetch=0).batches(), start + 3))
    resumed = itertools.islice(ShuffledRows(rows, batch, pool, seed, prefetch=prefetch).batches(start), 3)
    for want, got in zip(straight[start:], resumed, strict=True):
        assert want.shape == (batch, 1)
        assert torch.equal(want, got)


@settings(max_examples=60, deadline=None)
@given(**READERS)
def test_every_epoch_holds_every_row_once(sizes, batch, pool, seed):
    n = sum(sizes)
    batches = ShuffledRows(in_memory(sizes), batch, pool, seed, prefetch=0).batches()
    rows = torch.cat(list(itertools.islice(batches, -(-2 * n // batch))))[:, 0].long()
    assert torch.equal(rows[:n].sort().values, torch.arange(n))
    assert torch.equal(rows[n : 2 * n].sort().values, torch.arange(n))
