"""Every kind of norm is undone exactly, and fitted from statistics that merge."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.kinds import decode, kinds
from tasks.norms._sites import SiteNorms
from tasks.norms.base import FittedNorm, Statistics
from tasks.spec import SpecError


def raw(n: int = 200, d: int = 12) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=draw) * torch.linspace(0.1, 5, d) + torch.linspace(-3, 8, d)


@pytest.fixture(params=kinds("tasks.norms"))
def fitted(request):
    norm = decode("tasks.norms", {"kind": request.param}, "norm")
    return FittedNorm(norm, norm.fit(Statistics.of(raw())))


def test_inverting_gives_the_rows_back(fitted):
    y, undo = fitted.apply(raw())
    torch.testing.assert_close(fitted.invert(y, undo), raw(), atol=1e-5, rtol=1e-5)


def test_a_kind_that_undoes_a_row_by_that_row_says_so(fitted):
    """Others are undone without it, which is what a transcoder needs for what it writes."""
    y, undo = fitted.apply(raw())
    if fitted.norm.PER_TOKEN:
        assert undo is not None
    else:
        torch.testing.assert_close(fitted.invert(y, None), raw(), atol=1e-5, rtol=1e-5)


def test_at_several_hookpoints_each_has_its_own(fitted):
    wide, narrow = raw(), raw(d=5) * 7 - 2
    other = FittedNorm(fitted.norm, fitted.norm.fit(Statistics.of(narrow)))
    norms, widths = {"layers.0": fitted, "layers.1": other}, {"layers.0": 12, "layers.1": 5}
    row = torch.cat([wide, narrow], 1)
    both = SiteNorms(["layers.0", "layers.1"], ["layers.0", "layers.1"], norms, widths)
    normed, undo = both.apply(row)
    assert torch.equal(normed, torch.cat([fitted.apply(wide)[0], other.apply(narrow)[0]], 1))
    torch.testing.assert_close(both.invert(normed, undo), row, atol=2e-5, rtol=1e-5)
    assert torch.equal(both.pair(row)[0], normed) and both.pair(row)[1] is None and both.sides(row)[1] is None
    if fitted.norm.PER_TOKEN:
        with pytest.raises(SpecError, match=f"norm = '{fitted.norm.kind}', but .* layers.1 is written without being read"):
            SiteNorms(["layers.0"], ["layers.1"], norms, widths)
        return
    apart = SiteNorms(["layers.0"], ["layers.1"], norms, widths)
    x, y = apart.pair(row)
    assert torch.equal(x, fitted.apply(wide)[0]) and torch.equal(y, other.apply(narrow)[0])
    torch.testing.assert_close(apart.invert(y, apart.apply(wide)[1]), narrow, atol=2e-5, rtol=1e-5)


def test_sides_that_share_a_hookpoint_find_their_own_columns():
    row = torch.arange(12.0).reshape(2, 6)
    plain = FittedNorm(decode("tasks.norms", {"kind": "none"}, "norm"), {})
    sites = SiteNorms(["a", "b"], ["c", "a"], dict.fromkeys("abc", plain), {"a": 1, "b": 2, "c": 3})
    x, y = sites.sides(row)
    assert torch.equal(x, row[:, :3]) and torch.equal(y, row[:, [3, 4, 5, 0]])


def test_it_is_the_same_after_saving(fitted, tmp_path):
    fitted.save(tmp_path)
    assert torch.equal(FittedNorm.open(tmp_path).apply(raw())[0], fitted.apply(raw())[0])


def test_rms_leaves_mean_zero_and_mean_squared_norm_equal_to_the_width():
    norm = decode("tasks.norms", {"kind": "rms"}, "norm")
    y, _ = FittedNorm(norm, norm.fit(Statistics.of(raw()))).apply(raw())
    torch.testing.assert_close(y.mean(0), torch.zeros(12), atol=1e-5, rtol=0)
    assert y.square().sum(-1).mean().item() == pytest.approx(12, rel=1e-5)


def test_token_standardises_each_row_by_itself():
    norm = decode("tasks.norms", {"kind": "token"}, "norm")
    y, _ = FittedNorm(norm, {}).apply(raw())
    torch.testing.assert_close(y.mean(-1), torch.zeros(200), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std(-1, unbiased=False), torch.ones(200), atol=1e-4, rtol=0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(0, 2**31))
def test_statistics_of_parts_merge_to_those_of_the_whole(sizes, seed):
    x = torch.randn(sum(sizes), 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3 + 100
    parts = [Statistics.of(part) for part in x.split(sizes)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    whole = Statistics.of(x)
    assert merged.count == len(x)
    torch.testing.assert_close(merged.mean_D, whole.mean_D, rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(merged.m2_D, whole.m2_D, rtol=1e-9, atol=1e-7)
