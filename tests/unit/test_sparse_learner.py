"""The learner without autograd is held against the dense definitions: every kind, option and loss term."""

from __future__ import annotations

import pytest
import torch

from tasks.learning.base import fires_in
from tasks.learning.sparse import SparseLearner
from tasks.saes.base import Latents
from tasks.saes.batchtopk import BatchTopK, largest_of_batch
from tasks.saes.matryoshka import Matryoshka
from tasks.saes.topk import TopK
from tasks.sparse import Search
from tasks.spec import SpecError

D, N, DEAD = 16, 64, 120
SMALL = {"n_latents": N, "expansion_factor": None, "k": 4, "k_aux": 8}
VARIANTS = {
    "topk": (TopK(**SMALL), {}),
    "topk clipped": (TopK(**SMALL), {"clip_norm": 0.05}),
    "topk with fewer latents by now": (TopK(**SMALL), {"k": 3}),
    "groupmax": (TopK(**SMALL, groupmax=True), {}),
    "multi topk": (TopK(**SMALL, multi_topk=True), {}),
    "topk, free rows": (TopK(**SMALL, rescale_by_row_norm=True), {}),
    "topk, free rows, clipped": (TopK(**SMALL, rescale_by_row_norm=True), {"clip_norm": 0.05}),
    "skip transcoder": (TopK(**SMALL, skip=True, subtract_b_dec=False), {"d_out": 12}),
    "transcoder of equal widths": (TopK(**SMALL, subtract_b_dec=False), {"d_out": D}),
    "batchtopk": (BatchTopK(**{**SMALL, "k": 3.5}), {}),
    "crosscoder": (BatchTopK(**SMALL, rescale_by_row_norm=True, blocks=2), {}),
    "batchtopk with fewer latents by now": (BatchTopK(**SMALL), {"k": 1.3}),
    "matryoshka": (Matryoshka(**SMALL, prefixes=(0.25, 0.5, 1.0)), {}),
    "matryoshka transcoder": (Matryoshka(**SMALL, prefixes=(0.1, 1.0), subtract_b_dec=False), {"d_out": 8, "clip_norm": 0.1}),
}


def rows(n: int = 64, d: int = D, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=draw) * torch.linspace(0.2, 2.0, d) + 0.1


def targets(x: torch.Tensor, d_out: int | None) -> torch.Tensor | None:
    if d_out is None:
        return None
    return (x @ torch.randn(x.shape[1], d_out, generator=torch.Generator().manual_seed(5)).to(x.dtype)).tanh() + 0.2


def chosen(sae, x, k):
    """The active latents in training, by the dense definition."""
    pre = sae.inner(x) @ sae.W_enc_ND.T + sae.b_enc_N
    scale = sae.scale_N()
    groups = sae.chosen(pre if scale is None else pre * scale, k)
    mask = sum(mask for _, mask in groups[: len(groups) if sae.main() < 0 else 1])
    return Latents(torch.arange(N).expand(len(x), N), pre.relu() * mask)


@pytest.mark.parametrize("name", VARIANTS)
def test_thirty_steps_equal_autograd_and_torch_adam_on_the_dense_definition(name):
    spec, options = VARIANTS[name]
    d_out, k, clip = options.get("d_out"), options.get("k"), options.get("clip_norm")
    # float64: a choice between near ties would send two runs apart
    ours, dense = (spec.build(D, d_out=d_out).to(dtype=torch.float64) for _ in range(2))
    learner = SparseLearner(ours, dead_after_tokens=DEAD, bf16=False, clip_norm=clip)
    weights = [w.requires_grad_(True) for n, w in dense.weights().items() if n in dense.TRAINED]
    adam = torch.optim.Adam(weights, lr=1e-2)
    silent, ever_dead = torch.zeros(N, dtype=torch.int64), False
    for step in range(30):
        x = rows(seed=step).double()
        y = targets(x, d_out)
        found = learner.step(x, 1e-2, y, k=k)
        losses = dense.loss(x, silent >= DEAD, y, k=k)
        adam.zero_grad()
        losses["total"].backward()
        with torch.no_grad():
            latents = chosen(dense, x, spec.k if k is None else k)
            W = dense.W_dec_ND
            if dense.UNIT_ROWS:
                W.grad -= (W.grad * W).sum(-1, keepdim=True) * W
            if clip is not None:
                assert torch.nn.utils.clip_grad_norm_(weights, clip) > clip, "the test must clip"
            adam.step()
            if dense.UNIT_ROWS:
                W /= W.norm(dim=-1, keepdim=True)
            silent += len(x)
            silent[fires_in(latents, N)] = 0
            ever_dead |= bool((silent >= DEAD).any())
        torch.testing.assert_close(found["loss"], losses["total"].detach(), atol=1e-7, rtol=1e-7)
        torch.testing.assert_close(found["aux_loss"], losses["aux_loss"].detach(), atol=1e-7, rtol=1e-7)
        assert found["l0"].item() == pytest.approx((latents.value_BK > 0).sum().item() / len(x))
        assert torch.equal(learner.silent_N, silent)
    for name, mine in ours.weights().items():
        if name in ours.TRAINED:
            torch.testing.assert_close(mine, getattr(dense, name).detach(), atol=1e-7, rtol=1e-6)
    assert ever_dead, "the test must see dead latents, or AuxK was never exercised"


@pytest.mark.parametrize("name", [name for name in VARIANTS if "clipped" not in name])
@pytest.mark.parametrize("term", ["main", "aux"])
def test_in_float64_gradients_are_those_of_autograd_and_each_term_reaches_what_it_should(name, term):
    spec, options = VARIANTS[name]
    d_out, k = options.get("d_out"), options.get("k")
    spec = spec.model_copy(update={"aux_coefficient": 0.0 if term == "main" else 1e6})
    ours, dense = (spec.build(D, d_out=d_out).to(dtype=torch.float64) for _ in range(2))
    for sae in (ours, dense):  # away from the symmetric start, rows of several lengths where they are free
        draw = torch.Generator().manual_seed(3)
        for weight in (sae.b_enc_N, sae.b_dec_D, sae.W_enc_ND):
            weight += 0.1 * torch.randn(weight.shape, generator=draw, dtype=torch.float64)
        if not sae.UNIT_ROWS:
            sae.W_dec_ND *= 0.5 + torch.rand(N, 1, generator=draw, dtype=torch.float64)
    silent = torch.where(torch.arange(N) % 3 == 0, DEAD, 0)
    # beta1 = 0: the first moment after one step is the gradient
    learner = SparseLearner(ours, dead_after_tokens=DEAD, betas=(0.0, 0.999), bf16=False)
    learner._silent += silent
    x = rows(seed=9).double()
    y = targets(x, d_out)
    weights = {n: w.requires_grad_(True) for n, w in dense.weights().items() if n in dense.TRAINED}
    dense.loss(x, silent >= DEAD, y, k=k)["total"].backward()
    if dense.UNIT_ROWS:
        W = dense.W_dec_ND
        W.grad -= (W.grad * W.detach()).sum(-1, keepdim=True) * W.detach()
    learner.step(x, 0.0, y, k=k)
    for name_, weight in weights.items():
        torch.testing.assert_close(learner._moments[name_][0], weight.grad, rtol=1e-9, atol=1e-12)
    reached = {n for n, w in weights.items() if w.grad.abs().max() > 0}
    # AuxK meets the output bias only through x - b_dec, for the residual that it models is detached
    assert reached == set(weights)
    if term == "aux":
        dead = silent >= DEAD
        for name_ in ("W_enc_ND", "b_enc_N", "W_dec_ND"):
            grad = weights[name_].grad.abs()
            assert grad[dead].max() > 100 * grad[~dead].max(), f"AuxK must reach {name_} of dead latents"


@pytest.mark.parametrize("guess", [None, 1e9, 0.0])
@pytest.mark.parametrize("bf16", [False, True])
def test_the_largest_of_a_batch_are_found_whatever_the_sample_says(guess, bf16, monkeypatch):
    draw = torch.Generator().manual_seed(0)
    W, x = torch.nn.functional.normalize(torch.randn(512, 32, generator=draw), dim=-1), torch.randn(200, 32, generator=draw)
    x[:50] *= 10  # most of the batch's largest are in some of its rows
    b, scale = 0.1 * torch.randn(512, generator=draw), 0.5 + torch.rand(512, generator=draw)
    if guess is not None:
        monkeypatch.setattr(Search, "guess", lambda self, x_BD, n: guess)
    for scale_N in (None, scale):
        pairs, least = largest_of_batch(x, Search(W, b, W.bfloat16() if bf16 else None, scale_N), 1600)
        score = (x @ W.T + b) * (1 if scale_N is None else scale)
        want = score.view(-1).topk(1600)
        assert set((pairs.row_P() * 512 + pairs.index_P).tolist()) == set(want.indices.tolist())
        torch.testing.assert_close(least, want.values[-1], rtol=1e-5, atol=1e-5)


def test_a_batch_without_a_score_above_zero_has_no_pair():
    pairs, least = largest_of_batch(torch.ones(4, 8), Search(-torch.ones(32, 8), torch.zeros(32)), 8)
    assert len(pairs.index_P) == 0 and least is None
    few, _ = largest_of_batch(torch.ones(4, 8), Search(-torch.ones(32, 8), 8.0 + (torch.arange(32) == 3).float()), 8)
    assert few.index_P.tolist() == [3] * 4, "fewer than asked for, where fewer are active"


def planted(n: int, seed: int, d: int = 32) -> torch.Tensor:
    """Sparse sums of 2 d directions."""
    draw = torch.Generator().manual_seed(seed)
    truth = torch.nn.functional.normalize(torch.randn(2 * d, d, generator=torch.Generator().manual_seed(9)), dim=-1)
    return (torch.rand(n, 2 * d, generator=draw) * (torch.rand(n, 2 * d, generator=draw) < 0.06)) @ truth


@pytest.mark.parametrize("kind", [BatchTopK, Matryoshka])
def test_the_threshold_learnt_gives_at_inference_what_training_saw(kind):
    sae = kind(n_latents=128, expansion_factor=None, k=4).build(32)
    learner = sae.learner(dead_after_tokens=10**4)
    seen = [learner.step(planted(256, step), 3e-3 if step < 200 else 3e-4) for step in range(350)]
    latents = sae.encode(planted(2000, 10**6))
    l0 = (latents.value_BK > 0).sum().item() / 2000
    assert l0 == pytest.approx(4, rel=0.1) and sae.threshold > 0
    x = planted(2000, 10**6)
    error = (sae.decode(latents) - x).square().sum() / (x - x.mean(0)).square().sum()
    assert error.item() == pytest.approx(torch.stack([s["fvu"] for s in seen[-20:]]).mean().item(), rel=0.15)


@pytest.mark.parametrize("kind", [TopK, BatchTopK])
def test_searching_in_bfloat16_trains_as_well_as_the_dense_definition(kind):
    spec, curves = kind(n_latents=256, expansion_factor=None, k=4), []
    for bf16 in (False, True):
        learner = SparseLearner(spec.build(32), dead_after_tokens=5000, bf16=bf16)
        curves.append(torch.stack([learner.step(planted(256, step), 3e-3)["fvu"] for step in range(200)]))
    plain, fast = (curve[-40:].mean().item() for curve in curves)
    # two seeds of the same run differ by 2%
    assert fast == pytest.approx(plain, rel=0.02) and plain < 0.5 * curves[0][0].item()


def test_revived_latents_point_where_they_are_told_and_begin_afresh():
    sae = TopK(**SMALL).build(D)
    learner = SparseLearner(sae, dead_after_tokens=1, bf16=True)
    for step in range(3):
        learner.step(rows(seed=step), 1e-2)
    which, towards = torch.tensor([3, 40]), rows(2, seed=7)
    learner.revive(which, towards)
    unit = torch.nn.functional.normalize(towards, dim=-1)
    for rows_nD in (sae.W_enc_ND[which], sae.W_dec_ND[which]):
        torch.testing.assert_close(torch.nn.functional.normalize(rows_nD, dim=-1), unit)
    assert not sae.b_enc_N[which].any() and not learner.silent_N[which].any()
    assert torch.equal(learner._shadow, sae.W_enc_ND.bfloat16())
    state = learner.state()
    assert not any(state[f"{m}.{w}"][which].any() for m in ("first", "second") for w in ("W_enc_ND", "W_dec_ND", "b_enc_N"))
    assert state["first.W_enc_ND"].any()
    wide = TopK(**SMALL, subtract_b_dec=False).build(D, d_out=8)
    before = wide.W_dec_ND.clone()
    SparseLearner(wide).revive(which, towards)
    torch.testing.assert_close(torch.nn.functional.normalize(wide.W_enc_ND[which], dim=-1), unit)
    assert torch.equal(wide.W_dec_ND, before), "directions of the input fit the encoder only"


def test_free_rows_are_chosen_by_pre_activation_times_length_in_every_encoder():
    for spec in (TopK(**SMALL, rescale_by_row_norm=True), BatchTopK(**SMALL, rescale_by_row_norm=True)):
        sae = spec.build(D)
        with torch.no_grad():
            sae.W_dec_ND *= torch.linspace(0.1, 3, N)[:, None]
        if spec.kind == "batchtopk":
            sae.threshold.fill_(1.5)
        x = rows(seed=1)
        latents = sae.encode(x)
        unit = spec.holding({n: w.clone() for n, w in sae.weights().items()}).with_unit_rows()
        torch.testing.assert_close(unit.decode(unit.encode(x)), sae.decode(latents))
        score = (sae.inner(x) @ sae.W_enc_ND.T + sae.b_enc_N) * sae.W_dec_ND.norm(dim=-1)
        kept = score.topk(4).values[:, -1:] if spec.kind == "topk" else torch.full((64, 1), 1.5)
        active = torch.zeros(64, N).scatter(1, latents.index_BK, latents.value_BK) > 0
        assert torch.equal(active, (score >= kept) & (score > 0))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"k": 5, "groupmax": True}, "sae.k = 5, but 64 latents are not 5 equal groups"),
        ({"k": 20, "multi_topk": True}, "sae.k = 20, but sae.multi_topk takes 4 k latents of 64"),
        ({"groupmax": True, "multi_topk": True}, "sae.multi_topk = true, but sae.groupmax"),
        ({"blocks": 3}, "sae.blocks = 3, but decoder rows of 16 numbers are not that many equal parts"),
    ],
)
def test_numbers_that_do_not_fit_are_refused_in_one_sentence(fields, message):
    with pytest.raises(SpecError, match=message):
        TopK(**{**SMALL, **fields}).check(D)


def test_prefixes_ascend_to_one():
    for prefixes in ((0.5, 0.5, 1.0), (0.5, 0.25, 1.0), (0.5,), (0.0, 1.0)):
        with pytest.raises(ValueError, match="prefixes ascend from above 0 and end at 1"):
            Matryoshka(prefixes=prefixes)


def test_encoder_rows_begin_at_the_length_that_is_asked_for_and_decoder_rows_at_one():
    sae = BatchTopK(**SMALL, encoder_scale=0.3).build(D, seed=1)
    torch.testing.assert_close(sae.W_enc_ND, 0.3 * sae.W_dec_ND)
    torch.testing.assert_close(sae.W_dec_ND.norm(dim=-1), torch.ones(N))
    assert "encoder_scale" not in BatchTopK(**SMALL).payload()  # keys of before it was there
