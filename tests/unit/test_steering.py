"""A planted latent that is turned up: what is added where, how far, and that nothing else moves by a bit."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from artifacts.activations import Activations
from artifacts.store import Store
from tasks.capture import CaptureSpec, capture
from tasks.corpora.parquet import Parquet
from tasks.corpus import CorpusSpec, corpus, sentences
from tasks.kinds import decode, kinds, spec_class
from tasks.lm.language_model import LanguageModel
from tasks.lms.hf import HF
from tasks.norms.base import FittedNorm, Statistics
from tasks.provide import ProvideSpec, provide
from tasks.saes.topk import TopK
from tasks.spec import Runtime, SpecError
from tasks.steering.effects import tuned_strengths
from tasks.steering.firing import fired
from tasks.steering.push import Push, Row, Steering
from tasks.steering.sampling import Draws
from tasks.steering.subject import Subject
from tasks.steering.tuning import tuned
from tasks.trained import TrainedSAE
from tests import subjects
from tests.making import make
from tests.planted import WORDS
from tests.small import write_corpus, write_model
from tests.subjects import effect

CPU = Runtime(mode="inline", device="cpu")
TEXTS = ["The", "I think that", "it was", "The old man saw a red apple", "My"]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A Llama whose every part does something, a random SAE in its middle, and the store that it lies in."""
    top = tmp_path_factory.mktemp("steering")
    store = Store.at(top / "s")
    provided = provide(ProvideSpec(lm=HF(path=str(write_model(top / "model"))).pinned()))
    lm = LanguageModel.open(make(provided, store), CPU)
    norm = decode("tasks.norms", {"kind": "token"}, "norm")
    sae = TrainedSAE(TopK(k=4, n_latents=64, expansion_factor=None).build(lm.d_model), FittedNorm(norm, {}), "layers.1")
    return Subject(lm, sae), provided, store, top


# what is added


@pytest.mark.parametrize("norm", ["none", "mean", "rms", "token"])
def test_what_is_added_is_the_decoder_row_in_the_models_own_units(norm):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 8, generator=draw) * torch.linspace(0.5, 4, 8) + 3
    kind = decode("tasks.norms", {"kind": norm}, "norm")
    fitted = FittedNorm(kind, kind.fit(Statistics.of(x.flatten(0, 1))))
    sae = TrainedSAE(TopK(k=2, n_latents=16, expansion_factor=None).build(8), fitted, "layers.0")
    prompt = subjects.world().prompts(["the of a and"])[0]
    assert len(prompt.token_id) == 5
    (edit,) = Steering(sae, [Row(prompt), Row(prompt, (Push(3, 0.5, 4.0), Push(7, -1.0)))]).at(0)
    more = edit.change(x) - x
    scale = {"rms": fitted.state.get("scale"), "token": x[1, 1:].std(-1, keepdim=True, unbiased=False)}.get(norm, 1.0)
    by_hand = (2 * sae.W_dec_ND[3] - sae.W_dec_ND[7]) * scale
    torch.testing.assert_close(more[1, 1:], by_hand.expand(4, 8), atol=2e-6, rtol=1e-4)
    assert torch.equal(edit.change(x)[0], x[0]) and torch.equal(edit.change(x)[1, 0], x[1, 0])  # another row, and BOS


# planted rows are directions under the norm: of those that turn them, what is said is another word's
@pytest.mark.parametrize("norm", [n for n in kinds("tasks.norms") if not spec_class("tasks.norms", n).TURNS])
def test_a_latent_turned_up_makes_the_model_say_its_word(norm):
    subject, largest = subjects.world(norm), subjects.largest(norm)
    prompts = subject.prompts(["The", "I think that", "it was"])
    for latent in (0, 5, 11):
        found = effect(subject, prompts, [Push(latent, 4.0, largest[latent])])
        token, rise = found.raised[0]
        assert token == f" {WORDS[latent]}" and rise > 0.5 and found.kl > 1
        assert all(change < 0 for _, change in found.lowered) and found.lowered[0][1] == min(c for _, c in found.lowered)
        down = effect(subject, prompts, [Push(latent, -4.0, largest[latent])])
        assert f" {WORDS[latent]}" not in [token for token, _ in down.raised]


def test_the_kl_divergence_is_the_one_by_hand_and_grows_with_the_strength():
    subject, largest = subjects.world(), subjects.largest()
    prompts = subject.prompts(["The", "I think that"])
    kls = [effect(subject, prompts, [Push(2, s, largest[2])]).kl for s in (0.1, 0.3, 1, 3, 10)]
    assert kls == sorted(kls) and kls[0] > 0
    p, q = subject.next_log_probs([Row(prompts[0]), Row(prompts[0], (Push(2, 0.3, largest[2]),))]).double()
    assert torch.allclose(p.exp().sum(), torch.ones((), dtype=p.dtype))
    by_hand = sum(math.exp(a) * (a - b) for a, b in zip(p.tolist(), q.tolist(), strict=True))
    assert effect(subject, prompts[:1], [Push(2, 0.3, largest[2])]).kl == pytest.approx(by_hand, rel=1e-4)


def test_a_strength_of_nothing_is_the_untouched_model_bit_for_bit(small):
    subject = small[0]
    prompts = subject.prompts(TEXTS)
    plain, nothing = ([Row(p, pushes) for p in prompts] for pushes in ((), (Push(1, 0.0, 7.0),)))
    bare = torch.stack([subject.lm.logits(torch.from_numpy(p.token_id)[None], torch.ones(1, len(p.token_id)))[0, -1] for p in prompts])
    found = subject.next_log_probs(nothing)
    assert torch.equal(found, subject.next_log_probs(plain))
    # one row by itself takes another path through BLAS
    torch.testing.assert_close(found, bare.log_softmax(-1), atol=1e-6, rtol=1e-5)
    assert subject.continuations(nothing, 8) == subject.continuations(plain, 8)
    assert effect(subject, prompts, [Push(1, 0.0)])[:3] == (0.0, (), ())


def test_untouched_and_steered_rows_share_a_batch_and_come_out_as_they_do_alone(small):
    subject = small[0]
    prompts = subject.prompts(TEXTS)
    rows = [Row(p, pushes) for p in prompts for pushes in ((), (Push(5, 30.0),), (Push(9, -30.0), Push(5, 2.0)))]
    together = subject.next_log_probs(rows)
    alone = torch.cat([subject.next_log_probs([row]) for row in rows])
    assert torch.equal(together, alone)  # bit for bit, on this CPU: see Subject.continuations
    assert not torch.equal(together[0], together[1])
    texts = subject.continuations(rows, 10, temperature=1.0, seed=3)
    assert texts == [subject.continuations([row], 10, temperature=1.0, seed=3)[0] for row in rows]
    few = Subject(subject.lm, subject.sae, batch_tokens=40)  # more batches
    assert few.continuations(rows, 10, temperature=1.0, seed=3) == texts
    assert len(set(texts)) > len(TEXTS)


def test_only_the_last_token_and_what_follows_are_pushed_if_so_asked(small):
    subject = small[0]
    (prompt,) = subject.prompts(["The old man saw a red apple"])
    x = torch.randn(1, len(prompt.token_id), subject.lm.d_model)
    steering = Steering(subject.sae, [Row(prompt, (Push(0, 5.0),))], "last")
    changed = (steering.at(0)[0].change(x) != x).any(-1)[0].tolist()
    assert changed == [False] * (len(prompt.token_id) - 1) + [True]
    later = torch.randn(1, 1, subject.lm.d_model)
    assert (steering.at(len(prompt.token_id) + 3)[0].change(later) != later).any()
    both = [Row(prompt, (Push(0, 5.0),))]
    assert not torch.equal(subject.next_log_probs(both, "last"), subject.next_log_probs(both, "all"))


# continuations


def test_the_cache_changes_nothing_of_what_a_steered_model_says(small):
    subject = small[0]
    (prompt,) = subject.prompts(["The old man"])
    row = Row(prompt, (Push(5, 25.0),))
    tokens = prompt.token_id.tolist()
    for _ in range(12):  # by hand: all of the text again for every token
        longer = Row(prompt.__class__(torch.tensor(tokens).numpy(), _kept(tokens), torch.tensor(tokens).numpy(), 0), row.pushes)
        tokens.append(int(subject.next_log_probs([longer])[0].argmax()))
    found = [step[0] for step in subject.stream([row], 12, temperature=0)]
    assert found == tokens[len(prompt.token_id) :]
    assert subject.continuations([row], 12, temperature=0) == [subject.text_after(prompt, found)]


def _kept(tokens):
    return torch.tensor(tokens).numpy() != 0


def test_a_model_that_gives_no_cache_says_the_same(small, monkeypatch):
    subject = small[0]
    rows = [Row(p, (Push(5, 25.0),)) for p in subject.prompts(TEXTS)]
    cached = subject.continuations(rows, 8, temperature=0)
    last = LanguageModel._last
    monkeypatch.setattr(LanguageModel, "_last", lambda self, *args, **more: (last(self, *args, **more)[0], None))
    assert subject.continuations(rows, 8, temperature=0) == cached


def test_one_seed_draws_alike_whatever_is_pushed_and_another_does_not(small):
    subject = small[0]
    (prompt,) = subject.prompts(["The old man"])
    slight, other = Row(prompt, (Push(5, 1e-9),)), Row(prompt, sample=1)
    found = subject.continuations([Row(prompt), slight, other], 10, seed=1)
    assert found[0] == found[1] != found[2]
    assert subject.continuations([Row(prompt)], 10, seed=2)[0] != found[0]


def test_tokens_are_drawn_as_often_as_they_are_likely():
    draws = Draws([str(i) for i in range(4000)], 4003, 1.0)
    p = torch.tensor([0.0, 0.15, 0.6, 0.25, 0.0])
    found = draws.choose(p.log().expand(4003, 5))[:4000].bincount(minlength=5) / 4000
    torch.testing.assert_close(found, p, atol=0.03, rtol=0)
    assert found[0] == found[4] == 0
    colder = Draws(["0"] * 200, 200, 0.05).choose(p.log().expand(200, 5))
    assert set(colder.tolist()) == {2} == set(Draws(["0"], 1, 0).choose(p.log()[None]).tolist())


def test_a_text_ends_where_the_model_ends_it_and_at_the_end_of_its_context():
    subject, eos = subjects.world(), 1
    head = subject.lm.model.lm_head.weight
    before = head[eos].clone()
    try:
        # after "cat" the planted model says </s>
        head[eos] = 9 * torch.nn.functional.normalize(subject.lm.model.model.embed_tokens.weight[3], dim=-1)
        rows = [Row(p, (Push(0, 5.0, subjects.largest()[0]),)) for p in subject.prompts(["the", "cat"])]
        assert subject.continuations([Row(subject.prompts(["the cat"])[0])], 5, temperature=0) == [""]
        steps = list(subject.stream(rows, 100, temperature=0))
        assert steps and any(step[1] is None for step in steps) and len(steps) <= 62
    finally:
        head[eos] = before


def test_latents_are_of_this_sae_and_a_prompt_has_a_beginning(small):
    subject = small[0]
    prompts = subject.prompts(["The"])
    with pytest.raises(SpecError, match="latent = 64, but the SAE has latents 0 to 63"):
        subject.next_log_probs([Row(prompts[0], (Push(64, 1.0),))])
    assert len(subject.prompts([""])[0].token_id) == 1  # BOS alone is a beginning
    bare = Subject(LanguageModel(subject.lm.model, _without_bos(subject.lm.tokenizer), "cpu", 3, "bare"), subject.sae)
    with pytest.raises(SpecError, match="prompts has '', but it has no token, and bare has no BOS"):
        bare.prompts([""])


def _without_bos(tokenizer):
    import copy

    other = copy.deepcopy(tokenizer)
    other.bos_token = None
    return other


def test_threads_that_steer_one_model_do_not_see_each_other(small):
    subject = small[0]
    (prompt,) = subject.prompts(["The old man"])
    rows = [Row(prompt, (Push(i, 20.0),)) for i in range(8)]
    alone = [subject.continuations([row], 6, temperature=0) for row in rows]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda row: subject.continuations([row], 6, temperature=0), rows)) == alone


# strengths


def test_bisection_reaches_the_target_for_every_latent_in_bounded_tries():
    subject, largest = subjects.world(), subjects.largest()
    prompts = subject.prompts(["The", "I think that", "it was"])
    for target in (0.1, 0.5, 3.0):
        pushes = [Push(i, 0.0, largest[i]) for i in range(len(WORDS))]
        found = tuned_strengths(subject, pushes, [prompts] * len(pushes), target)
        for push, one in zip(pushes, found, strict=True):
            assert one.reached and one.n_tries <= 12
            again = effect(subject, prompts, [push._replace(strength=one.strength)]).kl
            assert abs(again - target) <= 0.1 * target and again == pytest.approx(one.kl, rel=1e-5)


def test_what_cannot_be_reached_is_said_to_be_and_what_is_reached_is_not_measured_again():
    asked: list[list[int]] = []

    def kl_at(which, strengths):
        asked.append(list(which))
        curves = {
            0: lambda s: 0.5 * s,  # at once
            1: lambda s: min(s, 0.2),  # never
            2: lambda s: math.nan if s > 0.02 else s * 40,  # the model breaks above
            3: lambda s: 1e6,  # always too much
        }
        return [curves[i](s) for i, s in zip(which, strengths, strict=True)]

    found = tuned(kl_at, 4, 0.5, max_tries=10)
    assert found[0] == (1.0, 0.5, True, 1) and asked[0] == [0, 1, 2, 3] and asked[-1] == [1, 3]
    assert not found[1].reached and found[1].kl == 0.2 and found[1].n_tries == 10 == len(asked)
    assert found[2].reached and found[2].kl == pytest.approx(0.5, rel=0.1)
    assert (found[3].reached, found[3].kl, found[3].n_tries) == (False, 1e6, 10)


# where it fires


def test_activations_on_texts_are_those_of_capture_and_the_encoder(small):
    subject, provided, store, top = small
    path = write_corpus(top / "corpus.parquet", n_documents=20, per_document=4)
    text = corpus(CorpusSpec(corpus=Parquet(path=str(path), document_column="doc").pinned()))
    spec = CaptureSpec(hookpoint="layers.1", context="sentence", context_tokens=12, store_dtype="float32")
    rows = Activations.open(make(capture(spec, corpus=text, lm=provided), store).path)
    said = sentences(store.open(text.artifact), "train")["text"].to_pylist()
    encoded = subject.sae.encode(rows.activations(0, rows.n_rows))
    dense = torch.zeros(rows.n_rows, 64).scatter_(1, encoded.index_BK, encoded.value_BK)
    latents = (dense > 0).sum(0).argsort(descending=True)[[7, 0, 19, 3]].tolist()
    found = fired(Subject(subject.lm, subject.sae, batch_tokens=64), said, latents, context_tokens=12)
    assert [len(one.token_id) for one in found] == torch.tensor(rows.context_offsets.tolist()).diff().tolist()
    assert [t for one in found for t in one.token_id.tolist()] == rows.token_id.tolist()
    ours = torch.cat([torch.from_numpy(one.value_TL) for one in found])
    # products of batches of another shape round otherwise
    torch.testing.assert_close(ours, dense[:, latents], atol=1e-5, rtol=1e-4)
    assert (ours > 0).any(0).all()


def test_planted_latents_fire_on_their_words_alone_and_an_empty_text_on_nothing():
    found = fired(subjects.world(), ["the cat was by river", "", "of a and", "<s>"], [0, 1, 2])
    assert [bool(v) for v in found[0].largest_L] == [True, True, False]
    assert found[0].value_TL[:, 0].nonzero()[0].tolist() == [1] and found[0].value_TL[:, 1].nonzero()[0].tolist() == [4]
    assert all(not one.largest_L.any() and one.largest_L.shape == (3,) for one in found[1:])
    assert len(found[1].token_id) == 0
    with pytest.raises(SpecError, match="latent = 12, but the SAE has latents 0 to 11"):
        fired(subjects.world(), ["the cat"], [12])


def test_a_folder_of_the_planted_model_is_the_planted_model(tmp_path: Path):
    opened = make(provide(ProvideSpec(lm=HF(path=str(subjects.write(tmp_path / "m"))).pinned())), Store.at(tmp_path / "s"))
    lm, ours = LanguageModel.open(opened, CPU), subjects.world()
    assert lm.eos_token_ids == {1} and lm.context_length == 64 and lm.bos_token_id == 0
    again = Subject(lm, ours.sae)
    rows = [Row(p, (Push(1, 2.0, 3.0),)) for p in again.prompts(["The", "it was"])]
    # weights that lie otherwise in memory take other instructions
    torch.testing.assert_close(again.next_log_probs(rows), ours.next_log_probs(rows), atol=1e-5, rtol=1e-5)
