"""Batches of similar length: all contexts, once, within the size."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.lm.buckets import batches, blocks, limited


def texts(lengths):
    """Contexts whose first token is special, the rest numbered from 1."""
    return [SimpleNamespace(token_id=np.arange(n), keep=np.arange(n) > 0) for n in lengths]


LENGTHS = st.lists(st.integers(1, 40), max_size=30)


@settings(max_examples=80, deadline=None)
@given(LENGTHS, st.integers(1, 200))
def test_batches_hold_every_context_once_and_fit(lengths, batch_tokens):
    block, seen = texts(lengths), []
    for batch in batches(block, batch_tokens):
        seen += batch.members
        assert batch.token_BT.numel() <= batch_tokens or len(batch.members) == 1
        for row, i in enumerate(batch.members):
            n = lengths[i]
            assert batch.token_BT[row, :n].tolist() == list(range(n))
            assert batch.mask_BT[row].tolist() == [True] * n + [False] * (batch.mask_BT.shape[1] - n)
            assert batch.keep_BT[row].sum() == n - 1
    assert sorted(seen) == list(range(len(lengths)))


@settings(max_examples=80, deadline=None)
@given(LENGTHS, st.integers(1, 100))
def test_blocks_are_the_contexts_in_order(lengths, block_tokens):
    block = texts(lengths)
    found = list(blocks(block, block_tokens))
    assert [c for part in found for c in part] == block
    assert all(sum(len(c.token_id) for c in part) >= block_tokens for part in found[:-1])


def test_bucketing_pads_little():
    lengths = np.random.default_rng(0).integers(2, 100, 400).tolist()
    held = [batch.mask_BT for batch in batches(texts(lengths), 1000)]
    assert sum(int(m.sum()) for m in held) / sum(m.numel() for m in held) > 0.9


def test_a_limit_is_counted_in_stored_rows_of_whole_contexts():
    assert len(list(limited(texts([5, 5, 5]), 8))) == 2  # 4 rows each
    assert len(list(limited(texts([5, 5, 5]), 11))) == 2
    assert len(list(limited(texts([50, 5]), 8))) == 1  # never none
    assert len(list(limited(texts([5, 5]), None))) == 2
