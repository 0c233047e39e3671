"""Several latents of several SAEs at several places, in every mode: by hand, and no row sees another."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
import torch

from artifacts.store import Store
from tasks.kinds import decode
from tasks.lm.language_model import LanguageModel
from tasks.lms.hf import HF
from tasks.norms._sites import SiteNorms
from tasks.norms.base import FittedNorm
from tasks.provide import ProvideSpec, provide
from tasks.saes.batchtopk import BatchTopK
from tasks.saes.gated import Gated
from tasks.saes.jumprelu import JumpReLU
from tasks.saes.topk import TopK
from tasks.spec import Runtime, SpecError
from tasks.steering.firing import fired
from tasks.steering.holding import holding
from tasks.steering.meters import repetition, warnings
from tasks.steering.prompts import beginnings
from tasks.steering.push import Push, Row, Steering
from tasks.steering.sampling import Draws
from tasks.steering.subject import Subject
from tasks.steering.turning import differences
from tasks.trained import TrainedSAE
from tests import subjects
from tests.making import make
from tests.small import write_model

MODES = ("add", "clamp", "ablate", "bias")
TEXTS = ["The", "I think that", "it was", "The old man saw a red apple", "My"]


def norm(kind: str) -> FittedNorm:
    return FittedNorm(decode("tasks.norms", {"kind": kind}, "norm"), {})


@pytest.fixture(scope="module")
def lm(tmp_path_factory) -> LanguageModel:
    top = tmp_path_factory.mktemp("modes")
    spec = ProvideSpec(lm=HF(path=str(write_model(top / "model"))).pinned())
    return LanguageModel.open(make(provide(spec), Store.at(top / "s")), Runtime(mode="inline", device="cpu"))


@pytest.fixture(scope="module")
def several(lm) -> Subject:
    """SAEs of five sorts: in the stream, a transcoder, and a crosscoder; norms with a scale for all and for each token."""
    d, two = lm.d_model, ("layers.0", "layers.2")
    free = {"n_latents": 64, "expansion_factor": None}
    jump = JumpReLU(**free, threshold=0.3).build(d, 1)
    across = SiteNorms(two, two, {h: norm("none") for h in two}, dict.fromkeys(two, d))
    held = {
        "topk": TrainedSAE(TopK(k=4, **free).build(d, 0), norm("token"), "layers.1"),
        "jump": TrainedSAE(jump, norm("token"), "layers.0"),
        "again": TrainedSAE(Gated(**free).build(d, 2), norm("layer_norm"), "layers.1"),
        "trans": TrainedSAE(TopK(k=4, subtract_b_dec=False, **free).build(d, 3), norm("none"), "layers.1.mlp_in:layers.1.mlp"),
        "cross": TrainedSAE(BatchTopK(k=4, **free).build(2 * d, 4), across, "layers.0+layers.2"),
    }
    return Subject(lm, held["topk"], others=held)


def pushes_of(mode: str) -> tuple[Push, ...]:
    """Two latents of every SAE."""
    names = enumerate(["topk", "jump", "again", "trans", "cross"])
    return tuple(Push(i + 3 * j, -3.0 if i else 4.0, 2.0, mode, name) for j, name in names for i in (0, 9))


def mixed() -> tuple[Push, ...]:
    return tuple(p._replace(mode=mode) for p, mode in zip(pushes_of("add"), itertools.cycle(MODES), strict=False))


# what is added


def dense(sae, y):
    found = sae.encode(y)
    return torch.zeros(len(y), sae.n_latents).scatter_add(1, found.index_BK, found.value_BK)


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_is_the_one_by_hand(mode):
    sae = subjects.world("rms").sae
    (prompt,) = subjects.world("rms").prompts(["the cat river it was"])
    table = subjects.world("rms").lm.model.model.embed_tokens.weight
    x = torch.stack([table[torch.from_numpy(prompt.token_id)]] * 2)
    pushes = (Push(0, 1.5, 2.0, mode), Push(4, 0.7, 3.0, mode))
    edits = {e.hookpoint: [] for e in Steering(sae, [Row(prompt), Row(prompt, pushes)]).at(0)}
    out = x
    for edit in Steering(sae, [Row(prompt), Row(prompt, pushes)]).at(0):
        edits[edit.hookpoint].append(edit)
        found = edit.change(out)
        out = out if found is None else found
    y = sae.norm.apply(x[1])[0]
    a = dense(sae.sae, y)
    assert a[2, 0] > 0 and not a[1, 0] and not a[:, 4].any()  # only the cat is there, and latent 4 nowhere
    amount = {0: 3.0, 4: 2.1}
    if mode == "bias":
        raised = sae.sae.raised(amount)
        by_hand = (dense(raised, y) - a) @ sae.W_dec_ND
    else:
        lack = {i: {"add": torch.full((len(y),), v), "clamp": v - a[:, i], "ablate": -a[:, i]}[mode] for i, v in amount.items()}
        by_hand = sum(lack[i][:, None] * sae.W_dec_ND[i] for i in amount)
    by_hand = by_hand * sae.norm.state["scale"]
    torch.testing.assert_close((out - x)[1, 1:], by_hand[1:], atol=2e-5, rtol=1e-4)
    assert torch.equal(out[0], x[0]) and torch.equal(out[1, 0], x[1, 0])  # another row, and BOS
    if mode == "ablate":
        assert torch.equal(out[1, 1], x[1, 1]) and not torch.equal(out[1, 2], x[1, 2])  # only where it is active


def test_a_latent_that_is_not_chosen_even_when_its_bias_is_raised_changes_nothing(several):
    (prompt,) = several.prompts(["The old man saw a red apple"])
    rows = [Row(prompt, (Push(5, s, 1.0, "bias"),)) for s in (1e-9, 1e-9, 50.0)]
    plain, slight, _, strong = several.next_log_probs([Row(prompt), *rows])
    assert torch.equal(plain, slight) and not torch.equal(plain, strong)


def test_differences_of_latents_are_those_of_dense_rows():
    draw = torch.Generator().manual_seed(0)
    kind = type(subjects.world().sae.sae.encode(torch.zeros(1, subjects.D)))
    index = [torch.stack([torch.randperm(9, generator=draw)[:4] for _ in range(50)]) for _ in "ab"]
    one, other = (kind(each, torch.rand(50, 4, generator=draw)) for each in index)
    one.value_BK[:, 3] = 0  # padding, which names any latent
    other.value_BK[::2, 2] = 0

    def spread(latents):
        return torch.zeros(50, 9).scatter_add(1, latents.index_BK, latents.value_BK)

    torch.testing.assert_close(spread(differences(one, other)), spread(other) - spread(one))
    assert not differences(one, one).value_BK.any()


def test_what_the_order_of_places_does_not_allow_is_refused(several, lm):
    wide = TopK(k=4, n_latents=64, expansion_factor=None).build(2 * lm.d_model)
    both = ("layers.0.attn", "layers.1.attn")
    early = TrainedSAE(wide, SiteNorms(both, both, {h: norm("none") for h in both}, dict.fromkeys(both, lm.d_model)), "+".join(both))
    (prompt,) = several.prompts(["The"])
    assert Steering(early, [Row(prompt, (Push(1, 1.0),))]).at(0)
    with pytest.raises(SpecError, match="latents are pushed at layers.0.attn, but they are known only after layers.1.attn.*use mode add"):
        Steering(early, [Row(prompt, (Push(1, 1.0, mode="clamp"),))])
    for push, message in (
        (Push(1, 1.0, sae="who"), "sae = 'who', but the subject has topk, jump"),
        (Push(64, 1.0, sae="jump"), "latent = 64, but the SAE has latents 0 to 63"),
        (Push(1, float("nan")), "no finite number"),
        (Push(1, 1.0, mode="Clamp"), "mode = 'Clamp', but there is none of that name; use one of add, clamp, ablate, bias"),
    ):
        with pytest.raises(SpecError, match=message):
            several.next_log_probs([Row(prompt, (push,))])


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("clamp", "clamp", "it is turned by clamp twice"), ("bias", "bias", "it is turned by bias twice"),
        ("clamp", "ablate", "it is turned by clamp and by ablate, and what is clamped or ablated is held; leave one out"),
        ("add", "clamp", "it is turned by add and by clamp"), ("ablate", "add", "it is turned by ablate and by add"),
        ("clamp", "bias", "it is turned by clamp and by bias"),
        ("add", "add", None), ("add", "bias", None),
    ],
)  # fmt: skip
def test_a_latent_that_is_held_is_turned_by_nothing_else(several, first, second, message):
    (prompt,) = several.prompts(["The"])
    one, other = Push(1, 1.0, 2.0, first), Push(1, 0.5, 2.0, second)
    for fine in ((one, other._replace(strength=0.0)), (one, other._replace(sae="jump")), (one, other._replace(latent=2))):
        several.next_log_probs([Row(prompt, fine)])
    if message is None:
        several.next_log_probs([Row(prompt, (one, other))])
        return
    with pytest.raises(SpecError, match=f"latent = 1, but {message}"):
        several.next_log_probs([Row(prompt, (one, other))])
    with pytest.raises(SpecError, match=message), holding(several, (one, other)):
        raise AssertionError("the model was given")


# rows


def test_nothing_is_the_untouched_model_bit_for_bit_in_every_mode(several):
    prompts = several.prompts(TEXTS)
    plain = several.next_log_probs([Row(p) for p in prompts])
    for mode in MODES:
        off = tuple(p._replace(strength=0.0) for p in pushes_of(mode))
        assert torch.equal(several.next_log_probs([Row(p, off) for p in prompts]), plain)
        assert torch.equal(several.next_log_probs([Row(p, off, 0) for p in prompts[:1]]), plain[:1])
    assert several.continuations([Row(prompts[1], off)], 8) == several.continuations([Row(prompts[1])], 8)


@pytest.mark.parametrize("mode", [*MODES, "mixed"])
def test_default_and_steered_rows_of_one_batch_are_those_of_runs_of_their_own_bit_for_bit(several, mode):
    prompts = several.prompts(TEXTS[:3])
    pushes = mixed() if mode == "mixed" else pushes_of(mode)
    rows = [Row(p, own) for p in prompts for own in ((), pushes, pushes[:3])]
    together = several.next_log_probs(rows)
    assert torch.equal(together, torch.cat([several.next_log_probs([row]) for row in rows]))
    assert not torch.equal(together[0], together[1]) and not torch.equal(together[1], together[2])
    options = {"temperature": 0.8, "top_p": 0.9, "seed": 3}
    texts = several.continuations(rows, 6, **options)
    assert texts == [several.continuations([row], 6, **options)[0] for row in rows]
    # and what is measured on the way changes no bit, nor does a prompt of another length beside it
    writing = several.write(rows, 6, **options, watched=[("topk", 3), ("cross", 1)])
    assert [one.text for one in writing.finish()] == texts
    for row, one in zip(rows[:3], writing.rows, strict=False):
        (alone,) = several.write([row], 6, **options, watched=[("cross", 1)]).finish()
        assert np.array_equal(alone.activation_TL[:, 0], one.activation_TL[:, 1]) and np.array_equal(alone.growth_T, one.growth_T)


def test_pushes_of_several_saes_at_one_place_add_up_in_any_order(several):
    (prompt,) = several.prompts(["The old man"])
    pushes = mixed()
    one, other = several.next_log_probs([Row(prompt, pushes), Row(prompt, pushes[::-1])])
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


# streams


def test_prompts_of_other_lengths_go_on_together_and_a_stream_may_end_at_any_step(several):
    prompts = several.prompts(TEXTS)
    rows = [Row(p, own) for p in prompts for own in ((), pushes_of("clamp"))]
    writing = several.write(rows, 8, temperature=0)
    steps = [next(writing) for _ in range(3)]
    assert all(len(step) == len(rows) for step in steps)
    held = []
    thread = threading.Thread(target=lambda: held.append(several.continuations(rows[:1], 2, temperature=0)))
    thread.start()  # between steps the model is another's
    thread.join(30)
    assert held == [several.continuations(rows[:1], 2, temperature=0)]
    writing.close()
    writing.close()
    assert list(writing) == [] and not several.lm.model._forward_hooks
    whole = several.continuations(rows, 3, temperature=0)
    assert [one.text for one in writing.rows] == whole


def test_a_row_that_has_ended_waits_for_the_others():
    subject, eos = subjects.world(), 1
    head = subject.lm.model.lm_head.weight
    before = head[eos].clone()
    try:
        head[eos] = 9 * torch.nn.functional.normalize(subject.lm.model.model.embed_tokens.weight[3], dim=-1)
        prompts = subject.prompts(["the cat", "the", "it was by the old river"])
        rows = [Row(prompts[0]), *(Row(p, (Push(1, 5.0, subjects.largest()[1]),)) for p in prompts[1:])]
        writing = subject.write(rows, 4, temperature=0, watched=[("", 0)])
        steps = list(writing)
        assert all(step[0] is None for step in steps) and len(steps) == 4
        assert writing.rows[0].over and writing.rows[0].text == "" and len(writing.rows[1].token_ids) == 4
        assert [len(one.activation_TL) for one in writing.rows] == [3, 6, 11]
    finally:
        head[eos] = before


# meters


def test_activations_on_the_way_are_those_of_reading_the_text_again_and_growth_is_a_ratio_of_lengths(several):
    prompts = several.prompts(TEXTS[1:4])
    pushes = (Push(3, 3.0, 2.0, "add", "trans"), Push(1, 20.0, 1.0, "add", "again"))
    rows = [Row(p, own) for p in prompts for own in ((), pushes)]
    watched = [("topk", i) for i in range(64)]
    writing = several.write(rows, 6, temperature=0.7, watched=watched)
    written = writing.finish()
    for text, plain, steered in zip(TEXTS[1:4], written[::2], written[1::2], strict=True):
        assert plain.activation_TL.shape == (len(plain.row.prompt.token_id) + 6, 64)
        ids = torch.tensor([*plain.row.prompt.token_id.tolist(), *plain.token_ids])
        x = several.lm.activations(ids[None], torch.ones(1, len(ids)), ["layers.1"])["layers.1"][0, 1:]
        np.testing.assert_allclose(plain.activation_TL[1:], dense(several.sae.sae, several.sae.norm.apply(x)[0]), atol=2e-4)
        assert not plain.activation_TL[0].any() and (plain.growth_T == 1).all() and plain.growth == 1.0
        assert plain.activation_TL.any() and steered.growth > 1.05 and steered.growth_T[0] == 1
        if plain.text.isprintable() and not plain.token_ids.count(0):
            (again,) = fired(several, [text], [3])  # of the prompt, in the way that scorers measure
            np.testing.assert_allclose(plain.activation_TL[1 : len(plain.row.prompt.token_id), 3], again.value_TL[:, 0], atol=1e-4)
    ids = torch.from_numpy(prompts[0].token_id)[None]
    (x,) = several.lm.activations(ids, torch.ones_like(ids), ["layers.1"])["layers.1"]
    (edit,) = (steering := Steering(several.saes, [Row(prompts[0], pushes[1:])], watched=())).at(0)
    edited = edit.change(x[None])[0]
    torch.testing.assert_close(steering.measured()[1][0], edited.norm(dim=1) / x.norm(dim=1))


def test_what_is_watched_may_be_nothing_but_growth(several):
    rows = [Row(p, own) for p in several.prompts(TEXTS[:2]) for own in ((), (Push(1, 20.0, sae="again"),))]
    plain, steered, *_ = several.write(rows, 3, watched=()).finish()
    assert plain.activation_TL.shape == (len(plain.growth_T), 0) and plain.growth == 1 and steered.growth > 1.05
    assert several.write(rows, 3).finish()[1].growth_T.size == 0  # nor was that asked for
    assert [one.text for one in several.write(rows, 3, seed=1).finish()] == several.continuations(rows, 3, seed=1)


def test_repetition_counts_runs_of_four_tokens_said_before():
    assert repetition([1, 2, 3]) == repetition(range(100)) == 0.0
    assert repetition([7] * 64) == pytest.approx(1 - 1 / 61)
    assert repetition([1, 2, 3, 4] * 4) == pytest.approx(1 - 4 / 13)
    assert repetition([*[7] * 500, *range(64)]) == 0.0, "only the end counts"


def test_a_push_that_breaks_the_model_is_warned_about_and_a_slight_one_is_not():
    subject, largest = subjects.world(), subjects.largest()[0]
    (prompt,) = subject.prompts(["it was"])
    rows = [Row(prompt, own) for own in ((), (Push(0, 0.05, largest),), (Push(0, 12.0, largest),))]
    plain, slight, strong = subject.write(rows, 40, watched=[("", 0)]).finish()
    assert list(warnings(slight, plain)) == [] == list(warnings(plain))
    said = list(warnings(strong, plain))
    assert len(said) == 2 and "it repeats itself: 9" in said[0] and "times as long" in said[1]


# draws


def test_the_nucleus_holds_the_fewest_tokens_that_have_so_much_of_the_probability():
    p = torch.tensor([0.05, 0.4, 0.1, 0.3, 0.15])
    for top_p, inside in ((0.39, {1}), (0.41, {1, 3}), (0.7, {1, 3}), (0.72, {1, 3, 4}), (1.0, {0, 1, 2, 3, 4}), (1e-9, {1})):
        draws = Draws([str(i) for i in range(3000)], 3000, 1.0, top_p)
        count = draws.choose(p.log().expand(3000, 5)).bincount(minlength=5).float() / 3000
        assert {i for i, n in enumerate(count.tolist()) if n} == inside
        expected = torch.tensor([float(v) if i in inside else 0.0 for i, v in enumerate(p)])
        torch.testing.assert_close(count, expected / expected.sum(), atol=0.035, rtol=0)


@pytest.mark.parametrize("options", [{"temperature": -1}, {"temperature": float("nan")}, {"top_p": 0}, {"top_p": 1.1}])
def test_draws_that_cannot_be_are_refused(several, options):
    with pytest.raises(SpecError, match=next(iter(options))):
        several.continuations([Row(several.prompts(["The"])[0])], 2, **options)


# beginnings


TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'system' and loop.index0 %}{{ raise_exception('system comes first') }}{% endif %}"
    "{{ bos_token if loop.first }}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


def test_a_conversation_is_put_as_the_template_has_it(several, lm):
    talk = [{"role": "user", "content": "The cat"}]
    with pytest.raises(SpecError, match="prompt 1 = 'The cat' is a conversation, but .* has no chat template; give a text"):
        beginnings(lm, [talk])
    lm.tokenizer.chat_template = TEMPLATE
    try:
        asked, begun, text = beginnings(lm, [talk, [*talk, {"role": "assistant", "content": "saw a"}], "The cat"])
        assert lm.tokenizer.decode(asked.token_id) == "<s>user: The cat\nassistant:"
        assert lm.tokenizer.decode(begun.token_id) == "<s>user: The cat\nassistant: saw a"
        assert asked.keep.tolist() == [False] + [True] * (len(asked.token_id) - 1) and text.token_id[0] == 0
        (answer,) = several.continuations([Row(asked, pushes_of("add"))], 5)
        assert answer and "user:" not in answer
        with pytest.raises(SpecError, match="refuses \\(system comes first\\); change its roles"):
            beginnings(lm, [[*talk, {"role": "system", "content": "be brief"}]])
    finally:
        lm.tokenizer.chat_template = None


def test_a_prompt_that_leaves_no_room_is_told_not_cut(lm):
    with pytest.raises(SpecError, match="prompt 2 = 'the the .*…', but it is 3.. tokens and .* reads at most 128"):
        beginnings(lm, ["a", "the " * 300])
    with pytest.raises(SpecError, match=r"prompts = \[\], but a model goes on from something"):
        beginnings(lm, [])
    assert beginnings(lm, [""])[0].token_id.tolist() == [0]


# the model itself


@pytest.mark.parametrize("positions", ["all", "last"])
def test_a_model_that_is_held_says_what_ours_says_to_any_caller_and_is_itself_again(several, positions):
    prompts = several.prompts(["The old man", "The cat"])[: 2 if positions == "all" else 1]
    for mode in MODES:
        rows = [Row(p, pushes_of(mode)) for p in prompts]
        ours_RV = several.next_log_probs(rows, positions)
        texts = several.continuations(rows, 6, temperature=0, positions=positions)
        with holding(several, pushes_of(mode), positions) as model:
            for row, ours, text in zip(rows, ours_RV, texts, strict=True):
                ids = torch.from_numpy(row.prompt.token_id)[None]
                torch.testing.assert_close(model(ids).logits[0, -1].log_softmax(-1), ours, atol=1e-4, rtol=1e-4)
                said = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, pad_token_id=0)
                assert several.text_after(row.prompt, said[0, ids.shape[1] :].tolist()) == text
    ids = torch.from_numpy(prompts[0].token_id)[None]
    plain = several.lm.model(ids).logits
    with holding(several, pushes_of("clamp"), positions) as model:
        embedded = model.get_input_embeddings()(ids)  # BOS among them, which is left as it is
        torch.testing.assert_close(model(inputs_embeds=embedded).logits, model(ids).logits)
        options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
        said = model.generate(inputs_embeds=embedded, **options)
        assert said[0].tolist() == model.generate(ids, **options)[0, ids.shape[1] :].tolist()
    with pytest.raises(ZeroDivisionError), holding(several, pushes_of("add")) as model:
        assert not torch.equal(model(ids).logits, plain)
        raise ZeroDivisionError
    assert torch.equal(several.lm.model(ids).logits, plain)
