"""The latent cache: sorted from any blocks, cut into any shards, it holds what the encoder said, and says it by latent."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.mining.cache import LatentCache, run_starts
from tasks.mining.sorting import stable_order
from tasks.mining.statistics import histogram_edges
from tests.caches import dense, documents, encoded, joined

N_LATENTS = 12


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sets(st.integers(1, 13), max_size=4),
    st.sampled_from([1, 7, 1000]),
    st.sampled_from([1, 5, 64, 10**6]),
)
def test_a_cache_is_the_dense_matrix_read_by_column(seed, cuts, block_rows, at_once):
    parts = documents(seed)
    edges = [0, *sorted(cuts), len(parts)]
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        shards = [
            encoded(parts[a:b], top / str(a), "train", N_LATENTS, block_rows, at_once) for a, b in pairwise(edges)
        ]
        for cache in (LatentCache(shards), LatentCache(shards, top / "joined")):
            want = dense(parts, N_LATENTS)
            for latent in range(N_LATENTS):
                rows, values = cache.of(latent)
                assert rows.tolist() == np.flatnonzero(want[:, latent]).tolist()
                assert values.tolist() == want[rows, latent].tolist() and values.dtype == np.float32
            for name in ("token_id", "document_id", "sentence_id"):
                assert getattr(cache, name).tolist() == joined(parts, name).tolist()
            assert cache.context_offsets.tolist() == np.cumsum([0, *(c for p in parts for c in p.lengths)]).tolist()
            assert cache.n_fires.tolist() == (want > 0).sum(0).tolist()
            np.testing.assert_allclose(cache.statistic("total"), want.sum(0), rtol=1e-6)
            assert cache.statistic("largest").tolist() == want.max(0).tolist()
            histogram = cache.statistic("histogram")
            assert histogram.sum(1).tolist() == (want > 0).sum(0).tolist()
            edge = histogram_edges()
            for value in (0.5, 1.0, 2.0):  # powers of two are lower edges of bins
                assert histogram[:, edge.index(value)].tolist() == (want == value).sum(0).tolist()
            del rows, values


@given(st.lists(st.integers(0, 5), max_size=40))
def test_runs_are_found_whatever_part_is_looked_at_at_a_time(ids):
    from tasks.mining import cache

    ids, before = np.array(ids, np.int32), cache._JOINED_AT_ONCE
    want = [i for i in range(len(ids)) if i == 0 or ids[i] != ids[i - 1]]
    for size in (1, 3, 1000):
        cache._JOINED_AT_ONCE = size
        try:
            assert run_starts(ids).tolist() == want
        finally:
            cache._JOINED_AT_ONCE = before


@given(st.lists(st.integers(0, 2**20), max_size=200), st.sampled_from([2**16, 2**20 + 1]))
def test_the_order_by_radix_is_the_stable_order(keys, bound):
    keys = np.array(keys, np.int64) % bound
    assert stable_order(keys, bound).tolist() == np.argsort(keys, kind="stable").tolist()
