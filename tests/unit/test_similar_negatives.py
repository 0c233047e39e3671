"""Non-activating windows by similarity: neighbours are the true ones, and the latent is silent where they fire."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.negatives._neighbours import strongest
from tasks.negatives.cooccurrence import Cooccurrence, Sample
from tasks.negatives.decoder import Decoder
from tasks.negatives.encoder import Encoder
from tests.grounds import CONTEXT, cache_of, ground_of, scattered

N, ROWS = 40, 200 * CONTEXT
NONE = np.zeros(0, np.int64)


@pytest.fixture(scope="module")
def world():
    """40 latents that fire at random, one never, one everywhere. Rows of W are random."""
    fires, _ = scattered(N, 7, 8)
    W_ND = torch.randn(N, 12, generator=torch.Generator().manual_seed(1)) * torch.linspace(0.5, 3, N)[:, None]
    return fires, W_ND


def ground(world, n_shards: int = 3):
    fires, W_ND = world
    return ground_of(cache_of(fires, np.zeros(ROWS, np.int32), n_shards), W_ND)


KINDS = [Decoder(n=12, n_neighbours=4), Encoder(n=12, n_neighbours=4), Cooccurrence(n=12, n_neighbours=4)]
every = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)


@every
def test_neighbours_take_turns_the_most_similar_first_and_each_gives_its_strongest_windows(world, kind):
    fires, _ = world
    drawn = kind.draw(0, ground(world), NONE)
    assert drawn.neighbour.tolist()[:4] == drawn.neighbour.tolist()[4:8] and len(set(drawn.neighbour[:4].tolist())) == 4
    assert drawn.similarity[:4].tolist() == sorted(drawn.similarity[:4].tolist(), reverse=True)
    for neighbour in set(drawn.neighbour.tolist()):
        values = [fires[neighbour][row] for row in drawn.row[drawn.neighbour == neighbour].tolist()]
        assert values == sorted(values, reverse=True)


@every
def test_windows_have_the_shape_of_the_latents_own(kind):
    """A neighbour fires at the start of a context, and in the middle of others more strongly; the latent at the start."""
    fires = [
        {c * CONTEXT + 3: 1.0 for c in range(0, 60)} | {60 * CONTEXT + 30: 1.0},
        {c * CONTEXT + 3: 2.0 for c in range(80, 120)} | {c * CONTEXT + 40: 5.0 for c in range(120, 160)},
    ]
    for latent in fires:
        latent |= {170 * CONTEXT + 30: 9.0}  # where both fire, so that they co-occur
    fires[0] |= {r: 8.0 for r in range(170 * CONTEXT, 170 * CONTEXT + 5)}
    here = ground_of(cache_of(fires, np.zeros(ROWS)))
    rows = kind.model_copy(update={"n": 12, "n_neighbours": 1}).draw(0, here, NONE).row
    begin, _ = here.around(rows)
    assert sorted(set((rows - begin).tolist())) == [3, 24] and (rows - begin == 3).sum() > 8


@pytest.mark.parametrize("kind", [Decoder, Encoder])
def test_neighbours_by_rows_are_those_of_the_dense_table_in_blocks_of_any_size(world, kind, monkeypatch):
    _, W_ND = world
    W = W_ND if kind is Decoder else W_ND.flip(0)
    cos = torch.nn.functional.cosine_similarity(W[:, None], W[None], dim=-1)
    cos.fill_diagonal_(-2)
    cos[:, 7] = -2  # it fires nowhere, so it has no windows to give
    for cells in (1, 3 * N, 1 << 24):
        monkeypatch.setattr("tasks.negatives._neighbours._CELLS", cells)
        here = ground(world)
        for latent in range(0, N, 3):
            value, index = cos[latent].topk(5)
            found = kind(n_neighbours=5).neighbours(latent, here)
            assert found.latent.tolist() == index.tolist()
            np.testing.assert_allclose(found.similarity, value.numpy(), atol=1e-6)


def test_rows_without_length_are_like_none(world):
    fires, W_ND = world
    W_ND = W_ND.clone()
    W_ND[5] = 0
    here = ground_of(cache_of(fires, np.zeros(ROWS)), W_ND)
    found = Decoder(n_neighbours=N).neighbours(0, here)
    assert np.isfinite(found.similarity).all() and dict(zip(found.latent, found.similarity, strict=True))[5] == 0


def test_neighbours_by_co_occurrence_are_those_of_the_dense_table(world):
    fires, _ = world
    on = np.zeros((N, ROWS), bool)
    for latent, rows in enumerate(fires):
        on[latent, list(rows)] = True
    here = ground(world)
    for latent in (0, 19, 39):
        both, either = (on & on[latent]).sum(1), (on | on[latent]).sum(1)
        jaccard = (both / np.maximum(1, either)).astype(np.float32)
        jaccard[latent] = 0
        order = sorted(np.flatnonzero(jaccard).tolist(), key=lambda j: (-jaccard[j], j))[:6]
        found = Cooccurrence(n_neighbours=6).neighbours(latent, here)
        assert found.latent.tolist() == order
        np.testing.assert_allclose(found.similarity, jaccard[order], rtol=1e-6)


def test_a_sample_of_rows_counts_what_fires_on_them_and_holds_no_more(world):
    fires, _ = world
    here = ground(world)
    sample = Sample(here, 1000)
    rows = set(sample.rows_S.tolist())
    assert len(rows) == 1000 == len(sample.offsets) - 1
    assert sample.n_fires_N.tolist() == [len(rows & set(one)) for one in fires]
    assert len(sample.latent_A) == sample.n_fires_N.sum()
    both = [len(rows & set(fires[20]) & set(one)) for one in fires]
    assert sample.together(np.array(sorted(fires[20]))).tolist() == both
    assert len(Cooccurrence(n_rows=1000).draw(20, here, NONE).row)


def test_the_strongest_of_equals_do_not_hang_on_their_order():
    draw = np.random.default_rng(0)
    names, values = np.arange(500), draw.integers(0, 5, 500)
    best = sorted(range(500), key=lambda i: (-values[i], i))[:30]
    assert names[strongest(names, values, 30)].tolist() == best
    order = draw.permutation(500)
    assert names[order][strongest(names[order], values[order], 30)].tolist() == best
    assert strongest(names, values, 999).tolist() == sorted(range(500), key=lambda i: (-values[i], i))


def test_a_latent_that_fires_in_bursts_gives_as_many_windows_as_it_has():
    from tasks.negatives._neighbours import strong_windows

    fires = [{c * CONTEXT + 30 + i: 100.0 - c for c in range(100) for i in range(20)}]
    rows = strong_windows(ground_of(cache_of(fires, np.zeros(ROWS))), 0)
    assert rows.row.tolist() == [c * CONTEXT + 30 for c in range(64)]


@pytest.mark.slow
def test_neighbours_of_65536_latents_are_sought_in_bounded_memory(tmp_path):
    """A dense table would be 17 GB; a process of its own tells the peak."""
    program = """
import resource, time
import numpy as np, torch
from tasks.mining.cache import Encoded, LatentCache
from tasks.negatives.cooccurrence import Cooccurrence
from tasks.negatives.decoder import Decoder
from tests.grounds import ground_of
N, ROWS, K = 65536, 200_000, 32
torch.set_num_threads(1)
draw = np.random.default_rng(0)
latent = draw.integers(0, N, ROWS * K)
order = np.argsort(latent, kind="stable")
one = Encoded(np.searchsorted(latent[order], np.arange(N + 1)), (order // K).astype(np.uint32), np.ones(ROWS * K, np.float32),
              np.zeros(ROWS, np.int32), np.append(np.arange(0, ROWS, 64), ROWS), np.zeros(ROWS, np.int32), np.zeros(ROWS, np.int32))
ground = ground_of(LatentCache([one]), torch.randn(N, 256))
del latent, order
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for kind in (Decoder(), Cooccurrence()):
    since = time.process_time()
    for i in range(512):
        assert len(kind.draw(i, ground, np.zeros(0, np.int64)).row) == 20
    print(kind.kind, (time.process_time() - since) / 512 * 1e3, "ms a latent")
print("grown MiB", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    assert float(done.stdout.split()[-1]) < 600
