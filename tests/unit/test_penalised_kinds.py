"""standard, gated and jumprelu: each loss against its written definition in float64, and what trains them."""

from __future__ import annotations

import pytest
import torch

from tasks.kinds import decode
from tasks.learning import pairs
from tasks.learning.autograd import AutogradLearner
from tasks.learning.pairs import ActivePairs, AllPairs, scored
from tasks.saes.jumprelu import jumped
from tasks.spec import SpecError

D, N, B = 12, 40, 30
ALIVE = torch.zeros(N, dtype=torch.bool)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build(kind: str, **fields):
    """An SAE in float64 whose every weight is some number."""
    sae = decode("tasks.saes", {"kind": kind, "n_latents": N, "expansion_factor": None, **fields}, "sae").build(D)
    for i, (name, tensor) in enumerate(sae.weights().items()):
        noise = 0.4 * draw(*tensor.shape, seed=i)
        setattr(sae, name, (tensor.double() + (noise.abs() if name == "threshold_N" else noise)).requires_grad_(True))
    return sae


def rms(x: torch.Tensor) -> torch.Tensor:
    return (x - x.mean(0)).square().sum(-1).mean().sqrt()


def fvu(x: torch.Tensor, x_hat: torch.Tensor) -> torch.Tensor:
    return (x_hat - x).square().sum(-1).mean() / rms(x) ** 2


def equal_gradients(sae, found: torch.Tensor, wanted: torch.Tensor) -> None:
    weights = list(sae.weights().values())
    torch.testing.assert_close(found, wanted, atol=1e-10, rtol=0)
    one, other = (
        torch.autograd.grad(of, weights, allow_unused=True, materialize_grads=True, retain_graph=True) for of in (found, wanted)
    )
    for name, a, b in zip(sae.names(), one, other, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-8, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture(params=[2.0, -1.0], ids=["sparse", "dense"])
def products(request, monkeypatch):
    """By pairs, and by dense products."""
    monkeypatch.setattr(pairs, "CROWDED", request.param)


@pytest.mark.parametrize("lp", [1.0, 0.5])
def test_standard_is_its_written_loss(products, lp):
    sae, x = build("standard", l1_coefficient=0.3, lp=lp), draw(B, D, seed=50)
    f = ((x - sae.b_dec_D) @ sae.W_enc_ND.T + sae.b_enc_N).relu()
    size = f * sae.W_dec_ND.norm(dim=-1) / rms(x)
    penalty = size if lp == 1 else torch.where(f > 0, (size + 1e-3) ** lp - 1e-3**lp, 0)
    wanted = fvu(x, f @ sae.W_dec_ND + sae.b_dec_D) + 0.5 * 0.3 * penalty.sum(-1).mean()
    equal_gradients(sae, sae.loss(x, ALIVE, sparsity=0.5)["total"], wanted)


def test_gated_is_its_written_loss(products):
    sae, x = build("gated", l1_coefficient=0.3), draw(B, D, seed=50)
    product = (x - sae.b_dec_D) @ sae.W_enc_ND.T
    gate = product + sae.b_gate_N
    f = (gate > 0) * (sae.r_mag_N.exp() * product + sae.b_mag_N).relu()
    main = fvu(x, f @ sae.W_dec_ND + sae.b_dec_D)
    aux = fvu(x, gate.relu() @ sae.W_dec_ND.detach() + sae.b_dec_D.detach())
    found = sae.loss(x, ALIVE)
    equal_gradients(sae, found["total"], main + aux + 0.3 * gate.relu().sum(-1).mean() / rms(x))
    torch.testing.assert_close(found["fvu"], main)


def test_gated_teaches_its_gate_by_the_auxiliary_loss_alone_and_leaves_the_decoder_out_of_that():
    sae, x = build("gated"), draw(B, D, seed=50)
    found = sae.loss(x, ALIVE)

    def reached(term: str) -> set[str]:
        grads = torch.autograd.grad(found[term], list(sae.weights().values()), allow_unused=True, retain_graph=True)
        return {name for name, grad in zip(sae.names(), grads, strict=True) if grad is not None and grad.abs().sum() > 1e-12}

    assert reached("fvu") == {"W_enc_ND", "W_dec_ND", "b_dec_D", "b_mag_N", "r_mag_N"}
    assert reached("aux_loss") == {"W_enc_ND", "b_gate_N", "b_dec_D"}  # b_dec as what the encoder subtracts
    assert reached("sparsity_loss") == {"W_enc_ND", "b_gate_N", "b_dec_D"}


@pytest.mark.parametrize("to_input", [False, True])
def test_the_jump_has_the_gradients_of_the_paper_on_both_sides_of_the_threshold(to_input):
    z = torch.tensor([0.2, 0.42, 0.48, 0.52, 0.58, 0.9, -0.1], dtype=torch.float64, requires_grad=True)
    threshold = torch.full((7,), 0.5, dtype=torch.float64, requires_grad=True)
    near = torch.tensor([0.0, 0, 1, 1, 0, 0, 0]) / 0.1  # the kernel: 0.1 wide, of area 1
    above = torch.tensor([0.0, 0, 0, 1, 1, 1, 0])
    value, active = jumped(z, threshold, 0.1, to_input)
    torch.testing.assert_close(value, (z * above.double()).detach(), atol=0, rtol=0)
    torch.testing.assert_close(active, above.double(), atol=0, rtol=0)
    for found, d_z, d_threshold in ((value, above + 0.5 * near * to_input, -0.5 * near), (active, near * to_input, -near)):
        one, other = torch.autograd.grad(found.sum(), (z, threshold), retain_graph=True, materialize_grads=True)
        torch.testing.assert_close(one, d_z.double())
        torch.testing.assert_close(other, d_threshold.double())


@pytest.mark.parametrize("penalty", ["step", "tanh", "target"])
def test_jumprelu_is_its_written_loss(products, penalty):
    fields = {"penalty": penalty, "sparsity_coefficient": 0.3, "bandwidth": 0.5, "target_l0": 5 if penalty == "target" else None}
    sae, x = build("jumprelu", **fields), draw(B, D, seed=50)
    z = (x - sae.b_dec_D) @ sae.W_enc_ND.T + sae.b_enc_N
    f, active = jumped(z, sae.threshold_N.expand_as(z), 0.5)
    l0 = active.sum(-1).mean()
    of = {"step": l0, "tanh": (4 * f).tanh().sum(-1).mean(), "target": (l0 / 5 + 1e-3).log() ** 2}
    found = sae.loss(x, ALIVE)
    equal_gradients(sae, found["total"], fvu(x, f @ sae.W_dec_ND + sae.b_dec_D) + 0.3 * of[penalty])
    assert torch.equal(found["fired_N"], (z > sae.threshold_N).any(0)) and found["l0"] * B == (z > sae.threshold_N).sum()
    below = ((z - sae.threshold_N).abs() < 0.25) & (z <= sae.threshold_N)
    assert below.any(), "no pair is only just below its threshold, where its gradient matters"


def test_dead_latents_are_lifted_by_how_far_they_are_below_their_thresholds():
    sae, x = build("jumprelu", sparsity_coefficient=0, dead_coefficient=2.0), draw(B, D, seed=50)
    dead = torch.arange(N) % 4 == 0
    with torch.no_grad():
        sae.b_enc_N[dead] -= 20
    found = sae.loss(x, dead)
    z = ((x - sae.b_dec_D) @ sae.W_enc_ND.T + sae.b_enc_N)[:, dead]
    wanted = (sae.threshold_N[dead] - z).relu().sum(-1).mean() / rms(x)
    equal_gradients(sae, found["aux_loss"], wanted)
    (grad,) = torch.autograd.grad(found["total"], sae.b_enc_N)
    assert (grad[dead] < 0).all(), "a step against the gradient must raise them"


def test_thresholds_stay_positive_and_in_float32():
    sae = decode("tasks.saes", {"kind": "jumprelu", "threshold": 0.01, "sparsity_coefficient": 0}, "sae").build(D)
    learner = sae.learner(dead_after_tokens=10**6, autocast=True)
    lowest = []
    for step in range(20):
        learner.step(draw(B, D, seed=step).float(), 0.05)
        lowest.append(sae.threshold_N.min().item())
    assert min(lowest) == pytest.approx(1e-6) and sae.threshold_N.dtype == torch.float32


@pytest.mark.parametrize("first", [0.02, 1.0], ids=["from above", "from below"])
def test_l0_comes_to_its_target(first):
    fields = {"kind": "jumprelu", "expansion_factor": 4, "threshold": first, "bandwidth": 0.3}
    sae = decode("tasks.saes", {**fields, "penalty": "target", "target_l0": 6, "sparsity_coefficient": 1.0}, "sae").build(D)
    learner = sae.learner(dead_after_tokens=10**9)
    found = [learner.step(draw(256, D, seed=step).float(), 1e-2 * (1 - step / 250))["l0"].item() for step in range(250)]
    assert abs(found[0] - 6) > 3
    assert abs(sum(found[-20:]) / 20 - 6) < 0.9


def test_a_target_without_its_number_or_a_number_without_its_target_is_refused():
    with pytest.raises(SpecError, match="sae.target_l0 = None, but sae.penalty = 'target' needs one"):
        decode("tasks.saes", {"kind": "jumprelu", "penalty": "target"}, "sae")
    with pytest.raises(SpecError, match="sae.target_l0 = 16.0, but sae.penalty = 'step' does not read it"):
        decode("tasks.saes", {"kind": "jumprelu", "target_l0": 16}, "sae")


def test_clipping_makes_all_gradients_together_no_longer_than_asked():
    sae = decode("tasks.saes", {"kind": "standard", "expansion_factor": 3}, "sae").build(D)
    learner = AutogradLearner(sae, 10**6, clip_norm=0.01)
    learner.step(draw(B, D).float(), 1e-3)
    norm = torch.stack([tensor.grad.norm() for tensor in sae.weights().values()]).norm()
    assert norm.item() == pytest.approx(0.01, rel=1e-3)


def test_few_pairs_are_taken_one_by_one_and_many_by_dense_products():
    W, x = draw(64, D), draw(100, D, seed=1)
    _, many = scored(x, None, W, torch.zeros(64).double())
    _, few = scored(x, None, W, torch.full((64,), -11.0).double())
    assert isinstance(many, AllPairs) and isinstance(few, ActivePairs)


def test_searching_in_bfloat16_misses_no_pair_of_a_token_that_is_far_longer_than_the_others(monkeypatch):
    monkeypatch.setattr(pairs, "fast_bf16", lambda device: True)
    W, x, bound = draw(2048, 64) / 8, draw(300, 64, seed=1), torch.full((2048,), 3.5).double()
    x[1] *= 1000
    over = torch.linspace(-1, 1, 2048).double()  # what is left of products in the thousands
    W += (bound + over - W @ x[1])[:, None] * x[1] / x[1].square().sum()
    _, found = scored(x.float(), None, W.float(), torch.zeros(2048), bound.float())
    assert isinstance(found, ActivePairs)
    of_it = set(found.latent_P[found._pairs.row_P() == 1].tolist())
    assert of_it >= set((over > 0.05).nonzero().flatten().tolist())
    assert len(found.latent_P) < 1.5 * int((x @ W.T > bound).sum()) + 2048, "a margin as wide for every token"


def test_searching_in_bfloat16_misses_no_pair_that_is_above_and_scores_in_float32(monkeypatch):
    monkeypatch.setattr(pairs, "fast_bf16", lambda device: True)
    W, x, b = draw(2048, 64).float() / 8, draw(300, 64, seed=1).float(), 0.3 * draw(2048, seed=2).float()
    bound = 3.0 + 0.2 * draw(2048, seed=3).float().abs()
    product, found = scored(x, None, W, b, bound)
    assert isinstance(found, ActivePairs)
    dense = x @ W.T
    above = (dense + b > bound).sum()
    got = (product + found.of(b) > found.of(bound)).sum()
    assert abs(int(got) - int(above)) <= 2, "but for rounding of float32 at the bound itself"
    exact = (x.double() @ W.double().T).flatten()[found._pairs.row_P() * 2048 + found.latent_P]
    torch.testing.assert_close(product.double(), exact, atol=2e-5, rtol=1e-5)
