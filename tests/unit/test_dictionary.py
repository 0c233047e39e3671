"""Directions, matching and firing of dictionaries: against arithmetic by hand, dense tables, and planted copies."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from tasks.dictionary import directions
from tasks.dictionary.directions import BINS, Nearest, between, cosines, lengths, mean_max, nearest, within
from tasks.dictionary.firing import correlated, densities, sampled, together
from tasks.dictionary.matching import among, in_common, matched, one_to_one
from tasks.norms.base import FittedNorm, Norm
from tasks.norms.none import NoNorm
from tasks.reporting.alike import alike
from tasks.saes.topk import TopK
from tasks.spec import SpecError
from tasks.trained import TrainedSAE
from tests.grounds import cache_of, scattered


def rows(n: int, d: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


# directions


def test_cosines_by_hand():
    W = torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0], [-5.0, 0.0], [0.0, 0.0]])
    found = cosines(W[:3], W, lengths(W))
    half = math.sqrt(0.5)
    np.testing.assert_allclose(found, [[1, 0, half, -1, 0], [0, 1, half, 0, 0], [half, half, 1, -half, 0]], atol=1e-6)
    assert nearest(found.clone(), 1, torch.arange(3)).index_NK[:2].tolist() == [[2], [2]]
    barred = nearest(found.clone(), 3, torch.arange(3), torch.tensor([0, 0, 1, 0, 0]).bool())
    assert sorted(barred.index_NK[0, :2].tolist()) == [1, 4] and barred.value_NK[0].tolist() == pytest.approx([0, 0, -1])


def test_mean_max_cosine_by_hand():
    """Two rows 60 degrees apart and one orthogonal to both: (0.5 + 0.5 + 0) / 3."""
    W = torch.tensor([[1.0, 0, 0], [0.5, math.sqrt(0.75), 0], [0, 0, 2.0]])
    assert within(W, 1).mean_max == pytest.approx(1 / 3, abs=1e-6)
    assert within(W[:1], 1).mean_max == 0 and within(W[:0], 1).mean_max == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 7), st.integers(1, 200), st.integers(0, 9))
def test_the_nearest_are_those_of_the_dense_table_in_blocks_of_any_size(n, k, cells, seed):
    W = rows(n, 5, seed)
    dense = F.cosine_similarity(W[:, None], W[None], dim=-1).fill_diagonal_(-torch.inf)
    before, directions.CELLS = directions.CELLS, cells
    try:
        found = within(W, k)
    finally:
        directions.CELLS = before
    wanted = dense.topk(min(k, n), dim=1).values
    torch.testing.assert_close(found.nearest.value_NK[:, : min(k, n)], wanted, atol=1e-5, rtol=0)
    assert found.nearest.value_NK[:, max(0, n - 1) :].isneginf().all()
    there = found.nearest.value_NK.isfinite()
    picked = dense.gather(1, found.nearest.index_NK)[there]
    torch.testing.assert_close(picked, found.nearest.value_NK[there], atol=1e-5, rtol=0)
    assert found.n_pairs == n * (n - 1) // 2 == int(found.histogram.sum())


def test_the_histogram_counts_each_pair_once_and_equal_rows_too():
    W = torch.cat([rows(50, 8), rows(50, 8)[:10]])
    upper = F.normalize(W, dim=1) @ F.normalize(W, dim=1).T
    pairs = upper[torch.triu(torch.ones(60, 60), 1).bool()].clamp(-1, 1)
    wanted = torch.histc(pairs, BINS, -1.0, 1.0).long()
    found = within(W, 1)
    assert found.histogram[-1] == 10 == wanted[-1], "copies have cosine 1, rounding or not"
    assert (found.histogram - wanted).abs().sum() <= 4  # on the edge of a bin, the last bit decides


def test_of_a_large_dictionary_an_even_sample_of_pairs_is_counted(monkeypatch):
    monkeypatch.setattr(directions, "_COUNTED", 10)
    monkeypatch.setattr(directions, "CELLS", 100 * 17)
    found = within(rows(100), 2)
    assert found.n_pairs == sum(99 - row for row in range(0, 100, 10)) == int(found.histogram.sum())
    assert found.mean_max == pytest.approx(mean_max(within(rows(100), 1).nearest)), "the nearest are of all"


def test_the_report_has_the_nearest_of_its_cards_and_the_spread_of_a_sample(tmp_path, monkeypatch):
    """Blocks and the sample are smaller than the dictionary; two rows are the same."""
    monkeypatch.setattr("tasks.reporting.alike._SAMPLED", 30)
    monkeypatch.setattr("tasks.reporting.alike._BLOCK", 7)
    W = rows(60, 12)
    W[40] = 2 * W[3]
    save_file({"W_dec_ND": W, "b_dec_D": W[0].clone()}, tmp_path / "sae.safetensors")
    found, spread = alike(SimpleNamespace(path=tmp_path), [3, 40, *range(10, 20)], 4)
    table = F.cosine_similarity(W[:, None], W[None], dim=-1).fill_diagonal_(-2)
    for latent in (3, *range(10, 20)):
        value, index = table[latent].topk(4)
        assert [i for i, _ in found[latent]] == index.tolist()
        assert [v for _, v in found[latent]] == pytest.approx(value.tolist(), abs=1e-3)
    assert found[40][0] == [3, 1.0] and found[3][0] == [40, 1.0]
    assert spread["n"] == 30 and sum(spread["counts"]) == 30 * 59
    sample = np.linspace(0, 59, 30).round().astype(int)
    assert spread["largest"] == pytest.approx(table[sample].amax(1).tolist(), abs=1e-5)


def test_one_latent_has_no_nearest(tmp_path):
    save_file({"W_dec_ND": rows(1)}, tmp_path / "sae.safetensors")
    assert alike(SimpleNamespace(path=tmp_path), [0])[0] == {0: []}


# matching


def copies(n: int, d: int, noise: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A dictionary, a permuted and noised copy of another scale, and where each row went."""
    A = F.normalize(rows(n, d, seed), dim=1)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    B = (A + noise / math.sqrt(d) * rows(n, d, seed + 1))[order] * 3
    return A, B, order.argsort()


@pytest.mark.parametrize("exact", [4096, 0])
def test_a_permuted_and_noised_copy_is_found_row_by_row(exact):
    A, B, where = copies(200, 32, 0.1)
    found = matched(A, B, k=8, exact=exact)
    assert found.to_second.index_NK[:, 0].tolist() == where.tolist() == found.pairs.second_P.tolist()
    figures = found.figures
    assert figures["exact"] == (exact > 0) and figures["n_pairs"] == 200 and figures["mutual"] == 1
    assert all(figures[side]["mmcs"] > 0.99 and figures[side]["above"]["0.9"] == 1 for side in ("first", "second"))
    assert figures["mcc"] == pytest.approx(figures["first"]["mmcs"], abs=1e-6)
    assert matched(A, A, exact=exact).figures["mcc"] == pytest.approx(1, abs=1e-5)


def test_unrelated_dictionaries_do_not_match():
    figures = matched(rows(200, 64), rows(300, 64, 5)).figures
    assert 0.2 < figures["mcc"] < 0.5 and figures["first"]["above"]["0.7"] == 0
    assert figures["first"]["mmcs"] > figures["mcc"], "the nearest may be taken by several"


def test_rows_that_point_the_other_way_are_no_match():
    assert matched(rows(50, 64), -rows(50, 64)).figures["first"]["mmcs"] < 0.5


def test_mmcs_is_not_symmetric_and_one_row_may_be_the_nearest_of_many():
    """A holds one direction thrice, B that one and another: every row of A is found in B, but half of B in A."""
    A, B = torch.tensor([[1.0, 0], [2, 0], [3, 0]]), torch.tensor([[1.0, 0], [0, 1]])
    figures = matched(A, B).figures
    assert figures["first"]["mmcs"] == 1 and figures["second"]["mmcs"] == 0.5
    assert figures["first"]["distinct"] == pytest.approx(1 / 3) and figures["mcc"] == 0.5


def test_one_to_one_takes_the_largest_sum_and_not_the_greediest():
    """Greed takes 0.9 and is left with 0.1; the best sum is 0.8 + 0.7."""
    pairs = one_to_one(np.array([[0.9, 0.8], [0.7, 0.1]], np.float32))
    assert pairs.second_P.tolist() == [1, 0] and pairs.cosine_P.tolist() == pytest.approx([0.8, 0.7])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 24), st.integers(1, 24), st.integers(1, 24), st.integers(0, 99))
def test_matching_among_candidates_never_beats_the_exact_one_and_with_all_of_them_is_it(n, m, k, seed):
    A, B = rows(n, 4, seed), rows(m, 4, seed + 100)
    table = cosines(A, B, lengths(B)).numpy()
    best = one_to_one(np.maximum(table, 0)).cosine_P.sum()  # who has nobody to fit may stay alone
    found = among(*between(A, B, min(k, n, m)))
    assert len(set(found.first_P.tolist())) == len(set(found.second_P.tolist())) == len(found.first_P)
    np.testing.assert_allclose(table[found.first_P, found.second_P], found.cosine_P, atol=1e-6)
    assert found.cosine_P.sum() <= best + 1e-5
    if k >= max(n, m):
        assert among(*between(A, B, max(n, m))).cosine_P.sum() == pytest.approx(best, abs=1e-5)


def test_latents_without_a_candidate_stay_alone():
    to_second = Nearest(torch.tensor([[0], [0]]), torch.tensor([[0.9], [-0.5]]))
    found = among(to_second, Nearest(torch.tensor([[0]]), torch.tensor([[0.9]])))
    assert (found.first_P.tolist(), found.second_P.tolist()) == ([0], [0])


class Doubled(Norm):
    """Halves some columns and takes an offset off: it turns directions, as whitening does."""

    kind: Literal["doubled"] = "doubled"

    def apply(self, state, x_BD):
        return (x_BD - state["offset"]) * state["scale"], None

    def invert(self, state, y_BD, undo):
        return y_BD / state["scale"] + state["offset"]


def trained(W: torch.Tensor, norm: FittedNorm) -> TrainedSAE:
    n, d = W.shape
    tensors = {"W_enc_ND": W.clone(), "b_enc_N": torch.zeros(n), "W_dec_ND": W, "b_dec_D": torch.zeros(d)}
    return TrainedSAE(TopK(k=2, n_latents=n).holding(tensors), norm, "layers.1")


def test_saes_behind_different_norms_are_compared_in_the_models_space():
    W, scale = rows(30), torch.linspace(0.1, 3, 16)
    turning = FittedNorm(Doubled(), {"offset": torch.full((16,), 1000.0), "scale": scale})
    plain, behind = trained(W, FittedNorm(NoNorm(), {})), trained(W * scale, turning)
    assert matched(plain.W_dec_ND, behind.W_dec_ND).figures["mcc"] < 0.98
    assert matched(*in_common(plain, behind)).figures["mcc"] > 0.9999, "the long offset costs no digits"
    same = in_common(behind, trained(W * scale, turning))
    assert same[0] is behind.W_dec_ND, "of one norm, rows are compared as they are"
    with pytest.raises(SpecError, match="rows of 16 and 8 numbers, but only equal widths match"):
        in_common(plain, trained(rows(5, 8), FittedNorm(NoNorm(), {})))


# firing


def test_densities_by_hand():
    found = densities(np.array([0, 0, 1, 100, 100_000, 1_000_000]), 1_000_000)
    assert (found["n_dead"], found["n_rare"], found["n_dense"]) == (2, 1, 1), "a latent at 10% is not above it"
    assert found["l0"] == pytest.approx(1.100101) and sum(found["counts"]) == 4
    assert found["median"] == pytest.approx((1e-4 + 0.1) / 2)
    at = dict(zip(found["edges"], found["counts"], strict=False))
    assert at[-6.0] == 1 and at[-4.0] == 1 and at[-1.0] == 1 and at[-0.2] == 1, "1 is in the last bin"
    assert densities(np.zeros(3, int), 0)["median"] is None


@pytest.fixture(scope="module")
def caches():
    """A dozen latents, the same in another order with one replaced, on the same tokens."""
    fires, n_rows = scattered(12, 7, 8)
    order = [3, 1, 2, 0, *range(4, 12)]
    other = [fires[i] for i in order]
    other[11] = {row: 1.0 for row in range(5, n_rows, 50)}
    tokens = np.zeros(n_rows)
    return fires, other, cache_of(fires, tokens, 3), cache_of(other, tokens, 2)


def dense(fires, n_rows: int) -> np.ndarray:
    found = np.zeros((len(fires), n_rows))
    for latent, one in enumerate(fires):
        for row, value in one.items():
            found[latent, row] = value
    return found


def test_co_firing_is_counted_over_all_tokens(caches):
    fires, _, cache, _ = caches
    found = together(cache, [(0, 8), (3, 3), (7, 8)])
    both, either = len(fires[0].keys() & fires[8].keys()), len(fires[0].keys() | fires[8].keys())
    assert found.n_both_P.tolist() == [both, len(fires[3]), 0] and both > 0
    np.testing.assert_allclose(found.jaccard_P, [both / either, 1, 0], rtol=1e-6)
    assert found.expected_P[0] == pytest.approx(len(fires[0]) * len(fires[8]) / cache.n_rows)


@pytest.mark.parametrize("n_rows", [10**9, 5000])
def test_correlations_are_those_of_the_dense_table(caches, n_rows, monkeypatch):
    monkeypatch.setattr("tasks.dictionary.firing._LATENTS", 5)
    fires, other, one, two = caches
    every = max(1, one.n_rows // n_rows)
    a, b = (dense(f, one.n_rows)[:, ::every] for f in (fires, other))
    ours, theirs = (sampled(cache.shards, n_rows) for cache in (one, two))
    np.testing.assert_allclose(ours.toarray(), a)
    asked = np.array([3, 1, 2, 0, 5, 5, 6, 7, 8, 9, 10, 11])
    found = correlated(ours, theirs, asked)
    with np.errstate(invalid="ignore"):
        table = np.corrcoef(a, b)[:12, 12:]
    np.testing.assert_allclose(found.asked_N, table[np.arange(12), asked], atol=1e-6)
    assert np.isnan(found.asked_N[7]) and found.index_N[7] == -1, "it never fires"
    best = np.nanargmax(np.where((a @ b.T) > 0, table, -2)[[i for i in range(12) if i != 7]], axis=1)
    assert np.delete(found.index_N, 7).tolist() == best.tolist()
    np.testing.assert_allclose(found.value_N, np.where(found.index_N < 0, np.nan, table[np.arange(12), found.index_N]), atol=1e-6)
    if every == 1:
        assert found.index_N[:4].tolist() == [3, 1, 2, 0], "where each went"


def test_a_latent_that_is_always_equally_strong_goes_with_none():
    always = [{row: 0.1 for row in range(640)}, {row: 1.0 for row in range(0, 640, 3)}]
    x = sampled(cache_of(always, np.zeros(640)).shards, 640)
    found = correlated(x, x, np.array([0, 1]))
    assert found.index_N.tolist() == [-1, 1] and np.isnan(found.asked_N[0])
