"""Captures side by side: a wide row is the rows of one token, and what is not of the same tokens is refused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from artifacts.activations import Activations, ActivationWriter
from artifacts.aligned import Aligned
from artifacts.errors import ArtifactError
from artifacts.shuffled import ShuffledRows

N = 3000


def write(path, d, n=N, seed=0, token=None, position=None, dtype="float32"):
    row, x = np.arange(n), torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    x[:, 0] = torch.arange(n)
    with ActivationWriter(path, d, store_dtype=dtype) as writer:
        writer.append(x, row % 97 if token is None else token, row if position is None else position, row // 10, row // 100, [n])
    return Activations.open(path)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("aligned")
    return write(folder / "a.zarr", 5), write(folder / "b.zarr", 3, seed=1), write(folder / "c.zarr", 5, seed=2)


def test_a_row_is_the_rows_of_all_parts_in_their_order(parts):
    both = Aligned(parts)
    wanted = torch.cat([part.activations() for part in parts], 1)
    assert (both.d, both.n_rows, both.n_chunks) == (13, N, 3)
    assert torch.equal(both.activations(), wanted) and torch.equal(both.activations(7, 900), wanted[7:900])
    assert torch.equal(both.chunk(1), wanted[1024:2048]) and both.rows_of(2) == N - 2048
    assert torch.equal(torch.cat([rows for _, rows in both.batches(700)]), wanted)
    assert torch.equal(both.activations(0, 10, torch.bfloat16), wanted[:10].bfloat16())


def test_what_a_row_is_of_is_what_the_parts_say(parts):
    both, one = Aligned(parts), parts[1]
    for name in ("token_id", "position", "sentence_id", "document_id", "context_offsets", "sentence_offsets"):
        assert np.array_equal(getattr(both, name), getattr(one, name))
    assert both.n_contexts == 1 and both.context_of(5) == 0
    assert np.array_equal(both.column("token_id", 5, 9), one.token_id[5:9])


def test_shuffled_they_come_in_the_order_in_which_each_comes_alone(parts):
    def batches(shard):
        return torch.cat(list(itertools.islice(ShuffledRows([shard], 256, 4, seed=3).batches(), 20)))

    wide = batches(Aligned(parts))
    assert torch.equal(wide, torch.cat([batches(part) for part in parts], 1))


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"n": N - 1}, "they have 3,000 and 2,999 rows"),
        ({"token": np.where(np.arange(N) == 2500, 1, np.arange(N) % 97)}, "token_id of row 2,500 is 75 in one and 1 in the other"),
        ({"position": np.where(np.arange(N) == 2, 1, np.arange(N))}, "position of row 2 is 2 in one and 1 in the other"),
        ({"dtype": "bfloat16"}, "one holds torch.float32 and the other torch.bfloat16"),
    ],
)
def test_captures_of_other_tokens_are_refused(parts, other, why, tmp_path):
    with pytest.raises(ArtifactError, match=rf"a.zarr and .*b.zarr stand side by side, but {why}; capture both"):
        Aligned([parts[0], write(tmp_path / "b.zarr", 3, **other)])
