"""Every kind of SAE keeps these promises. A new file in tasks/saes is under test before its author writes one."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import pytest
import torch

from tasks.kinds import decode, kinds
from tasks.learning import pairs
from tasks.learning.autograd import AutogradLearner
from tasks.norms.base import FittedNorm
from tasks.norms.rms import RMS
from tasks.saes.base import SAE, Latents
from tasks.trained import TrainedSAE

KINDS = kinds("tasks.saes")
D = 24

STRAIGHT_THROUGH = {"jumprelu": {"threshold_N"}}
"""Weights whose gradient is no derivative: a step has none."""


def build(kind: str, d_out: int | None = None, seed: int = 3, **fields) -> SAE:
    if d_out is not None:
        fields |= {"subtract_b_dec": False, "skip": True}
    return decode("tasks.saes", {"kind": kind, "expansion_factor": 4.0, **fields}, "sae").build(D, seed, d_out)


def shaken(sae: SAE, seed: int = 0) -> SAE:
    """Weights as after some training: no biases of 0, decoder rows of any length, in float64."""
    draw = torch.Generator().manual_seed(seed)
    for name, tensor in sae.weights().items():
        noise = torch.rand(tensor.shape, generator=draw, dtype=torch.float64)
        setattr(sae, name, tensor.double() + 0.3 * (noise if "threshold" in name else noise - 0.5))
    return sae


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture(params=[None, 7], ids=["sae", "transcoder"])
def sae(request, kind) -> SAE:
    """An SAE, and a transcoder with a skip connection."""
    return build(kind, request.param)


def planted(n: int, seed: int) -> torch.Tensor:
    """Sparse sums of 2 D known directions."""
    draw = torch.Generator().manual_seed(seed)
    truth = torch.nn.functional.normalize(torch.randn(2 * D, D, generator=torch.Generator().manual_seed(9)), dim=-1)
    codes = torch.rand(n, 2 * D, generator=draw) * (torch.rand(n, 2 * D, generator=draw) < 0.06)
    x = codes @ truth
    return x / x.square().mean().sqrt()


def target(sae: SAE, x: torch.Tensor) -> torch.Tensor | None:
    """What a transcoder is to give: a fixed map of its input, bent."""
    if sae.d_out == sae.d_in:
        return None
    return (x @ torch.randn(D, sae.d_out, generator=torch.Generator().manual_seed(5), dtype=x.dtype) / D**0.5).relu()


def train(sae: SAE, steps: range, learner=None, lr: float = 1e-3, batch: int = 128, **options):
    """Some steps; the learner, and what its last one found."""
    learner, found = learner or sae.learner(**{"dead_after_tokens": 512, **options}), {}
    for step in steps:
        x = planted(batch, step)
        found = learner.step(x, lr, target(sae, x))
    return learner, found


def dense(sae: SAE, latents: Latents) -> torch.Tensor:
    """Latents as [B, N]."""
    return latents.value_BK.new_zeros(len(latents.value_BK), sae.n_latents).scatter(1, latents.index_BK, latents.value_BK)


def evaluated(sae: SAE, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents [B, N] and reconstruction, by the equation that the saved file holds."""

    def topk(z, k):
        return torch.zeros_like(z).scatter(1, z.topk(k).indices, z.topk(k).values)

    names = {name.rpartition("_")[0] or name: tensor for name, tensor in sae.weights().items()}
    names |= {"x": x, "k": getattr(sae.spec, "k", None), "relu": torch.relu, "exp": torch.exp, "topk": topk}
    exec(sae.equation, names)
    return names["f"], names["x_hat"]


def test_encode_and_decode_are_what_the_equation_in_the_file_says(sae):
    x = planted(50, 0).double()
    f, x_hat = evaluated(shaken(sae), x)
    latents = sae.encode(x)
    assert 0 < (f > 0).double().mean() < 1, "all or nothing fires, so that nothing is tested"
    torch.testing.assert_close(dense(sae, latents), f, atol=1e-10, rtol=0)
    torch.testing.assert_close(sae.decode(latents, x), x_hat, atol=1e-10, rtol=0)


def test_latents_are_distinct_non_negative_and_decode_to_the_dense_sum(sae):
    x = planted(50, 0)
    latents = sae.encode(x)
    assert isinstance(latents, Latents) and latents.index_BK.dtype == torch.int64
    assert (latents.value_BK >= 0).all()
    assert all(len(set(row)) == len(row) for row in latents.index_BK.tolist())
    found = sae.around(dense(sae, latents) @ sae.W_dec_ND, x)
    torch.testing.assert_close(sae.decode(latents, x), found, atol=1e-5, rtol=1e-5)


def test_the_same_seed_builds_the_same_weights_and_another_seed_others(sae):
    again, other = (sae.spec.build(D, seed, sae.d_out) for seed in (3, 4))
    assert all(torch.equal(w, getattr(again, n)) for n, w in sae.weights().items())
    assert not torch.equal(sae.W_dec_ND, other.W_dec_ND)


def test_gradients_are_those_of_finite_differences(sae):
    """In float64, with no latent dead: AuxK, and the decoder that gates learn through, are held still on purpose."""
    shaken(sae)
    x, dead = planted(16, 1).double(), torch.zeros(sae.n_latents, dtype=torch.bool)

    def loss() -> torch.Tensor:
        found = sae.loss(x, dead, target(sae, x))
        return found.get("fvu", found["total"])

    weights = {name: tensor.requires_grad_(True) for name, tensor in sae.weights().items()}
    grads = dict(zip(weights, torch.autograd.grad(loss(), weights.values(), allow_unused=True), strict=True))
    draw, step = torch.Generator().manual_seed(2), 1e-7
    for name, weight in weights.items():
        if name in STRAIGHT_THROUGH.get(sae.spec.kind, ()) or grads[name] is None:
            continue
        way, found = torch.randn(weight.shape, generator=draw, dtype=torch.float64), []
        for sign in (1, -1):
            with torch.no_grad():
                weight += sign * step * way
                found.append(loss())
                weight -= sign * step * way
        slope = (found[0] - found[1]) / (2 * step)
        torch.testing.assert_close((grads[name] * way).sum(), slope, atol=1e-6, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("dead", [False, True], ids=["alive", "dead"])
def test_losses_and_gradients_are_the_same_by_sparse_and_by_dense_products(sae, dead, monkeypatch):
    shaken(sae)
    x, dead_N = planted(40, 1).double(), torch.arange(sae.n_latents) % 3 == 0
    found = []
    for crowded in (2.0, -1.0):  # no batch is that full; every batch is
        monkeypatch.setattr(pairs, "CROWDED", crowded)
        weights = {name: tensor.detach().requires_grad_(True) for name, tensor in sae.weights().items()}
        losses = sae.load(weights).loss(x, dead_N & dead, target(sae, x), sparsity=0.7)
        losses["total"].backward()
        grads = {name: tensor.grad for name, tensor in weights.items() if tensor.grad is not None}
        found.append({**{f"d {n}": g for n, g in grads.items()}, **{n: v.detach() for n, v in losses.items()}})
    torch.testing.assert_close(found[0], found[1], atol=1e-10, rtol=1e-8)


def test_the_loss_reaches_every_weight_that_trains(sae):
    before = {name: tensor.clone() for name, tensor in sae.weights().items()}
    train(sae, range(2))
    still = {name for name, tensor in sae.weights().items() if torch.equal(tensor, before[name])}
    assert not still


def test_what_a_step_reports_is_of_the_weights_before_it(kind):
    sae, x = build(kind), planted(128, 3)
    if "threshold" in sae.names():
        pytest.skip("its threshold is what training saw on average, and not in this batch")
    learner, _ = train(sae, range(30))
    held = {name: tensor.detach().clone() for name, tensor in sae.weights().items()}
    found = learner.step(x, 1e-3)
    latents = sae.load(held).encode(x)
    fvu = (sae.decode(latents, x) - x).square().sum() / (x - x.mean(0)).square().sum()
    torch.testing.assert_close(found["fvu"], fvu, atol=1e-4, rtol=1e-3)
    # bfloat16 may miss a latent that hardly fires
    torch.testing.assert_close(found["l0"].float(), (latents.value_BK > 0).sum() / len(x), atol=0.05, rtol=0)


def test_its_own_learner_takes_the_steps_that_autograd_takes_on_its_loss(sae):
    other = sae.spec.build(D, 3, sae.d_out)
    own, _ = train(sae, range(6))
    if isinstance(own, AutogradLearner):
        pytest.skip("it has no learner of its own")
    trained = own.sae.TRAINED
    train(other, range(6), AutogradLearner(other, 512))
    for name in trained & set(sae.names()):
        torch.testing.assert_close(getattr(sae, name), getattr(other, name).detach(), atol=1e-4, rtol=1e-3)


def test_training_explains_planted_directions(kind):
    sae = build(kind)
    learner, _ = train(sae, range(1), dead_after_tokens=4096)
    _, last = train(sae, range(1, 150), learner, lr=4e-3)
    assert last["fvu"] < 0.5 and last["l0"] < 0.6 * sae.n_latents


def test_a_learner_that_is_resumed_goes_on_bit_for_bit(sae):
    other = sae.spec.build(D, 8, sae.d_out)
    one, _ = train(sae, range(4))
    held = {name: tensor.clone() for name, tensor in one.state().items()}
    two = other.learner(dead_after_tokens=512)
    two.load_state(held)
    train(sae, range(4, 8), one)
    train(other, range(4, 8), two)
    for name, tensor in one.state().items():
        assert torch.equal(tensor, two.state()[name]), name


def test_revived_latents_look_along_their_directions_and_begin_anew(sae):
    learner, _ = train(sae, range(6))
    which, way = torch.tensor([2, 11]), planted(2, 40)
    before = {name: tensor.clone() for name, tensor in learner.state().items()}
    learner.revive(which, way)
    after = learner.state()
    cosine = torch.nn.functional.cosine_similarity(sae.W_enc_ND[which], way)
    torch.testing.assert_close(cosine.detach(), torch.ones(2), atol=1e-5, rtol=0)
    assert (learner.silent_N[which] == 0).all()
    moments = [n for n in after if "W_enc_ND" in n and n not in ("W_enc_ND",) and after[n].dim() == 2]
    assert len(moments) == 2 and all((after[n][which] == 0).all() for n in moments)
    others = torch.ones(sae.n_latents, dtype=torch.bool).index_fill(0, which, False)
    for name, tensor in after.items():
        rows = others if tensor.dim() and len(tensor) == sae.n_latents else slice(None)
        assert not tensor.dim() or torch.equal(tensor[rows], before[name][rows]), name
    train(sae, range(6, 8), learner)
    assert all(tensor.isfinite().all() for tensor in sae.weights().values())


def test_clipped_gradients_move_nothing_and_rough_products_change_little(kind):
    held, clear, rough = (build(kind) for _ in range(3))
    before = held.W_enc_ND.clone()
    train(held, range(2), clip_norm=1e-14)  # so far below Adam's epsilon that no step is left of it
    torch.testing.assert_close(held.W_enc_ND.detach(), before, atol=2e-5, rtol=0)
    _, exact = train(clear, range(20))
    _, found = train(rough, range(20), autocast=True)
    assert abs(found["fvu"] - exact["fvu"]) < 0.05 * exact["fvu"]
    assert all(tensor.dtype == torch.float32 for tensor in rough.weights().values())


def test_with_unit_rows_it_gives_back_the_same(sae):
    x = planted(30, 2).double()
    before = shaken(sae).decode(sae.encode(x), x)
    sae.with_unit_rows()
    torch.testing.assert_close(sae.W_dec_ND.norm(dim=-1), torch.ones(sae.n_latents, dtype=torch.float64))
    if not getattr(sae.spec, "rescale_by_row_norm", True):
        return  # latents that compete by their pre-activations are other ones when rows had other lengths: training keeps them at 1
    torch.testing.assert_close(sae.decode(sae.encode(x), x), before, atol=1e-10, rtol=0)
    held = sae.W_dec_ND.clone()
    assert torch.equal(sae.with_unit_rows().W_dec_ND, held)


def test_trained_it_has_rows_of_length_1_or_says_that_they_are_free(kind):
    sae = build(kind)
    train(sae, range(3))
    lengths = sae.W_dec_ND.detach().norm(dim=-1)
    assert torch.allclose(lengths, torch.ones_like(lengths), atol=1e-5) == sae.UNIT_ROWS


def test_saved_and_opened_it_gives_the_same_latents_for_raw_activations(sae, tmp_path):
    norm = FittedNorm(RMS(), {"mean": torch.randn(D), "scale": torch.tensor(2.5)})
    if sae.d_out != sae.d_in:
        norm = FittedNorm(decode("tasks.norms", {"kind": "none"}, "norm"), {})
    train(sae, range(2))
    before = TrainedSAE(sae, norm, "layers.1")
    before.save(tmp_path)
    after = TrainedSAE.open(SimpleNamespace(path=tmp_path))
    x = planted(20, 1) * 3 + 1
    assert torch.equal(before.encode(x).index_BK, after.encode(x).index_BK)
    assert torch.equal(before.reconstruct(x), after.reconstruct(x))
    assert (after.hookpoint, after.n_latents, after.d_in, after.sae.d_out) == ("layers.1", 4 * D, D, sae.d_out)
    assert after.sae.spec == sae.spec


@pytest.mark.skipif(importlib.util.find_spec("tasks.formats.base") is None, reason="no format is here that writes SAEs")
def test_every_format_that_holds_the_kind_reads_back_what_it_wrote(kind, tmp_path):
    from tasks.formats.base import formats, opened, portable

    sae, x = build(kind), planted(20, 1)
    train(sae, range(3))
    sae = sae.spec.holding({name: tensor.detach() for name, tensor in sae.with_unit_rows().weights().items()})
    for name, format in formats().items():
        if kind in format.WRITES:
            (tmp_path / name).mkdir()
            format.write(portable(sae, "layers.1", {}), tmp_path / name)
            again = opened(tmp_path / name, name).sae
            torch.testing.assert_close(dense(again, again.encode(x)), dense(sae, sae.encode(x)), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(again.decode(again.encode(x)), sae.decode(sae.encode(x)), atol=1e-5, rtol=1e-5)
