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
    return FittedNorm(norm, norm.fit(Statistics.of(raw()), [raw()[:90], raw()[90:]]))


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
    other = FittedNorm(fitted.norm, fitted.norm.fit(Statistics.of(narrow), [narrow]))
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


def mixed(n: int = 4000, d: int = 12) -> torch.Tensor:
    """Rows whose dimensions are correlated, one far stronger than the others, one constant, one a copy."""
    draw = torch.Generator().manual_seed(1)
    rows = torch.randn(n, d, generator=draw) @ torch.randn(d, d, generator=draw) + 5
    rows[:, 0] *= 300
    rows[:, 1], rows[:, 2] = 7, rows[:, 3]
    return rows


def test_whiten_leaves_components_uncorrelated_and_of_variance_one():
    norm = decode("tasks.norms", {"kind": "whiten", "epsilon": 1e-6}, "norm")
    fitted = FittedNorm(norm, norm.fit(Statistics.of(mixed()), mixed().split(1000)))
    y, undo = fitted.apply(mixed())
    cov = (y.double().T @ y.double()) / len(y)
    strong = cov[:10, :10]  # two of the twelve have no variance: those stay 0 instead of being blown up
    torch.testing.assert_close(strong, torch.eye(10, dtype=torch.float64), atol=1e-3, rtol=0)
    assert cov[10:, 10:].abs().max() < 1e-2
    torch.testing.assert_close(fitted.invert(y, undo), mixed(), atol=1e-3, rtol=1e-5)  # values go up to 3,000
    back = fitted.state["turn"].double()
    torch.testing.assert_close(back.T @ back, torch.eye(12, dtype=torch.float64), atol=1e-5, rtol=0)


def test_a_norm_that_reads_rows_says_so_where_there_are_none():
    from tasks.spec import SpecError

    norm = decode("tasks.norms", {"kind": "whiten"}, "norm")
    with pytest.raises(SpecError, match="norm = 'whiten', but there are 0 rows"):
        norm.fit(Statistics.of(raw()))


def test_decoder_rows_under_a_norm_that_turns_go_to_the_stream_in_the_units_of_the_model():
    from types import SimpleNamespace

    from tasks.lm.lens import to_stream
    from tasks.saes.topk import TopK
    from tasks.trained import TrainedSAE

    norm = decode("tasks.norms", {"kind": "whiten"}, "norm")
    fitted = FittedNorm(norm, norm.fit(Statistics.of(raw()), [raw()]))
    sae = TrainedSAE(TopK(k=2, n_latents=24).build(12), fitted, "layers.0")
    x = raw()[:5]
    one, more = (fitted.invert(fitted.apply(x)[0] + push, None) for push in (0, sae.W_dec_ND[7]))
    rows = to_stream(SimpleNamespace(output_weight=lambda hookpoint: None), sae)(sae.W_dec_ND)
    torch.testing.assert_close(rows[7].expand(5, -1), more - one, atol=1e-4, rtol=1e-4)
    assert torch.cosine_similarity(rows[7], sae.W_dec_ND[7], dim=0) < 0.9


@pytest.mark.parametrize("n_rows, n_chunks", [(None, 6), (2048, 2), (1, 1), (10**9, 6)])
def test_rows_for_a_norm_are_spread_over_all_shards(tmp_path, n_rows, n_chunks, monkeypatch):
    from artifacts.activations import Activations
    from artifacts.store import Store
    from tasks.norms.whiten import Whiten
    from tests.captured import inputs
    from tests.making import make

    read, chunk = [], Activations.chunk
    monkeypatch.setattr(Activations, "chunk", lambda self, i, out=None: (read.append((self.path, i)), chunk(self, i, out))[1])
    opened = make(inputs(Whiten(n_rows=n_rows))["norm"], Store.at(tmp_path))
    assert len(set(read)) == len(read) == n_chunks
    assert n_chunks < 2 or len({path for path, _ in read}) == 2
    assert FittedNorm.open(opened.path).state["turn"].shape == (16, 16)


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
