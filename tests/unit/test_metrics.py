"""Metrics in closed form, and merged in parts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tasks.metrics import DEFINITIONS, Firing, Losses, Reconstruction
from tasks.saes.base import Latents


def reconstruction(x, hat, parts=1):
    total = Reconstruction()
    for a, b in zip(x.chunk(parts), hat.chunk(parts), strict=True):
        total.merge(_one(a, b))
    return total


def _one(x, hat):
    part = Reconstruction()
    part.update(x, hat)
    return part


@pytest.fixture
def x():
    return (
        torch.randn(501, 7, generator=torch.Generator().manual_seed(0)) * 2 + 30
    )  # far from zero, as outlier dims are


def test_a_perfect_reconstruction_has_fvu_0_and_cosine_1(x):
    found = reconstruction(x, x).metrics()
    assert found["fvu"]["value"] == 0
    assert found["cosine"]["value"] == pytest.approx(1, abs=1e-12)
    assert found["l2_ratio"]["value"] == pytest.approx(1, abs=1e-12)
    assert found["relative_reconstruction_bias"]["value"] == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("parts", [1, 9])
def test_predicting_the_mean_has_fvu_1(x, parts):
    assert reconstruction(x, x.mean(0).expand_as(x), parts).fvu == pytest.approx(1, abs=1e-6)  # the mean is float32


def test_a_constant_offset_is_an_error(x):
    # dictionary_learning's variance of the residual would call this perfect
    offset = reconstruction(x.double(), x.double() + 2)
    assert offset.fvu == pytest.approx(4 * 7 / float(x.double().var(0, correction=0).sum()))


def test_halving_shrinks_by_half(x):
    found = reconstruction(x, x / 2).metrics()
    assert found["l2_ratio"]["value"] == pytest.approx(0.5)
    assert found["relative_reconstruction_bias"]["value"] == pytest.approx(0.5)  # E|x/2|^2 / E x.x/2
    assert found["cosine"]["value"] == pytest.approx(1)


def test_parts_merge_to_the_whole(x):
    hat = x + torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    whole, parts = reconstruction(x, hat).metrics(), reconstruction(x, hat, 11).metrics()
    for name, entry in whole.items():
        assert parts[name]["value"] == pytest.approx(entry["value"], rel=1e-12), name
        assert parts[name]["n"] == 501


def test_nothing_measured_is_null_and_not_nan():
    assert Reconstruction().metrics()["fvu"]["value"] is None
    assert reconstruction(torch.ones(3, 2), torch.ones(3, 2)).metrics()["fvu"]["value"] is None  # no deviation


def latents(index, value):
    return Latents(torch.tensor(index), torch.tensor(value))


def test_firing_counts_only_values_above_zero():
    firing = Firing(5)
    firing.update(latents([[0, 1], [1, 2]], [[1.0, 3.0], [5.0, 0.0]]))
    assert firing.n_fires_N.tolist() == [1, 2, 0, 0, 0]
    assert firing.density_N.tolist() == [0.5, 1.0, 0, 0, 0]
    assert firing.mean_N.tolist() == [1.0, 4.0, 0, 0, 0]
    assert firing.max_N.tolist() == [1.0, 5.0, 0, 0, 0]
    found = firing.metrics()
    assert found["l0"]["value"] == 1.5
    assert found["dead_fraction"]["value"] == 0.6
    assert found["dense_fraction"]["value"] == 0.4


def test_firing_merges():
    one, two = Firing(3), Firing(3)
    one.update(latents([[0]], [[1.0]]))
    two.update(latents([[0], [2]], [[4.0], [2.0]]))
    one.merge(two)
    assert (one.n, one.n_fires_N.tolist(), one.max_N.tolist()) == (3, [2, 0, 1], [4.0, 0.0, 2.0])
    assert one.mean_N.tolist() == [2.5, 0, 2.0]


def losses(rows):
    found = Losses()
    for document, clean, sae, zero, mean, n in rows:
        found.update(document, {"clean": clean, "sae": sae, "zero": zero, "mean": mean}, n)
    return found


def test_loss_recovered_is_its_formula():
    found = losses([(0, 10, 12, 30, 20, 10), (1, 20, 22, 50, 40, 10)]).metrics()
    assert found["ce_clean"]["value"] == 1.5
    assert found["ce_zero"]["value"] == 4.0
    assert found["ce_loss_recovered"]["value"] == pytest.approx((80 - 34) / (80 - 30))
    assert found["ce_loss_recovered_from_mean"]["value"] == pytest.approx((60 - 34) / (60 - 30))


def test_an_sae_that_changes_nothing_recovers_all_and_one_that_zeroes_recovers_nothing():
    assert losses([(i, 10, 10, 30, 20, 10) for i in range(4)]).recovered("zero") == (1.0, 1.0, 1.0)
    assert losses([(i, 10, 30, 30, 20, 10) for i in range(4)]).recovered("zero") == (0.0, 0.0, 0.0)


def test_the_interval_holds_the_value_and_narrows_with_documents():
    rng = np.random.default_rng(0)
    rows = [(i, 10.0, 10 + rng.exponential(1), 30.0, 20.0, 10) for i in range(400)]
    value, low, high = losses(rows).recovered("zero")
    few = losses(rows[:20]).recovered("zero")
    assert low < value < high
    assert high - low < few[2] - few[1]
    # mean recovered is 1 - 1/20, its standard error 1/20/sqrt(400); 95% is about 4 of them wide
    assert high - low == pytest.approx(4 / 20 / 20, rel=0.3)


def test_contexts_of_one_document_are_resampled_together():
    apart = losses([(i, 10, 10 + i % 2, 30, 20, 10) for i in range(40)])
    together = losses([(i % 2, 10, 10 + i % 2, 30, 20, 10) for i in range(40)])
    assert apart.recovered("zero")[0] == together.recovered("zero")[0]
    wide = together.recovered("zero")
    narrow = apart.recovered("zero")
    assert wide[2] - wide[1] > 3 * (narrow[2] - narrow[1])


def test_losses_merge():
    rows = [(0, 1, 2, 4, 3, 5), (1, 2, 3, 5, 4, 6), (0, 1, 1, 4, 4, 2)]
    assert losses(rows[:1]).merge(losses(rows[1:])).metrics() == losses(rows).metrics()


def test_where_ablation_costs_nothing_nothing_is_recovered():
    assert losses([(0, 10, 12, 10, 10, 5)]).recovered("zero") == (None, None, None)
    assert Losses().metrics()["ce_clean"]["value"] is None


def test_every_metric_says_what_it_is_and_whose():
    for name, (definition, source) in DEFINITIONS.items():
        assert definition, name
        assert source, name
    entry = losses([(0, 10, 12, 30, 20, 10)]).metrics()["ce_sae"]
    assert "BOS" in entry["definition"]
    assert not math.isnan(entry["value"])
