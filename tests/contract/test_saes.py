"""Every kind of SAE keeps these promises. A new file in tasks/saes is under test before its author writes one."""

from __future__ import annotations

import pytest
import torch

from tasks.kinds import decode, kinds
from tasks.norms.base import FittedNorm
from tasks.norms.rms import RMS
from tasks.saes.base import Latents
from tasks.trained import TrainedSAE

KINDS = kinds("tasks.saes")
D = 24


@pytest.fixture(params=KINDS)
def sae(request):
    fields = {"kind": request.param, "expansion_factor": 4.0}
    return decode("tasks.saes", fields, "sae").build(D, seed=3)


def planted(n: int, seed: int) -> torch.Tensor:
    """Sparse sums of 2 D known directions."""
    draw = torch.Generator().manual_seed(seed)
    truth = torch.nn.functional.normalize(torch.randn(2 * D, D, generator=torch.Generator().manual_seed(9)), dim=-1)
    codes = torch.rand(n, 2 * D, generator=draw) * (torch.rand(n, 2 * D, generator=draw) < 0.06)
    x = codes @ truth
    return x / x.square().mean().sqrt()


def test_latents_are_distinct_non_negative_and_decode_to_the_dense_sum(sae):
    x = planted(50, 0)
    latents = sae.encode(x)
    assert isinstance(latents, Latents) and latents.index_BK.dtype == torch.int64
    assert (latents.value_BK >= 0).all()
    assert all(len(set(row)) == len(row) for row in latents.index_BK.tolist())
    dense = torch.zeros(50, sae.n_latents).scatter(1, latents.index_BK, latents.value_BK)
    torch.testing.assert_close(sae.decode(latents), dense @ sae.W_dec_ND + sae.b_dec_D, atol=1e-5, rtol=1e-5)


def test_the_same_seed_builds_the_same_weights_and_another_seed_others(sae):
    again, other = sae.spec.build(D, seed=3), sae.spec.build(D, seed=4)
    assert all(torch.equal(w, getattr(again, n)) for n, w in sae.weights().items())
    assert not torch.equal(sae.W_dec_ND, other.W_dec_ND)


def test_training_explains_planted_directions(sae):
    learner = sae.learner(dead_after_tokens=4096)
    first = learner.step(planted(256, 0), 1e-3)["fvu"].item()
    for step in range(1, 250):
        last = learner.step(planted(256, step), 3e-3)["fvu"].item()
    assert last < 0.5 * first


def test_a_learner_that_is_resumed_goes_on_bit_for_bit(sae):
    other = sae.spec.build(D, seed=8)
    one = sae.learner(dead_after_tokens=512)
    for step in range(4):
        one.step(planted(128, step), 1e-3)
    held = {name: tensor.clone() for name, tensor in one.state().items()}
    two = other.learner(dead_after_tokens=512)
    two.load_state(held)
    for step in range(4, 8):
        one.step(planted(128, step), 1e-3)
        two.step(planted(128, step), 1e-3)
    for name, tensor in one.state().items():
        assert torch.equal(tensor, two.state()[name]), name


def test_saved_and_opened_it_gives_the_same_latents_for_raw_activations(sae, tmp_path):
    from types import SimpleNamespace

    norm = FittedNorm(RMS(), {"mean": torch.randn(D), "scale": torch.tensor(2.5)})
    before = TrainedSAE(sae, norm, "layers.1")
    before.save(tmp_path)
    after = TrainedSAE.open(SimpleNamespace(path=tmp_path))
    x = planted(20, 1) * 3 + 1
    assert torch.equal(before.encode(x).index_BK, after.encode(x).index_BK)
    assert torch.equal(before.reconstruct(x), after.reconstruct(x))
    assert (after.hookpoint, after.n_latents, after.d_in) == ("layers.1", 4 * D, D)


def test_its_equation_is_written_down(sae):
    assert "x_hat" in sae.EQUATION
