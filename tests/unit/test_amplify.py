"""The stage amplify on the planted subject, and what is explained and scored with it."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from artifacts.errors import LeaseLost
from artifacts.store import Store
from flows.config import load
from flows.plan import plan
from flows.recipes import recipes
from flows.sweep import Job as SweepJob
from tasks.amplify import PROMPTS, AmplifySpec, amplified, amplify
from tasks.clients.anthropic_batch import AnthropicBatch
from tasks.clients.base import Reply
from tasks.explain import ExplainSpec, explain, explanations
from tasks.explainers.base import Explanation
from tasks.explainers.output import Output
from tasks.lms.hf import HF
from tasks.provide import ProvideSpec, provide
from tasks.score import ScoreSpec, score
from tasks.scorers.generation import Generation
from tasks.scorers.intervention import Intervention
from tasks.spec import Runtime, Spec, SpecError
from tasks.stage import Job, Summary, stage
from tasks.steering.push import Push
from tests import subjects
from tests.fake_anthropic import FakeAnthropic
from tests.making import make
from tests.planted import CANARY, WORDS, knowing, latent_examples, world
from tests.subjects import effect

PLANTED = ("the", "it was", "of a", "then some")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Recipes of the planted language model, SAE and mine, in a store."""
    top = tmp_path_factory.mktemp("amplify")
    lm = provide(ProvideSpec(lm=HF(path=str(subjects.write(top / "model"))).pinned()))
    store = Store.at(top / "s")
    found = {"lm": lm, "sae": planted_sae(SAESpec()), "mine": world(n_latents=6, n_dead=1)}
    for recipe in found.values():
        make(recipe, store)
    return found, store


class SAESpec(Spec):
    pass


@stage("planted_sae", version=1)
def planted_sae(job: Job[SAESpec]) -> Summary:
    subjects.world().sae.save(job.out)
    return {}


def recipe(inputs, **fields):
    return amplify(AmplifySpec(**{"prompts": PLANTED, "n_tokens": 6, **fields}), **inputs)


def test_each_latent_that_fired_is_turned_up_until_the_next_token_has_moved_by_the_target(inputs):
    found, store = inputs
    opened = make(recipe(found), store)
    held = amplified(opened)
    assert list(held) == [0, 1, 2, 3, 4] and 5 not in held  # 5 is dead
    assert opened.summary["n"] == 6 and opened.summary["n_amplified"] == opened.summary["n_reached"] == 5
    subject = subjects.world()
    for latent, one in held.items():
        assert abs(one.kl - 0.5) <= 0.05
        assert one.raised[0][0] == f" {WORDS[latent]}" and one.raised[0][1] > 0 > one.lowered[0][1]
        again = effect(subject, subject.prompts(PLANTED), [Push(latent, one.strength, 10.0)])
        assert one.kl == pytest.approx(again.kl, rel=1e-3)  # its planted largest activation is 10
        shown = effect(subject, subject.prompts(PLANTED[::2]), [Push(latent, one.strength, 10.0)])
        assert one.raised[0] == (shown.raised[0][0], pytest.approx(shown.raised[0][1], rel=1e-3))
        assert one.prompts == PLANTED and len(one.untouched) == len(one.steered) == 4
        assert one.untouched == held[0].untouched != one.steered
    rows = pq.read_table(opened.path / "amplified.parquet").to_pylist()
    assert all(row["reached"] and 1 <= row["n_tries"] <= 12 for row in rows)


def test_a_strength_that_is_given_is_taken_and_any_choice_of_latents_gives_the_same_rows(inputs):
    found, store = inputs
    strong = amplified(make(recipe(found, strength=3.0), store))
    assert all(one.strength == 3.0 and one.kl > 5 for one in strong.values())
    assert all(text.split() == [WORDS[3]] * 6 for text in strong[3].steered)
    few = amplified(make(recipe(found, strength=3.0, latents=[1, 3]), store))
    assert dict(few) == {1: strong[1], 3: strong[3]}


def test_a_latent_goes_on_from_its_own_silent_windows_too(inputs):
    found, store = inputs
    held = amplified(make(recipe(found, n_window_prompts=3, window_prompt_tokens=5), store))
    for one in held.values():
        assert len(one.prompts) == 7 and one.prompts[:4] == PLANTED and len(set(one.prompts[4:])) == 3
        assert all(len(prompt.split()) == 4 for prompt in one.prompts[4:])
    assert held[0].prompts != held[1].prompts
    only = amplified(make(recipe(found, prompts=(), n_window_prompts=2, latents="4:6"), store))
    assert list(only) == [4] and len(only[4].prompts) == 2


def test_what_is_too_long_or_empty_is_told_before_any_work(inputs):
    found, store = inputs
    with pytest.raises(SpecError, match="amplify.n_tokens = 63, but .* reads at most 64 tokens and a prompt has 3; use 61"):
        make(recipe(found, n_tokens=63), store)
    with pytest.raises(SpecError, match=r"amplify.prompts = \[\], but a model goes on from something"):
        make(recipe(found, prompts=()), store)


def test_a_killed_run_goes_on_from_the_blocks_that_are_done(inputs, monkeypatch, tmp_path):
    import tasks.amplify as module

    found, store = inputs
    monkeypatch.setattr(module, "_BLOCK_LATENTS", 2)
    whole, rows = recipe(found, seed=7), module._Amplifying.rows
    blocks = []

    def dies(self, block):
        blocks.append([one.latent for one in block])
        if len(blocks) == 2:
            raise LeaseLost("killed")
        return rows(self, block)

    monkeypatch.setattr(module._Amplifying, "rows", dies)
    with pytest.raises(LeaseLost):
        make(whole, store)
    again = amplified(make(whole, store))
    assert blocks == [[0, 1], [2, 3], [2, 3], [4]]
    monkeypatch.undo()
    assert dict(again) == dict(amplified(make(whole, Store.at(tmp_path))))


def test_what_a_latent_does_is_explained_and_told_in_text_that_no_explainer_saw(inputs, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-canary-key")
    found, store = inputs
    client, mined = AnthropicBatch(), found["mine"]
    prompts = ("the", "it was", "of a", "then some", "and", "by", "with it", "over a")
    turned = recipe(found, prompts=prompts, target_kl=3.0)
    explained = explain(ExplainSpec(explainer=Output(), client=client), mine=mined, amplify=turned)
    told = score(ScoreSpec(scorer=Intervention(), client=client), mine=mined, explain=explained, amplify=turned)
    written = score(ScoreSpec(scorer=Generation(), client=client), mine=mined, explain=explained, lm=found["lm"], sae=found["sae"])
    asked = []

    def answer(params):
        asked.append(json.loads(params["messages"][0]["content"]))
        return knowing(params)

    with FakeAnthropic(answer=answer) as api:
        runtime = Runtime(mode="inline", device="cpu", base_url=api.url, poll_seconds=0.02)
        said = explanations(make(explained, store, runtime))
        assert [said[i].label for i in range(5)] == [f"the word {w}" for w in WORDS[:5]]
        assert said[5].status == "not_amplified" and said[0].evidence["raised"][0] == " cat"
        one, other = (make(r, store, runtime).summary for r in (told, written))
    assert (one["mean"], one["n_ok"], one["statuses"]) == (1.0, 5, {"no_explanation": 1, "ok": 5})
    assert one["control_mean"] < 0.9 and (other["mean"], other["control_mean"]) == (1.0, 0.0)
    shown = {c["beginning"] for a in asked if "continuations" in a for c in a["continuations"]}
    judged = {pair["beginning"] for a in asked if "pairs" in a for pair in a["pairs"].values()}
    assert shown == set(prompts[::2]) and judged == set(prompts[1::2])


# the scorers by themselves


CAT = Explanation(0, "ok", "the word cat")


def generated(texts, **fields):
    reply = Reply("d", "ok", json.dumps({"texts": texts}))
    return Generation(**fields).score([reply], CAT, latent_examples(0), 0, subjects.bench())


def replied(answer) -> list[Reply]:
    return [Reply("d", "ok", json.dumps(answer))]


def test_texts_with_the_word_activate_and_others_do_not():
    found = generated(["the cat", "a cat by the", "river of a", "it was"])
    assert (found.value, found.n, found.status) == (0.5, 4, "ok") and found.low < 0.5 < found.high
    assert [a.predicted for a in found.answers] == [True, True, False, False]
    assert found.extra["chance"] == found.base_rate == pytest.approx(1 - (0.99**2 + 0.99**4 + 0.99**3 + 0.99**2) / 4)
    assert found.extra["n_missing"] == 6 and found.extra["texts"][0]["strength"] > 0.1 > found.extra["texts"][1]["strength"]


def test_a_text_on_which_the_model_overflows_is_missing(monkeypatch):
    import tasks.steering.firing

    def overflowing(*given):
        found = list(fired(*given))
        return [found[0]._replace(value_TL=found[0].value_TL * float("nan")), *found[1:]]

    fired = tasks.steering.firing.fired
    monkeypatch.setattr(tasks.steering.firing, "fired", overflowing)
    found = generated(["the cat", "a cat"])
    assert (found.value, found.n, found.extra["n_missing"]) == (1.0, 1, 9)
    json.dumps(found.extra, allow_nan=False)


def test_a_latent_that_fires_too_weakly_does_not_count():
    (own,) = {round(answer.probability, 3) for answer in generated(["a cat"]).answers}
    for threshold, value in ((own - 0.01, 1.0), (own + 0.01, 0.0)):
        assert generated(["a cat"], threshold=threshold).value == value


@pytest.mark.parametrize(
    "answer", [{}, [], {"texts": "cat"}, {"texts": []}, {"texts": [1, None]}, {"texts": ["", " \n"]}, {"texts": {"a": "cat"}}, None]
)
def test_a_reply_without_texts_is_unparsable(answer):
    found = Generation().score(replied(answer), Explanation(0, "ok", "cat"), latent_examples(0), 0, subjects.bench())
    assert (found.status, found.value) == ("unparsable", None)


@pytest.mark.parametrize("around", ["Here they are:\n```json\n{}\n```\nI hope {{they}} help.", '{{"texts": []}} {} done'])
def test_texts_and_choices_are_read_out_of_prose(around):
    def within(answer) -> list[Reply]:
        return [Reply("d", "ok", around.format(json.dumps(answer)))]

    assert Generation().texts(within({"texts": ["a cat", "the cat"]})[0]) == ["a cat", "the cat"]
    scorer, examples = Intervention(), latent_examples(1)
    truth = {str(i + 1): "second" if last else "first" for i, (*_, last) in enumerate(scorer.pairs(examples, 0))}
    assert scorer.score(within({"answers": truth}), CAT, examples, 0).value == 1.0
    twice = json.dumps({"answers": truth})[:-2] + ', "1": "first"}}'
    found = scorer.score([Reply("d", "ok", twice)], CAT, examples, 0)
    assert (found.n, found.answers[0].predicted) == (7, None), "which of the two was meant is unknown"


def test_a_text_is_known_by_what_it_says():
    one, other = generated(["the cat", "a cat"]), generated(["a cat", "it was"])
    names = [[answer.window_id for answer in found.answers] for found in (one, other)]
    assert names[0][1] == names[1][0] and len({*names[0], *names[1]}) == 3


def test_texts_that_repeat_are_too_many_or_are_too_long_count_once_not_at_all_and_cut():
    scorer = Generation(n_texts=3, max_characters=20)
    (reply,) = replied({"texts": ["a cat", " a cat ", "", "the " * 50 + "cat", "it was", "a cat by \ud800", "one more"]})
    assert scorer.texts(reply) == ["a cat", "the " * 5, "it was"]
    found = scorer.score([reply], Explanation(0, "ok", "cat"), latent_examples(0), 0, subjects.bench())
    assert (found.n, found.value, found.extra["n_missing"]) == (3, pytest.approx(1 / 3), 0)


def test_as_many_pairs_have_the_steered_text_first_as_second_and_equal_texts_are_not_asked_about():
    import dataclasses

    examples = latent_examples(1)
    pairs = Intervention(n_pairs=20).pairs(examples, 0)
    assert len(pairs) == 8 and sum(last for *_, last in pairs) == 4
    assert all((WORDS[1] in second) == last != (WORDS[1] in first) for _, first, second, last in pairs)
    orders = {tuple(last for *_, last in Intervention(n_pairs=20).pairs(examples, seed)) for seed in range(8)}
    assert len(orders) > 4  # and no pattern that a judge could learn
    same = dataclasses.replace(examples.amplified, steered=examples.amplified.untouched[:10] + examples.amplified.steered[10:])
    scorer, alike = Intervention(), dataclasses.replace(examples, amplified=same)
    assert scorer.pairs(alike, 0) == [] and len(Intervention(min_pairs=3).pairs(alike, 0)) == 3
    assert scorer.score([], Explanation(1, "ok", "river"), alike, 0).status == "too_few_examples"


def test_a_judge_that_always_says_the_same_scores_one_half_and_what_it_leaves_out_is_missing():
    examples, explanation = latent_examples(1), Explanation(1, "ok", "the word river")
    scorer = Intervention()
    for choice in ("first", "second"):
        found = scorer.score(replied({"answers": {str(i): choice for i in range(1, 9)}}), explanation, examples, 0)
        assert (found.value, found.n, found.n_positive, found.base_rate) == (0.5, 8, 4, 0.5)
    odd = {"1": "first", "2": True, "3": "both", "4": ["first"], "9": "second", "x": "first"}
    found = scorer.score(replied({"answers": odd}), explanation, examples, 0)
    assert found.n == 1 and found.extra["n_missing"] == 7 and sum(a.predicted is not None for a in found.answers) == 1


def test_the_output_explainer_says_what_it_rests_on_and_shows_hostile_text_as_data():
    import dataclasses

    examples = latent_examples(2)
    hostile = dataclasses.replace(examples.amplified, prompts=(CANARY,) * 16, raised=((CANARY, 0.5),))
    (request,) = Output().requests(dataclasses.replace(examples, amplified=hostile))
    shown = json.loads(request.user)
    assert shown["raised"] == [[CANARY, 50.0]] and CANARY not in request.user and CANARY not in request.system
    assert len(shown["continuations"]) == 8 and set(shown["continuations"][0]) == {"beginning", "untouched", "steered"}
    none = dataclasses.replace(examples, amplified=None)
    assert Output().requests(none) == [] and Output().read([], none).status == "not_amplified"


# in a run


def test_amplify_is_made_only_for_those_who_rest_on_it_and_the_plan_shows_it(monkeypatch, tmp_path):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test")
    client = ["client=anthropic_batch", f"backend.root={tmp_path}"]
    plain = recipes(load([*client, "scorers=[detection,generation]"])).named["layers.1"]
    assert "amplify" not in plain and set(plain["score/generation"].inputs) == {"mine", "explain", "lm", "sae"}
    overrides = [*client, "explainer=output", "scorers=[intervention]", "explain.latents=0:7", "amplify.target_kl=1"]
    named = recipes(load(overrides)).named["layers.1"]
    turned = named["amplify"]
    assert turned.spec.latents == "0:7" and turned.spec.target_kl == 1 and turned.spec.prompts == PROMPTS
    assert named["explain"].inputs["amplify"] is turned is named["score/intervention"].inputs["amplify"]
    line = next(line for line in plan([SweepJob((), {}, load(overrides))]).lines if line.stage == "amplify")
    assert (line.n, line.missing, line.usd) == (1, 1, 0.0) and line.n_tokens
    with pytest.raises(SpecError, match="amplify.target_kl = -1"):
        recipes(load([*client, "explainer=output", "amplify.target_kl=-1"]))
