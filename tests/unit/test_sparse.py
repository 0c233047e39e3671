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
