"""Training: schedules, options that do what they say, several SAEs from one read, and going on after an interruption."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from artifacts.shuffled import ShuffledRows
from artifacts.store import Store
from flows.ordering import lanes
from tasks.fitting import Fit, fitted, last_checkpoint
from tasks.learning.beginning import begun as begun_with
from tasks.learning.schedule import TrainSpec
from tasks.lm.sites import Sites
from tasks.norms.base import FittedNorm
from tasks.norms.none import NoNorm
from tasks.realising import SomeFailed, units
from tasks.saes.batchtopk import BatchTopK
from tasks.saes.gated import Gated
from tasks.saes.matryoshka import Matryoshka
from tasks.saes.standard import Standard
from tasks.saes.topk import TopK
from tasks.spec import Runtime, SpecError
from tasks.train import train
from tasks.trained import TrainedSAE
from tests.captured import D, inputs, planted
from tests.making import make, make_together
from tests.small import overrides, write_corpus, write_model

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


def test_a_loss_that_ages_is_told_how_much_of_the_training_is_over():
    common = {"n_tokens": 100, "batch_tokens": 1, "dead_after_tokens": 1}
    gated = TrainSpec(sae=Gated(freeze_decoder_at=0.5), **common)
    assert [gated.annealed(s)["done"] for s in (0, 25, 99)] == [0, 0.25, 0.99]
    assert "done" not in TrainSpec(sae=Standard(), **common).annealed(0)
    after: dict[tuple, dict] = {}
    for at in (0.0, 0.5, None):
        for steps in (1, 2):
            fit = fit_of(spec(Gated(n_latents=32, freeze_decoder_at=at)))
            run([fit], until=steps)
            after[at, steps] = {n: w.detach().clone() for n, w in fit.learner.sae.weights().items()}
    assert same(after[0.5, 1], after[None, 1]) and not same(after[0.5, 1], after[0.0, 1])
    assert not same(after[0.5, 2], after[None, 2])


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
    assert set(plain) == {
        "sae", "n_tokens", "batch_tokens", "lr", "warmup_fraction", "decay_fraction", "dead_after_tokens", "validate_every",
        "validation_tokens", "patience", "seed",
    }  # fmt: skip
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
        fit = fit_of(spec(TopK(k=1, n_latents=512, aux_coefficient=0), revive_every_tokens=every, n_tokens=12800, lr=1e-2))
        seen, revive = [], fit.learner.revive
        fit.learner.revive = lambda n, d, seen=seen, fit=fit, revive=revive: (seen.append((fit.step, n, d)), revive(n, d))
        run([fit])
        dead[every] = fit.log[-1]["dead_fraction"]
    assert [step for step, *_ in seen] == [25, 50, 75, 100, 125, 150, 175]  # not at 200, the end: they could learn no more
    _, latent_n, direction_nD = seen[0]
    assert len(latent_n) <= 64 and direction_nD.shape == (len(latent_n), D)
    assert dead[1600] < 0.8 * dead[None]


def test_rows_are_drawn_the_likelier_the_worse_they_are_reconstructed():
    fit = fit_of(spec(TopK(k=1, n_latents=32), dead_after_tokens=1, revive_every_tokens=640))
    rows = planted(64, 3)
    rows[:4] *= 100  # nothing fits these
    seen = []
    fit.learner.revive = lambda latent_n, direction_nD: seen.append(direction_nD)
    fit.learner.silent_N[:3] = 1000
    fit._revive(rows, None)
    fit._revive(rows, None)
    assert torch.equal(*seen)  # what is drawn is a function of seed and step
    assert all(any(torch.equal(row, fit.learner.sae.inner(one)) for one in rows[:4]) for row in seen[0]) and len(seen[0]) == 3


# several from one read

KINDS = [TopK(k=3, n_latents=32), TopK(k=6, n_latents=48), BatchTopK(k=4, n_latents=32), Standard(n_latents=32)]


def recipes(saes=KINDS, **more):
    given = inputs()
    return [train(spec(sae, **more), **given) for sae in saes]


def made(store: Store, wanted, together: int) -> list:
    return make_together(wanted, store, INLINE.model_copy(update={"saes_together": together}))


def test_saes_trained_together_have_the_bits_of_those_trained_alone_and_rows_are_read_once(tmp_path, monkeypatch):
    reads = []
    batches = ShuffledRows.batches
    monkeypatch.setattr(ShuffledRows, "batches", lambda self, start=0: (reads.append(start), batches(self, start))[1])
    alone = made(Store.at(tmp_path / "alone"), recipes(n_tokens=2560), together=1)
    assert reads == [0] * 4
    reads.clear()
    together = made(Store.at(tmp_path / "together"), recipes(n_tokens=2560), together=4)
    assert reads == [0]
    for one, other in zip(alone, together, strict=True):
        assert same(*(load_file(found.path / "sae.safetensors") for found in (one, other)))
        assert {n: v for n, v in one.summary.items() if n != "tokens_per_second"} == {
            n: v for n, v in other.summary.items() if n != "tokens_per_second"
        }
        assert one.summary["fvu"] < 0.8


def test_one_that_cannot_be_made_leaves_the_others_alone(tmp_path):
    store = Store.at(tmp_path)
    wanted = recipes([TopK(k=3, n_latents=32), TopK(k=64, n_latents=32), TopK(k=4, n_latents=32)], n_tokens=640)
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


def test_a_checkpoint_outlives_a_crash_while_the_next_one_takes_its_place(tmp_path, monkeypatch):
    store, recipe = Store.at(tmp_path), recipes([TopK(k=3, n_latents=32)])[0]
    fit = fit_of(spec())
    run([fit], until=10)
    first = store.begin(recipe.artifact, {})
    fit.save(first.scratch / "checkpoint")
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda self, to: 1 / 0 if self.name.endswith(".tmp") else rename(self, to))
    run([fit], until=20)
    with pytest.raises(ZeroDivisionError):
        fit.save(first.scratch / "checkpoint")
    monkeypatch.undo()
    first.abandon()
    second, again = store.begin(recipe.artifact, {}), fit_of(spec())
    again.recover(last_checkpoint(second, "checkpoint"), "cpu")
    assert again.step == 10
    again.save(second.scratch / "checkpoint")
    assert [path.name for path in second.scratch.iterdir()] == ["checkpoint"]


def test_what_goes_wrong_in_one_of_a_group_ends_it_before_the_next_one_s_step():
    broken, other = fit_of(spec()), fit_of(spec())
    broken.learner.step = lambda *_, **__: 1 / 0
    with pytest.raises(ZeroDivisionError):
        next(fitted([broken, other], batches_of(spec()), lambda rows: (rows, None), in_group=True))
    assert other.step == 0
    next(fitted([broken, other], batches_of(spec()), lambda rows: (rows, None)))
    assert isinstance(broken.failure, ZeroDivisionError) and other.step == 1


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
        (TopK(k=3, n_latents=48), None, r"that SAE has sae.n_latents 32 and this run has 48"),
        (BatchTopK(k=3, n_latents=32), None, r"^train.init_from = 'train/\w+', but .*kind 'topk' and .* 'batchtopk'; use sae=topk"),
        (TopK(k=3, n_latents=32, skip=True), None, r"that SAE has sae.skip False and this run has True; use sae.skip=false"),
        (TopK(k=3, n_latents=32), NoNorm(), r"that SAE has norm 'rms' and this run has 'none'; use norm=rms"),
    ],
)
def test_an_sae_that_does_not_fit_is_refused(tmp_path, sae, norm, said):
    store = Store.at(tmp_path)
    first = train(spec(n_tokens=64), **inputs())
    make(first, store, INLINE)
    with pytest.raises(SpecError, match=said):
        make(train(spec(sae, n_tokens=64), **inputs(norm), init=first), store, INLINE)


def old_sae(sae, lengths: torch.Tensor) -> TrainedSAE:
    """An SAE with a threshold, if its kind has one, that does the same but for the lengths of its decoder rows."""
    held = sae.build(D, 3)
    for name, weight in held.weights().items():
        if name == "threshold":
            weight.fill_(0.4)
        elif name.startswith("W_"):
            weight.mul_(lengths[:, None] if name == "W_dec_ND" else 1 / lengths[:, None])
    if hasattr(held, "threshold") and not sae.rescale_by_row_norm:
        held.threshold.div_(lengths.mean())
    return TrainedSAE(held, FittedNorm(NoNorm(), {}), "layers.1", {})


BEGUN = [TopK(k=3, n_latents=32), BatchTopK(k=3, n_latents=32), Matryoshka(k=3, n_latents=32)]


@pytest.mark.parametrize("sae", BEGUN, ids=lambda sae: sae.kind)
@pytest.mark.parametrize("had_free_rows, free", [(False, False), (False, True), (True, False), (True, True)])
def test_training_begins_with_what_an_sae_does_whose_decoder_rows_are_not_of_length_one(sae, had_free_rows, free):
    lengths = torch.linspace(0.5, 3, 32) if had_free_rows else torch.full((32,), 0.02)
    old = old_sae(sae.model_copy(update={"rescale_by_row_norm": had_free_rows}), lengths)
    if not had_free_rows and not free:
        old.sae.W_dec_ND[5] = 0
    rows = planted(200, 4)
    wanted = old.sae.encode(rows)
    new = begun_with(sae.model_copy(update={"rescale_by_row_norm": free}), NoNorm(), D, Sites.parse("layers.1"), old, "train/x")
    new = new.learner().sae
    found = new.encode(rows)
    torch.testing.assert_close(new.decode(found), old.sae.decode(wanted), atol=1e-4, rtol=1e-4)
    assert int((found.value_BK > 0).sum()) == int((wanted.value_BK > 0).sum()) > 200
    assert free or torch.allclose(new.W_dec_ND.norm(dim=-1)[new.W_dec_ND.any(-1)], torch.ones(()))


@pytest.mark.parametrize("sae", BEGUN, ids=lambda sae: sae.kind)
def test_an_sae_whose_active_latents_would_be_others_is_refused(sae):
    old = old_sae(sae, torch.linspace(0.5, 3, 32))
    with pytest.raises(SpecError, match=r"= 'train/x', but .* rows of lengths from 0.5 to 3, .*; use sae.rescale_by_row_norm=true"):
        begun_with(sae, NoNorm(), D, Sites.parse("layers.1"), old, "train/x")
    free = begun_with(sae.model_copy(update={"rescale_by_row_norm": True}), NoNorm(), D, Sites.parse("layers.1"), old, "train/x")
    torch.testing.assert_close(free.learner().sae.W_dec_ND, old.sae.W_dec_ND)


@pytest.mark.parametrize("sae", BEGUN[1:], ids=lambda sae: sae.kind)
def test_the_threshold_goes_with_averaged_weights(sae):
    fit = fit_of(spec(sae, ema=0.98, n_tokens=64 * 60))
    run([fit])
    fit._average["W_dec_ND"] *= torch.linspace(0.59, 0.61, 32)[:, None]  # averages of rows that turn are short
    averaged = sae.holding({name: average.clone() for name, average in fit._average.items()})
    assert fit._validated(fit.finished())["l0"] == pytest.approx(fit._validated(averaged)["l0"], rel=0.03)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A store with an SAE, and overrides of a run on a model of its width."""
    folder = tmp_path_factory.mktemp("begun")
    first = train(spec(n_tokens=64), **inputs())
    make(first, Store.at(folder / "store"), INLINE)
    write_model(folder / "model", d_model=D)
    write_corpus(folder / "corpus.parquet")
    world = [o for o in overrides(folder) if not o.startswith(("sae.", "train."))]
    return first, [*world, f"backend.root={folder / 'store'}", "sae.k=3", "sae.n_latents=32", "sae.expansion_factor=null"]


def test_an_sae_to_begin_with_is_named_as_everywhere_and_is_an_input(begun):
    from flows.config import load
    from flows.recipes import recipes
    from flows.sweep import jobs, packed, unpacked

    first, world = begun
    name = f"train.init_from=train/{first.key[:9]}"
    p = load([*world, name])
    wanted = recipes(p).named["layers.1"]["train"]
    assert wanted.input_keys["init"] == first.address and p.plain["train"]["init_from"] == first.address
    plain = recipes(load(world)).named["layers.1"]["train"]
    assert wanted.spec.payload() == plain.spec.payload() and "init" not in plain.input_keys and wanted.key != plain.key
    (job,) = unpacked(json.loads(json.dumps(packed(jobs([[*world, name]])))))
    assert job.wanted.named["layers.1"]["train"].key == wanted.key


@pytest.mark.parametrize(
    "more, said",
    [
        (["train.init_from=train/ffff"], r"train.init_from = train/ffff, but no artifact of this store is called so"),
        (["train.init_from=normalise/{norm}"], r"but normalise/.* is no SAE; name one of train or adopt"),
        (["train.init_from={sae}", "sae.n_latents=64"], r"that SAE has sae.n_latents 32 and this run has 64; use sae.n_latents=32"),
        (["train.init_from={sae}", "norm=none"], r"that SAE has norm 'rms' and this run has 'none'"),
        (["train.init_from={sae}", "sae.subtract_b_dec=false"], r"has sae.subtract_b_dec True and this run has False"),
        (["train.init_from={sae}", "lm=tiny"], r"that SAE has rows of width 16 and this run has 96; use that model"),
    ],
)  # fmt: skip
def test_an_sae_that_does_not_fit_is_refused_before_any_work(begun, more, said):
    from flows.config import load

    first, world = begun
    world = [o for o in world if not (o.startswith("lm") and "lm=tiny" in more)]
    names = {"sae": first.address, "norm": first.inputs["norm"].key[:9]}
    with pytest.raises(SpecError, match=said):
        load([*world, *(o.format(**names) for o in more)])
