"""Training: schedules, options that do what they say, several SAEs from one read, and going on after an interruption."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from artifacts.shuffled import ShuffledRows
from artifacts.store import Store
from tasks.fitting import Fit, fitted
from tasks.learning.schedule import TrainSpec
from tasks.norms.none import NoNorm
from tasks.progress import Progress
from tasks.realising import SomeFailed, lanes, make_all, missing, units
from tasks.saes.batchtopk import BatchTopK
from tasks.saes.standard import Standard
from tasks.saes.topk import TopK
from tasks.spec import Runtime, SpecError
from tasks.trained import TrainedSAE
from tasks.train import train
from tests.captured import D, inputs, planted
from tests.making import make

QUICK = {"n_tokens": 6400, "batch_tokens": 64, "dead_after_tokens": 1000, "validate_every": 25, "lr": 3e-3}
INLINE = Runtime(mode="inline", device="cpu", prefetch_batches=0)


def spec(sae=None, **more) -> TrainSpec:
    return TrainSpec(sae=sae or TopK(k=3, n_latents=32), **{**QUICK, **more})


def fit_of(spec: TrainSpec, seed: int = 0) -> Fit:
    learner = spec.sae.build(D, seed).learner(**spec.learning())
    return Fit(spec, learner, [(planted(500, 99), None)])


def batches_of(spec: TrainSpec, rows: torch.Tensor | None = None):
    rows = planted(2000, 1) if rows is None else rows

    def batches(step: int):
        while True:
            at = torch.arange(step * spec.batch_tokens, (step + 1) * spec.batch_tokens) % len(rows)
            yield rows[at]
            step += 1

    return batches


def run(fits, until: int | None = None) -> None:
    stream = fitted(fits, batches_of(fits[0].spec), lambda rows: (rows, None))
    for _ in stream:
        if until is not None and min(fit.step for fit in fits) >= until:
            stream.close()
    for fit in fits:
        if fit.failure:
            raise fit.failure


def weights(fit: Fit) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in fit.finished().weights().items()}


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# what moves while training goes on


def test_the_learning_rate_rises_stays_and_falls_as_its_shape_says():
    common = {"n_tokens": 1000, "batch_tokens": 1, "warmup_fraction": 0.1, "decay_fraction": 0.5, "dead_after_tokens": 1}
    line, cosine = (TrainSpec(sae=TopK(), **common, decay=decay) for decay in ("linear", "cosine"))
    flat = TrainSpec(sae=TopK(), **{**common, "decay_fraction": 0}, decay="none")
    assert [line.schedule(s) for s in (0, 49, 99, 500, 750, 999)] == pytest.approx([0.01, 0.5, 1, 1, 0.5, 0.002])
    assert [cosine.schedule(s) for s in (49, 500, 750)] == pytest.approx([0.5, 1, 0.5])
    assert cosine.schedule(625) == pytest.approx((1 + math.cos(math.pi / 4)) / 2) and cosine.schedule(999) < 1e-4
    assert [flat.schedule(s) for s in (0, 99, 999)] == pytest.approx([0.01, 1, 1])


def test_sparsity_rises_from_nothing_and_k_comes_to_its_own():
    common = {"n_tokens": 100, "batch_tokens": 1, "dead_after_tokens": 1}
    rising = TrainSpec(sae=Standard(), sparsity_warmup_fraction=0.5, **common)
    assert [rising.annealed(s).get("sparsity", 1.0) for s in (0, 24, 49, 99)] == pytest.approx([0.02, 0.5, 1, 1])
    falling = TrainSpec(sae=TopK(k=4), k_start=24, k_anneal_fraction=0.2, **common)
    assert [falling.annealed(s).get("k") for s in (0, 5, 10, 19, 20, 99)] == [24, 19, 14, 5, None, None]


def test_k_that_falls_is_the_number_of_latents_that_are_active():
    fit = fit_of(spec(k_start=20, k_anneal_fraction=0.5, validate_every=1))
    run([fit])
    l0 = [row["l0"] for row in fit.log if row["split"] == "train"]
    assert l0[0] > 12 and l0[-1] <= 3 and l0[0] > l0[20] > l0[49]


def test_sparsity_that_rises_lets_more_latents_fire_at_first():
    first = {}
    for share in (0.0, 1.0):
        fit = fit_of(spec(Standard(n_latents=32, l1_coefficient=3.0), sparsity_warmup_fraction=share, validate_every=1))
        run([fit], until=30)
        first[share] = fit.log[-1]["l0"]
    assert first[1.0] > 1.2 * first[0.0]


# options that would change nothing


@pytest.mark.parametrize(
    "sae, given, said",
    [
        (TopK(), {"sparsity_warmup_fraction": 0.1}, r"sparsity_warmup_fraction = 0.1, but sae=topk has no sparsity coefficient"),
        (Standard(), {"k_start": 9, "k_anneal_fraction": 0.1}, r"train.k_start = 9, but sae=standard has no k"),
        (TopK(k=4), {"k_start": 9}, r"k_start = 9, but train.k_anneal_fraction is 0.0; give both, or neither"),
        (TopK(k=4), {"k_anneal_fraction": 0.2}, r"k_start = None, but train.k_anneal_fraction is 0.2"),
        (TopK(k=4), {"k_start": 4, "k_anneal_fraction": 0.2}, r"k_start = 4, but sae.k is the same"),
        (TopK(), {"decay": "none", "decay_fraction": 0.5}, r"decay_fraction = 0.5, but train.decay is none"),
        (TopK(), {"revive_every_tokens": 5000}, r"revive_every_tokens = 5000, but of 6400 tokens no such stretch ends"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(sae, given, said):
    with pytest.raises(ValueError, match=said):
        spec(sae, **given)


def test_options_that_stand_as_they_always_did_are_not_in_the_key():
    plain = spec().payload()
    added = {"decay", "betas", "ema", "clip_norm", "autocast", "k_start", "k_anneal_fraction", "sparsity_warmup_fraction", "revive_every_tokens"}
    assert not added & set(plain)
    assert spec(ema=0.99, betas=(0.8, 0.99)).payload().items() >= {"ema": 0.99, "betas": [0.8, 0.99]}.items()


# what is kept at the end


def test_the_average_of_the_weights_is_what_is_validated_and_saved():
    fit = fit_of(spec(ema=0.9, n_tokens=640))
    averages = {name: w.clone() for name, w in fit.learner.sae.weights().items()}
    stream = fitted([fit], batches_of(fit.spec), lambda rows: (rows, None))
    for step, _ in enumerate(stream, 1):
        keep = min(0.9, step / (step + 9))
        averages = {name: keep * a + (1 - keep) * fit.learner.sae.weights()[name] for name, a in averages.items()}
    length_N = averages["W_dec_ND"].norm(dim=-1, keepdim=True)
    found = fit.finished()
    torch.testing.assert_close(found.W_dec_ND, averages["W_dec_ND"] / length_N)
    torch.testing.assert_close(found.W_enc_ND, averages["W_enc_ND"] * length_N)
    assert not torch.allclose(found.W_dec_ND, fit.learner.sae.W_dec_ND, atol=1e-4)
    assert fit.log[-1]["fvu"] == pytest.approx(fit._validated(found)["fvu"], rel=1e-6)


def test_free_decoder_rows_have_length_one_in_the_end_and_reconstruct_the_same():
    fit = fit_of(spec(Standard(n_latents=32)))
    run([fit])
    before = fit._validated(fit.learner.sae)
    assert not torch.allclose(fit.learner.sae.W_dec_ND.norm(dim=-1), torch.ones(32), atol=1e-2)
    found = fit.finished()
    torch.testing.assert_close(found.W_dec_ND.norm(dim=-1), torch.ones(32))
    assert fit.log[-1]["fvu"] == pytest.approx(before["fvu"], rel=1e-4) and fit.log[-1]["l0"] == pytest.approx(before["l0"])


def test_dead_latents_are_revived_along_rows_that_are_reconstructed_badly():
    dead = {}
    for every in (None, 1600):
        sae = TopK(k=3, n_latents=256, aux_coefficient=0)
        fit = fit_of(spec(sae, revive_every_tokens=every, n_tokens=9600))
        seen = []
        revive = fit.learner.revive
        fit.learner.revive = lambda latent, direction: (seen.append((fit.step, len(latent), direction)), revive(latent, direction))
        run([fit])
        dead[every] = fit.log[-1]["dead_fraction"]
        if every:
            assert [step for step, *_ in seen] == [25, 50, 75, 100, 125]  # not at 150, the end: they could learn no more
            step, n, direction = seen[0]
            assert n <= 64 and direction.shape == (n, D)
    assert dead[1600] < 0.75 * dead[None]


# several from one read

KINDS = [TopK(k=3, n_latents=32), TopK(k=6, n_latents=48), BatchTopK(k=4, n_latents=32), Standard(n_latents=32)]


def recipes(saes=KINDS, **more):
    given = inputs()
    return [train(spec(sae, **more), **given) for sae in saes]


def made(store: Store, wanted, together: int) -> list[dict]:
    runtime = INLINE.model_copy(update={"saes_together": together})
    while todo := missing(wanted, store):
        absent = {r.artifact for r in todo}
        for lane in lanes([r for r in todo if absent.isdisjoint(p.artifact for p in r.parents())]):
            make_all(lane, store, runtime, Progress())
    return [store.open(recipe.artifact) for recipe in wanted]


def test_saes_trained_together_have_the_bits_of_those_trained_alone_and_rows_are_read_once(tmp_path, monkeypatch):
    reads = []
    batches = ShuffledRows.batches
    monkeypatch.setattr(ShuffledRows, "batches", lambda self, start=0: (reads.append(start), batches(self, start))[1])
    alone = made(Store.at(tmp_path / "alone"), recipes(), together=1)
    assert reads == [0] * 4
    reads.clear()
    together = made(Store.at(tmp_path / "together"), recipes(), together=4)
    assert reads == [0]
    for one, other in zip(alone, together, strict=True):
        assert same(*(load_file(found.path / "sae.safetensors") for found in (one, other)))
        assert {n: v for n, v in one.summary.items() if n != "tokens_per_second"} == {
            n: v for n, v in other.summary.items() if n != "tokens_per_second"
        }
        assert one.summary["fvu"] < 0.6


def test_one_that_cannot_be_made_leaves_the_others_alone(tmp_path):
    store = Store.at(tmp_path)
    wanted = recipes([TopK(k=3, n_latents=32), TopK(k=64, n_latents=32), TopK(k=4, n_latents=32)])
    with pytest.raises(SomeFailed, match="sae.k = 64, but there are 32 latents") as told:
        made(store, wanted, together=4)
    assert [recipe.artifact for recipe, _ in told.value.outcome.failed] == [wanted[1].artifact]
    assert [store.find(recipe.artifact) is not None for recipe in wanted] == [True, False, True]
    assert list(store.backend.paths("leases")) == []
    with pytest.raises(SpecError, match="sae.k = 64"):
        made(store, wanted[1:2], together=4)


def test_patience_of_one_does_not_stop_the_others():
    patient = spec(patience=2, n_tokens=64 * 400)
    stuck, learning = fit_of(patient), fit_of(patient.model_copy(update={"sae": TopK(k=4, n_latents=32)}))
    stuck._best = -1.0  # nothing can be better
    run([stuck, learning])
    assert stuck.step == 50 and learning.step > 50


def test_those_behind_come_up_to_the_others_and_end_with_the_same_bits():
    each = [spec(sae) for sae in KINDS[:3]]
    straight = [fit_of(one) for one in each]
    run(straight)
    uneven = [fit_of(one) for one in each]
    for fit, until in zip(uneven, (30, 70, 70), strict=True):
        run([fit], until=until)
    shown = [n for n, _ in fitted(uneven, batches_of(each[0]), lambda rows: (rows, None))]
    assert shown == [1] * 40 + [3] * 30
    assert all(same(weights(one), weights(other)) for one, other in zip(straight, uneven, strict=True))


def test_a_sweep_is_cut_so_that_every_process_has_some():
    given = inputs()
    sweep = [train(spec(TopK(k=k, n_latents=32)), **given) for k in range(1, 13)]

    def sizes(of, **how):
        return [len(unit) for unit in units(of, **how)]

    assert sizes(sweep, most=4) == [4, 4, 4]
    assert sizes(sweep, most=4, abreast=4) == [3, 3, 3, 3]
    assert sizes(sweep, most=4, abreast=8) == [1, 2, 1, 2, 1, 2, 1, 2]
    assert sizes(sweep, most=1) == sizes(sweep, most=4, abreast=99) == [1] * 12
    assert sizes(sweep[:4], most=4, abreast=4) == [1] * 4
    assert sizes(sweep[:5], most=4) == [2, 3]
    assert len(lanes(sweep)) == 1
    other = [train(spec(TopK(k=k, n_latents=32), seed=1), **given) for k in range(1, 5)]
    assert sizes(sweep + other, most=4, abreast=4) == [4, 4, 4, 4]


# interruptions

EVERYTHING = [
    (TopK(k=3, n_latents=64), {"ema": 0.95, "k_start": 12, "k_anneal_fraction": 0.8, "revive_every_tokens": 1600, "decay": "cosine"}),
    (BatchTopK(k=3, n_latents=64), {"ema": 0.95, "clip_norm": 0.1, "betas": (0.8, 0.99), "revive_every_tokens": 1600}),
    (Standard(n_latents=64), {"ema": 0.95, "sparsity_warmup_fraction": 0.9, "clip_norm": 0.1, "autocast": True, "decay": "none"}),
]


@pytest.mark.parametrize("sae, options", EVERYTHING)
def test_every_option_goes_on_from_a_checkpoint_bit_for_bit(tmp_path, sae, options):
    wanted = spec(sae, **options)
    straight, first, second = fit_of(wanted), fit_of(wanted), fit_of(wanted, seed=5)
    run([straight])
    run([first], until=37)
    first.save(tmp_path / "checkpoint")
    second.recover(tmp_path / "checkpoint", "cpu")
    assert second.step == 37 == second.saved_at
    run([second])
    assert same(weights(straight), weights(second))
    figures = [[{**row, "seconds": 0} for row in fit.log] for fit in (straight, second)]
    assert json.dumps(figures[0]) == json.dumps(figures[1])


@pytest.mark.parametrize("option", [{"clip_norm": 0.01}, {"betas": (0.5, 0.9)}, {"autocast": True}])
def test_options_of_the_learner_reach_it(option):
    with_it, without = fit_of(spec(Standard(n_latents=32), n_tokens=640, **option)), fit_of(spec(Standard(n_latents=32), n_tokens=640))
    run([with_it])
    run([without])
    assert not same(weights(with_it), weights(without))


# beginning with what there is


def test_training_goes_on_from_another_sae_under_its_norm(tmp_path):
    store = Store.at(tmp_path)
    first = train(spec(n_tokens=12800), **inputs())
    old = TrainedSAE.open(make(first, store, INLINE))
    more = train(spec(n_tokens=64, lr=1e-9), **inputs(n_shards=1), init=first)
    assert more.input_keys["init"] == first.address and more.key != train(spec(n_tokens=64, lr=1e-9), **inputs(n_shards=1)).key
    opened = make(more, store, INLINE)
    new = TrainedSAE.open(opened)
    torch.testing.assert_close(new.sae.W_dec_ND, old.sae.W_dec_ND, atol=1e-6, rtol=0)
    torch.testing.assert_close(new.sae.b_dec_D, old.sae.b_dec_D, atol=1e-6, rtol=0)
    assert all(torch.equal(new.norm.state[name], old.norm.state[name]) for name in old.norm.state)
    assert json.loads((opened.path / "sae.json").read_text())["init"] == str(first.artifact)


@pytest.mark.parametrize(
    "sae, norm, said",
    [
        (TopK(k=3, n_latents=48), None, r"an SAE with sae.n_latents 32, but this run has 48"),
        (BatchTopK(k=3, n_latents=32), None, r"an SAE with sae.kind 'topk', but this run has 'batchtopk'"),
        (TopK(k=3, n_latents=32, skip=True), None, r"an SAE with sae.skip False, but this run has True"),
        (TopK(k=3, n_latents=32), NoNorm(), r"an SAE with norm 'rms', but this run has 'none'; .* set norm to its own"),
    ],
)
def test_an_sae_that_does_not_fit_is_refused(tmp_path, sae, norm, said):
    store = Store.at(tmp_path)
    first = train(spec(n_tokens=64), **inputs())
    make(first, store, INLINE)
    with pytest.raises(SpecError, match=said):
        make(train(spec(sae, n_tokens=64), **inputs(norm), init=first), store, INLINE)
