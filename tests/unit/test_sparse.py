"""Encoders and sparse products are held against their dense definitions."""

from __future__ import annotations

import pytest
import torch

from tasks.sparse import encode_above, encoding


@pytest.mark.parametrize("n, per_latent", [(64, False), (512, True), (8190, False)])
def test_what_is_above_a_threshold_is_found_and_padding_is_silent_and_distinct(n, per_latent, monkeypatch):
    monkeypatch.setattr(encoding, "_CHUNK", 10)
    draw = torch.Generator().manual_seed(n)
    W, x = torch.randn(n, 24, generator=draw) / 5, torch.randn(37, 24, generator=draw)
    b = 0.1 * torch.randn(n, generator=draw)
    x[3] = 0  # a row in which little or nothing is active
    threshold = 1.5 + 0.5 * torch.rand(n, generator=draw) if per_latent else 1.5
    value, index = encode_above(x, W, b, threshold)
    pre = x @ W.T + b
    want = torch.where(pre > threshold, pre, 0)
    found = torch.zeros_like(pre).scatter(1, index, value)
    # the sums run in another order
    torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-5)
    assert index.shape[1] == (want > 0).sum(1).max() and index.dtype == torch.int64
    assert all(len(set(row)) == len(row) for row in index.tolist())


def test_a_batch_without_an_active_latent_has_one_silent_entry_a_row():
    x, W = torch.ones(5, 8), torch.ones(32, 8)
    value, index = encode_above(x, W, torch.zeros(32), 100.0)
    assert value.shape == index.shape == (5, 1) and not value.any() and (index < 32).all()
    assert encode_above(x[:0], W, torch.zeros(32), 1.0)[0].shape[0] == 0


def test_thresholds_below_zero_let_negative_values_through():
    value, _ = encode_above(-torch.ones(2, 4), torch.eye(4), torch.zeros(4), -2.0)
    assert value.tolist() == [[-1.0] * 4] * 2


def test_padding_that_names_an_active_latent_again_changes_nothing_for_those_who_read_latents(tmp_path):
    from tasks.encode import _joined
    from tasks.metrics import Firing
    from tasks.mining.sorting import ByLatent
    from tasks.saes.base import Latents
    from tasks.steering.firing import columns

    plain = Latents(torch.tensor([[4, 1], [2, 3]]), torch.tensor([[0.5, 2.0], [1.0, 3.0]]))
    again = Latents(torch.tensor([[4, 1, 1, 4], [2, 3, 3, 2]]), torch.tensor([[0.5, 2.0, 0, 0], [1.0, 3.0, 0, 0]]))
    column_N = torch.tensor([-1, 0, -1, 1, 2, -1])
    assert torch.equal(columns(plain, column_N, 3), columns(again, column_N, 3))
    assert columns(again, column_N, 3).tolist() == [[2.0, 0.0, 0.5], [0.0, 3.0, 0.0]]
    for_plain, for_again = Firing(6), Firing(6)
    for_plain.update(plain)
    for_again.update(again)
    assert torch.equal(for_plain.n_fires_N, for_again.n_fires_N) and torch.equal(for_plain.sum_N, for_again.sum_N)
    files = {}
    for name, latents in (("plain", plain), ("again", again)):
        sorter, out = ByLatent(tmp_path / f"{name}-runs", 6), tmp_path / name
        out.mkdir()
        pieces = [(p.index_BK.numpy(), p.value_BK.numpy()) for p in (plain, latents)]  # two widths in one block
        sorter.take(0, _joined([i for i, _ in pieces]), _joined([v for _, v in pieces]))
        assert sorter.finish(out) == 8
        files[name] = [(out / f).read_bytes() for f in ("offsets.npy", "row.npy", "value.npy")]
    assert files["plain"] == files["again"]
