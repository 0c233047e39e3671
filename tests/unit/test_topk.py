"""TopK: the fast learner is held against the dense definition under autograd and torch's own Adam."""

from __future__ import annotations

import pytest
import torch

from tasks.learning.autograd import AutogradLearner
from tasks.learning.base import fires_in
from tasks.learning.sparse import SparseLearner as TopKLearner
from tasks.saes.topk import TopK
from tasks.sparse import encode_topk, sampled_product, topk_rows, transposed, weighted_rows
from tasks.spec import SpecError


def rows(n: int = 64, d: int = 16, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=draw) * torch.linspace(0.2, 2.0, d) + 0.1


@pytest.mark.parametrize("n, k", [(64, 1), (512, 4), (8192, 32), (8190, 32), (100, 100)])
def test_the_grouped_top_k_picks_what_the_plain_one_picks(n, k):
    pre = torch.randn(7, n, generator=torch.Generator().manual_seed(n))
    value, index = topk_rows(pre, k)
    want = pre.topk(k, dim=-1).values
    assert torch.equal(value.sort(descending=True).values, want)
    assert torch.equal(pre.gather(1, index), value)
    assert all(len(set(row)) == k for row in index.tolist())


def test_searching_in_bfloat16_gives_float32_values_and_nearly_always_the_same_choice():
    draw = torch.Generator().manual_seed(0)
    W = torch.nn.functional.normalize(torch.randn(2048, 64, generator=draw), dim=-1)
    x, b = torch.randn(256, 64, generator=draw), 0.1 * torch.randn(2048, generator=draw)
    _, index = encode_topk(x, W, b, 16)
    value16, index16 = encode_topk(x, W, b, 16, W.bfloat16())
    same = sum(len(set(a) & set(c)) for a, c in zip(index.tolist(), index16.tolist(), strict=True)) / index.numel()
    assert same > 0.999
    exact = (x @ W.T + b).gather(1, index16)
    # the sums run in another order than the matmul's: float32 rounding and no more
    torch.testing.assert_close(value16, exact, atol=1e-5, rtol=1e-5)


def test_sparse_products_are_the_dense_ones():
    draw = torch.Generator().manual_seed(1)
    W, x = torch.randn(50, 8, generator=draw), torch.randn(20, 8, generator=draw)
    index = torch.stack([torch.randperm(50, generator=draw)[:5] for _ in range(20)])
    value = torch.randn(20, 5, generator=draw)
    dense = torch.zeros(20, 50).scatter(1, index, value)
    torch.testing.assert_close(weighted_rows(index, W, value), dense @ W)
    torch.testing.assert_close(sampled_product(x, W, index), (x @ W.T).gather(1, index))
    row = torch.arange(20).repeat_interleave(5)
    found = transposed(index.reshape(-1), 50)
    torch.testing.assert_close(found.product_of(W, x, row[found.order_P]), (x @ W.T)[row, index.reshape(-1)][found.order_P])
    for block in (7, 50, 64):
        grad = torch.zeros(50, 8)
        for where, part in found.rows_of(x, row, value.reshape(-1), block):
            grad[where] = part
        torch.testing.assert_close(grad, dense.T @ x)


@pytest.mark.parametrize("aux", [0.0, 1 / 32])
def test_thirty_steps_equal_autograd_and_torch_adam_on_the_dense_definition(aux):
    spec = TopK(k=4, n_latents=64, expansion_factor=None, aux_coefficient=aux, k_aux=8)
    ours, dense = spec.build(16), spec.build(16)
    learner = TopKLearner(ours, dead_after_tokens=120, bf16=False)
    weights = [w.requires_grad_(True) for w in dense.weights().values()]
    adam = torch.optim.Adam(weights, lr=1e-2)
    silent, ever_dead = torch.zeros(64, dtype=torch.int64), False
    for step in range(30):
        x = rows(seed=step)
        found = learner.step(x, 1e-2)
        losses = dense.loss(x, silent >= 120)
        adam.zero_grad()
        losses["total"].backward()
        with torch.no_grad():
            fired = fires_in(dense.encode(x), 64)
            W = dense.W_dec_ND
            W.grad -= (W.grad * W).sum(-1, keepdim=True) * W
            adam.step()
            W /= W.norm(dim=-1, keepdim=True)
            silent += len(x)
            silent[fired] = 0
            ever_dead |= bool((silent >= 120).any())
        torch.testing.assert_close(found["loss"], losses["total"].detach(), atol=1e-5, rtol=1e-5)
        assert torch.equal(learner.silent_N, silent)
    for name, mine in ours.weights().items():
        torch.testing.assert_close(mine, getattr(dense, name).detach(), atol=5e-5, rtol=1e-3)
    assert ever_dead, "the test must see dead latents, or AuxK was never exercised"


def test_aux_k_moves_the_encoder_of_a_dead_latent_and_the_main_loss_does_not():
    moved = {}
    for aux in (0.0, 1.0):
        sae = TopK(k=2, n_latents=32, expansion_factor=None, aux_coefficient=aux, k_aux=16).build(16)
        sae.b_enc_N[5:] = -1.0  # still fires under AuxK, never among the two largest
        sae.b_enc_N[:5] = 5.0
        learner = TopKLearner(sae, dead_after_tokens=1, bf16=False)
        learner._silent[5:] = 10
        before = sae.W_enc_ND.clone()
        learner.step(rows(seed=3), 1e-2)
        moved[aux] = (sae.W_enc_ND[5:] - before[5:]).abs().sum().item()
    assert moved[0.0] == 0.0 and moved[1.0] > 0.0


def test_decoder_rows_keep_unit_norm_per_latent():
    sae = TopK(k=4, n_latents=64, expansion_factor=None).build(16)
    learner = sae.learner(dead_after_tokens=10**6)
    for step in range(5):
        learner.step(rows(seed=step), 1e-1)
    torch.testing.assert_close(sae.W_dec_ND.norm(dim=1), torch.ones(64), atol=1e-6, rtol=0)


def test_k_above_the_number_of_latents_is_refused_in_one_sentence():
    with pytest.raises(SpecError, match=r"sae.k = 600, but there are 512 latents \(8 x d_in 64\); use a smaller k"):
        TopK(k=600, expansion_factor=8).check(64)


def test_the_autograd_learner_trains_the_same_kind_to_the_same_place():
    spec = TopK(k=4, n_latents=64, expansion_factor=None, aux_coefficient=0.0)
    fast, slow = spec.build(16), spec.build(16)
    a, b = TopKLearner(fast, 10**9, bf16=False), AutogradLearner(slow, 10**9)
    for step in range(20):
        one, other = a.step(rows(seed=step), 3e-3), b.step(rows(seed=step), 3e-3)
    # the autograd learner measures its FVU after the step
    assert other["fvu"].item() < one["fvu"].item() + 0.02
    torch.testing.assert_close(fast.W_dec_ND, slow.W_dec_ND.detach(), atol=1e-3, rtol=1e-2)
