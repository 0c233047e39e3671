"""Planted activations do what their spec says, and scores against the truth are those one gets by hand."""

from __future__ import annotations

import pytest
import torch

from tasks.planted.scores import Scores, scored
from tasks.planted.truth import BLOCK, Planted, PlantedSpec, Sample
from tasks.saes.base import Latents
from tasks.saes.topk import TopK
from tasks.spec import SpecError

FAMILIES = {"n_latents": 60, "mean_l0": 6.0, "children": 2, "d": 16}


@pytest.mark.parametrize(
    "fields",
    [
        {}, {"zipf": 0.0}, {"correlation": 0.5}, {"mean_l0": 60.0}, FAMILIES, {**FAMILIES, "exclusive": False},
        {**FAMILIES, "correlation": 0.6, "correlation_rank": 2},
    ],
    ids=str,
)  # fmt: skip
def test_latents_fire_as_often_as_their_probability_says_and_mean_l0_is_the_specs(fields):
    planted = Planted(PlantedSpec(**fields), seed=1)
    n = 16 * BLOCK
    fires = (planted.sample(0, n).codes_BN > 0).double()
    p = planted.probability_N.double()
    assert p.sum() == pytest.approx(planted.spec.mean_l0, rel=1e-5)
    assert p.max() <= planted.spec.most_often + 1e-6
    # 5 standard deviations of a binomial share, for each of up to 256 latents
    assert ((fires.mean(0) - p).abs() < 5 * (p * (1 - p) / n).sqrt() + 1e-9).all()


def test_probabilities_follow_zipf_until_they_would_pass_the_largest():
    p = Planted(PlantedSpec(zipf=1.5, n_latents=100, mean_l0=2.0, most_often=0.4)).probability_N.double()
    free = p < 0.4 - 1e-6
    rank = torch.arange(1, 101, dtype=torch.float64)
    assert not free[0] and free[5:].all()
    scaled = (p * rank**1.5)[free]
    torch.testing.assert_close(scaled, scaled[:1].expand_as(scaled), rtol=1e-5, atol=0)


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_a_child_never_fires_without_its_parent_and_exclusive_siblings_never_together(exclusive, correlation):
    planted = Planted(PlantedSpec(**FAMILIES, exclusive=exclusive, correlation=correlation), seed=2)
    fires = planted.sample(0, 4 * BLOCK).codes_BN > 0
    children = (planted.parent_N >= 0).nonzero().squeeze(1)
    assert len(children) == 40 and fires[:, children].any(0).all()
    assert (fires[:, planted.parent_N[children]] | ~fires[:, children]).all()
    together = torch.stack([fires[:, children[planted.parent_N[children] == p]].sum(1) for p in range(20)])
    assert together.max() == (1 if exclusive else 2)


def test_correlated_latents_fire_together_more_and_less_often_than_chance():
    def excess(correlation: float) -> torch.Tensor:
        planted = Planted(PlantedSpec(n_latents=20, mean_l0=4.0, zipf=0.0, correlation=correlation, correlation_rank=2))
        fires = (planted.sample(0, 8 * BLOCK).codes_BN > 0).float()
        both = torch.corrcoef(fires.T)
        return both[~torch.eye(20, dtype=torch.bool)]

    assert excess(0.0).abs().max() < 0.06  # 5 standard deviations of 1 / sqrt(8192)
    assert excess(0.7).max() > 0.3 and excess(0.7).min() < -0.1


@pytest.mark.parametrize("first, last", [(0, 5), (1000, 1100), (BLOCK, 2 * BLOCK), (BLOCK - 1, 3 * BLOCK + 7), (7, 7)])
def test_any_range_of_rows_is_what_the_straight_stream_has_there(first, last):
    spec = PlantedSpec(d=8, n_latents=20, mean_l0=3.0, children=1, correlation=0.3, noise=0.1, bias=2.0)
    straight, again = Planted(spec, seed=3).sample(0, 4 * BLOCK), Planted(spec, seed=3)
    again.rows(5, 9)  # what was asked for before changes nothing
    part = again.sample(first, last)
    assert torch.equal(part.x_BD, straight.x_BD[first:last]) and torch.equal(part.codes_BN, straight.codes_BN[first:last])


def test_another_seed_is_another_dictionary_and_other_blocks_are_other_rows():
    spec = PlantedSpec(d=8, n_latents=20, mean_l0=3.0)
    one, other = Planted(spec, seed=0), Planted(spec, seed=1)
    assert Scores(one.directions_ND, other.directions_ND).figures()["mcc"] < 0.95
    assert not torch.equal(one.rows(0, BLOCK), one.rows(BLOCK, 2 * BLOCK))


@pytest.mark.parametrize("magnitude, spread", [("constant", 0.0), ("exponential", 2.0), ("folded_normal", 0.5)])
def test_magnitudes_have_the_mean_and_spread_of_their_distribution(magnitude, spread):
    planted = Planted(PlantedSpec(magnitude=magnitude, mean_magnitude=2.0, spread=0.5))
    codes = planted.sample(0, 4 * BLOCK).codes_BN
    active = codes[codes > 0]
    assert active.mean() == pytest.approx(2.0, rel=0.03) and active.std() == pytest.approx(spread, abs=0.06)


def test_rows_are_their_codes_times_directions_and_bias_and_noise_of_its_size():
    planted = Planted(PlantedSpec(d=32, bias=3.0, noise=0.2), seed=4)
    sample = planted.sample(0, 2 * BLOCK)
    rest = sample.x_BD - sample.codes_BN @ planted.directions_ND - planted.bias_D
    assert planted.bias_D.norm() == pytest.approx(3.0, rel=1e-5)
    assert rest.std() == pytest.approx(0.2, rel=0.03) and rest.mean() == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize("n", [6, 16, 40])
def test_orthogonal_directions_are_orthogonal_within_each_group_of_d(n):
    planted = Planted(PlantedSpec(d=16, n_latents=n, mean_l0=2.0, orthogonal=True))
    for group in planted.directions_ND.split(16):
        torch.testing.assert_close(group @ group.T, torch.eye(len(group)), atol=1e-5, rtol=0)


def test_a_spec_that_admits_no_dictionary_is_refused_with_its_numbers():
    with pytest.raises(SpecError, match=r"planted.n_latents = 10, but a parent with 2 children .* use a multiple of 3"):
        Planted(PlantedSpec(n_latents=10, mean_l0=1.0, children=2))
    with pytest.raises(SpecError, match=r"planted.mean_l0 = 60, but 100 latents .* at most 0.5 of the rows come to 50"):
        Planted(PlantedSpec(n_latents=100, mean_l0=60.0))


def test_scores_are_those_by_hand():
    truth = torch.eye(3)
    # Trained rows: true 2 at length 2, true 0, and nothing of true 1 (it leans on true 0).
    W = torch.tensor([[0.0, 0.0, 2.0], [1.0, 0.0, 0.0], [0.8, 0.6, 0.0]])
    codes = torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 2.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    said = torch.tensor([[0.5, 0.9, 0.0], [0.0, 0.0, 0.0], [0.0, 0.9, 0.0], [1.0, 0.0, 0.1]])
    scores = Scores(truth, W)
    for rows in (slice(0, 1), slice(1, 4)):  # in pieces as in one
        part = Latents(torch.arange(3).expand(len(said[rows]), 3), said[rows])
        scores.add(Sample(codes[rows] @ truth, codes[rows]), part, said[rows] @ W)
    # true 0: fires in 3, trained 1 in 2 of them; true 1 never fires; true 2: fires in 2, trained 0 in one of them and once without it
    f1 = scores.f1()
    assert scores.true_P.tolist() == [0, 1, 2] and scores.said_P.tolist() == [1, 2, 0]
    torch.testing.assert_close(f1, torch.tensor([2 * 2 / 5, torch.nan, 2 * 1 / 4]), equal_nan=True)
    found = scores.figures()
    assert found["mcc"] == pytest.approx((1 + 0.6 + 1) / 3)
    assert found["mmcs"] == pytest.approx((1 + 0.6 + 1) / 3) and found["mmcs_back"] == pytest.approx((1 + 1 + 0.8) / 3)
    assert found["uniqueness"] == pytest.approx(2 / 3)
    assert found["precision"] == pytest.approx((1 + 0.5) / 2) and found["recall"] == pytest.approx((2 / 3 + 0.5) / 2)
    # both fire: true 0 in rows 0 and 2 (0.9 each for 1), true 2 in row 0 (0.5 times length 2 for 2)
    assert found["shrinkage"] == pytest.approx((0.9 + 0.9 + 1.0) / (1 + 1 + 2))
    assert found["l0"] == pytest.approx(5 / 4)
    x, x_hat = codes @ truth, said @ W
    assert found["fvu"] == pytest.approx(float((x - x_hat).square().sum() / (x - x.mean(0)).square().sum()), rel=1e-5)


def test_a_dictionary_of_32_directions_in_16_dimensions_is_found_again_within_seconds():
    planted = Planted(PlantedSpec(d=16, n_latents=32, mean_l0=1.5, zipf=0.0, bias=1.0, noise=0.01), seed=0)
    sae = TopK(n_latents=32, expansion_factor=None, k=2).build(16, seed=0)
    before = Scores(planted.directions_ND, sae.W_dec_ND).figures()["mcc"]
    learner, rows, n_steps = sae.learner(dead_after_tokens=10_000), planted.rows(0, 64 * 256), 800
    sae.b_dec_D.copy_(rows.mean(0))
    for step in range(n_steps):
        learner.step(rows[step % 64 * 256 :][:256], 1e-2 * min(1.0, 2 * (n_steps - step) / n_steps))
    found = scored(planted, sae, 10 * BLOCK, 14 * BLOCK).figures()
    # k is 2 in every row, and 1.5 latents fire on average: precision cannot come near 1
    assert before < 0.7 and found["mcc"] > 0.9 and found["recall"] > 0.7 and found["fvu"] < 0.15, (before, found)
