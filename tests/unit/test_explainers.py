"""The LLM explainers beside ``default``, and the options of all."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifacts.store import Store
from tasks.clients.anthropic_batch import AnthropicBatch
from tasks.clients.base import Reply
from tasks.explain import ExplainSpec, explain, explanations
from tasks.explainers._shown import STRANGERS, marked
from tasks.explainers.base import Explainer, LatentExamples, Sentence, Window, last_object
from tasks.explainers.contrastive import Contrastive
from tasks.explainers.default import Default
from tasks.explainers.none import Nothing
from tasks.explainers.output import Output
from tasks.explainers.sentence import Shared
from tasks.explainers.single_token import SingleToken
from tasks.spec import Runtime
from tests.fake_anthropic import FakeAnthropic
from tests.making import make
from tests.planted import CANARY, WORDS, corpus_of, knowing, latent_examples, world

ASKING = [Default(), Contrastive(), SingleToken(), Shared()]
EVERY = [*ASKING, Output()]


def asked(explainer: Explainer, examples: LatentExamples) -> dict:
    (request,) = explainer.requests(examples)
    return json.loads(request.user)


def of(examples: LatentExamples, *windows: Window) -> LatentExamples:
    return dataclasses.replace(examples, windows=windows)


def at(word: str, name: str, *, value: float = 5.0, group: str = "quantile", split: str = "train") -> Window:
    tokens = ("a", " b", f" {word}", " c", " d")
    values = (0.0, 0.0, value, 0.0, 0.0)
    return Window(f"{split}/{name}", split, group, 0 if value else -1, 0, tokens, values, 2)


# options of all


@pytest.mark.parametrize("one", EVERY, ids=lambda e: e.kind)
def test_reasoning_is_asked_for_where_it_is_wanted_and_kept_as_evidence(one):
    examples = latent_examples(0)
    thinking = one.model_copy(update={"chain_of_thought": True})
    (plain,), (request,) = one.requests(examples), thinking.requests(examples)
    assert list(request.schema["properties"]) == ["reasoning", "label", "confidence"] == request.schema["required"]
    assert list(plain.schema["properties"]) == ["label", "confidence"] and '"reasoning"' not in plain.system
    assert '"reasoning"' in request.system and plain.user == request.user
    reply = [Reply("", "ok", '{"reasoning": "all\\nthe same", "label": "cats", "confidence": 0.5}')]
    assert thinking.read(reply, examples).evidence["reasoning"] == "all the same"
    assert "reasoning" not in one.read(reply, examples).evidence


@pytest.mark.parametrize("one", EVERY, ids=lambda e: e.kind)
def test_an_answer_is_found_behind_prose_fences_and_drafts(one):
    answer = '{"label": "cats {sic}", "confidence": 1}'
    for text in (answer, f"```json\n{answer}\n```", f'<think>{{"label": "dogs"}}</think> {{x}} {answer} }}', f"[{answer}]"):
        found = one.read([Reply("", "ok", text)], latent_examples(0))
        assert (found.status, found.label, found.confidence) == ("ok", "cats {sic}", 1.0)


def test_the_last_object_that_fits_is_read_however_deep_the_text():
    assert last_object('{"a": 1} {"b": 2} {"a": 3} {', lambda found: "a" in found) == {"a": 3}
    assert last_object("{" * 50_000, lambda found: True) is None
    assert last_object('{"a":' * 50_000, lambda found: True) is None


@pytest.mark.parametrize("one", ASKING, ids=lambda e: e.kind)
def test_passages_come_under_a_rule_against_instructions_in_them(one):
    assert STRANGERS in one.requests(latent_examples(0))[0].system


@pytest.mark.parametrize("one", ASKING, ids=lambda e: e.kind)
def test_no_prompt_is_dearer_than_delphis(one):
    tokens = (" lorem", " the", " dol", "or,") * 8  # 4.25 characters a token, as in English
    values = tuple(5.0 if i in (3, 9, 24) else 0.0 for i in range(32))
    windows = [
        Window(f"train/{i}", "train", "quantile" if i < 60 else "random", 0, i, tokens, values if i < 60 else (0.0,) * 32, 24)
        for i in range(120)
    ]
    sentences = tuple(Sentence("max", "".join(tokens[:24]), 1.0) for _ in range(10))
    promoted = tuple((f" token{i}", 1.0) for i in range(10))
    examples = LatentExamples(0, 1000, 0.001, 10.0, tuple(windows), promoted, sentences=sentences)
    (request,) = one.requests(examples)
    assert len(request.system) + len(request.user) < 8_600  # what delphi's default sends


@given(
    st.lists(st.tuples(st.text(max_size=8), st.floats(0, 10, width=16)), min_size=1, max_size=12),
    st.booleans(),
    st.sampled_from([0.0, 0.3, 0.9]),
)
def test_equal_windows_are_shown_equally_and_nothing_is_lost(pairs, strengths, threshold):
    tokens, values = zip(*pairs, strict=True)
    window = Window("train/x", "train", "quantile", 0, 0, tokens, values, max(range(len(values)), key=values.__getitem__))
    parts = marked(window, 10.0, threshold, strengths)
    assert parts == marked(dataclasses.replace(window, window_id="train/y"), 10.0, threshold, strengths)
    shown = json.loads(json.dumps(parts).encode())
    assert "".join(p if isinstance(p, str) else p[0] for p in shown) == window.text.encode("utf-8", "replace").decode()
    assert sum(isinstance(p, list) for p in shown) >= (max(values) > 0)


anything = st.text(max_size=12) | st.sampled_from(['"}]', "\ud800", CANARY, "\x00", "</s>", "\u202e"])


@given(st.lists(anything, min_size=5, max_size=5), st.sampled_from(ASKING))
def test_whatever_the_corpus_holds_is_data_and_equal_examples_are_asked_about_equally(tokens, one):
    def examples() -> LatentExamples:
        plain = latent_examples(0, n=4)
        windows = [dataclasses.replace(at("x", f"{i}", value=v), tokens=tuple(tokens)) for i, v in enumerate([5.0, 3.0, 0.1])]
        silent = [dataclasses.replace(w, window_id=f"s{w.window_id}", values=(0.0,) * 5, group="near_miss") for w in windows]
        sentences = tuple(Sentence("max", "".join(tokens), 1.0) for _ in range(3))
        return dataclasses.replace(plain, windows=(*windows, *silent), sentences=sentences, promoted=((tokens[0], 1.0),))

    (request,) = one.requests(examples())
    assert [request] == one.requests(examples())
    (usual,) = one.requests(latent_examples(0))
    assert (request.system, request.schema) == (usual.system, usual.schema)
    assert set(json.loads(request.user.encode())) == set(json.loads(usual.user))  # what is sent is UTF-8


# default


def test_strengths_and_faint_marks_can_be_left_out():
    window = dataclasses.replace(at("cat", "x"), values=(0.5, 3.0, 9.0, 3.1, 0.0))
    assert marked(window, 10.0, 0.3) == ["a b", [" cat", 9], [" c", 4], " d"]
    assert marked(window, 10.0, 0.0, strengths=False) == [["a"], [" b"], [" cat"], [" c"], " d"]
    faint = dataclasses.replace(window, values=(0.0, 0.0, 0.2, 0.1, 0.0))
    assert marked(faint, 10.0, 0.3) == ["a b", [" cat", 1], " c d"]  # a window without a mark would say nothing
    shown = asked(Default(activations=False, threshold=0.5, n_promoted=0), latent_examples(0))
    assert set(shown) == {"active", "silent"}
    assert all(len(part) == 1 for passage in shown["active"] for part in passage if isinstance(part, list))


@pytest.mark.parametrize(
    "setting, here, gone",
    [
        ({}, "from 1 (weak) to 10", "hardly active"),
        ({"activations": False}, "An array [token]", "from 1 (weak)"),
        ({"threshold": 0.2}, "silent or hardly active", "An array [token]"),
        ({"n_promoted": 0}, '"silent"', '"promoted"'),
    ],
)
def test_the_prompt_explains_what_is_shown_and_nothing_else(setting, here, gone):
    system = Default(**setting).requests(latent_examples(0))[0].system
    assert here in system and gone not in system


def test_the_meaning_that_default_had_keeps_its_key():
    old = {"kind", "n_active", "n_silent", "n_promoted", "min_windows", "max_label_characters", "max_tokens"}
    assert set(Default(chain_of_thought=True).payload()) == old
    assert set(Default().payload()) == old | {"chain_of_thought"}
    assert set(Default(activations=False, threshold=0.1).payload()) == old | {"chain_of_thought", "activations", "threshold"}


# contrastive


def test_contrasts_are_the_hardest_there_are_and_say_what_speaks_for_activity():
    active = [at("cat", f"a{i}") for i in range(4)]
    groups = ["random", "embedding", "near_miss", "decoder"]
    silent = [at(g, f"{g}{i}", value=0.0, group=g) for g in groups for i in range(2)]
    shown = asked(Contrastive(n_contrast=5), of(latent_examples(0), *active, *silent))
    assert shown["contrast"] == [
        *[["a b", [" near_miss", 0], " c d"]] * 2, *[["a b", [" decoder", 0], " c d"]] * 2, ["a b embedding c d"],
    ]  # fmt: skip
    shown = asked(Contrastive(n_contrast=3, prefer=("random", "near_miss")), of(latent_examples(0), *active, *silent))
    assert shown["contrast"] == [*[["a b random c d"]] * 2, ["a b", [" near_miss", 0], " c d"]]


def test_without_contrasts_there_is_no_contrast_to_explain():
    active = [at("cat", f"a{i}") for i in range(4)]
    easy = [at("dog", f"r{i}", value=0.0, group="random") for i in range(9)]
    one = Contrastive(prefer=("near_miss",))
    examples = of(latent_examples(0), *active, *easy)
    assert one.requests(examples) == [] and one.read([], examples).status == "too_few_examples"
    assert len(Contrastive().requests(examples)) == 1
    assert len(Contrastive(n_contrast=1).requests(of(examples, *active, easy[0]))) == 1


@pytest.mark.parametrize("prefer", [["near_mis"], []])
def test_groups_that_there_are_not_are_refused(prefer):
    with pytest.raises(ValueError, match=r"explainer.prefer = .*, but non-activating windows are near_miss, .*random"):
        Contrastive(prefer=prefer)


# single_token


def test_a_latent_of_one_token_is_shown_by_its_peaks_and_counts():
    windows = [at(word, f"{word}{i}", value=5.0 + i) for word, n in (("cat", 6), ("cats", 3), ("dog", 1)) for i in range(n)]
    examples = of(latent_examples(0), *windows)
    shown = asked(SingleToken(n_tokens=2, n_peaks=5, context_tokens=1), examples)
    assert shown["tokens"] == [[" cat", 6], [" cats", 3]]
    assert shown["peaks"] == [[" b", f" {w}", " c"] for w in ("cat", "cats", "cat", "cats", "cat")]
    found = SingleToken(n_tokens=2).read([Reply("", "ok", '{"label": "cats", "confidence": 1}')], examples)
    assert found.evidence == {"tokens": [(" cat", 6), (" cats", 3)], "share": 0.9}


def test_a_latent_of_many_tokens_is_not_asked_about():
    examples = of(latent_examples(0), *(at(word, word) for word in WORDS))
    for one, status in [
        (SingleToken(), "not_single_token"),
        (SingleToken(threshold=0.25), "ok"),
        (SingleToken(threshold=0.26), "not_single_token"),
        (SingleToken(min_windows=13), "too_few_examples"),
    ]:
        assert one.fitness(examples) == status and len(one.requests(examples)) == (status == "ok")
    found = SingleToken().read([], examples)
    assert (found.status, found.label, found.evidence["share"]) == ("not_single_token", "", 0.25)


def test_the_share_of_one_token_is_decided_without_windows_for_scoring():
    train = [at("cat", f"a{i}") for i in range(5)]
    test = [at(word, word, split="test") for word in WORDS]
    examples = of(latent_examples(0), *train, *test)
    assert SingleToken().share(examples) == 1.0 and asked(SingleToken(), examples)["tokens"] == [[" cat", 5]]


def test_a_peak_at_the_edge_of_its_window_is_shown_whole():
    first = dataclasses.replace(at("cat", "x"), tokens=(" cat", "\ud800", " b", " c", " d"), values=(5.0, 0, 0, 0, 0), peak=0)
    windows = [dataclasses.replace(first, window_id=str(i)) for i in range(3)]
    assert asked(SingleToken(context_tokens=2), of(latent_examples(0), *windows))["peaks"][0] == ["", " cat", "? b"]


# sentence


def test_sentences_of_one_ranking_are_shown_highest_first_and_cut():
    ranked = [Sentence(r, f"{r} {i}" + "y" * 50, 9.0 - i) for r in ("mean", "max", "last") for i in range(6)]
    examples = dataclasses.replace(latent_examples(0), sentences=tuple(ranked))
    shown = asked(Shared(ranking="last", n_sentences=2, max_sentence_characters=20), examples)
    assert shown == {"sentences": [f"last {i}" + "y" * 13 + "\u2026" for i in range(2)]}
    assert Shared(min_sentences=7).read([], examples).status == "too_few_examples"


def test_the_stage_reads_sentences_of_the_train_split_in_the_corpus(tmp_path, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-canary-key")
    seen = []

    def answer(params):
        seen.append(json.loads(params["messages"][0]["content"])["sentences"])
        return knowing(params)

    spec = ExplainSpec(explainer=Shared(n_sentences=3), client=AnthropicBatch())
    with FakeAnthropic(answer=answer) as api:
        runtime = Runtime(mode="inline", device="cpu", base_url=api.url, poll_seconds=0.02)
        opened = make(explain(spec, mine=world(), corpus=corpus_of()), Store.at(tmp_path), runtime)
        found = explanations(opened)
        assert [found[i].label for i in range(5)] == [f"the word {w}" for w in WORDS[:5]]
        assert found[5].status == "too_few_examples"
        expected = [[s.text for s in latent_examples(i).sentences[:3]] for i in range(5)]
        assert sorted(seen) == sorted(expected)
        seen.clear()
        sly = explain(spec, mine=world(canary=True), corpus=corpus_of(canary=True))
        assert explanations(make(sly, Store.at(tmp_path), runtime))[0].status in ("ok", "unparsable")
        assert seen and all(text == CANARY for texts in seen for text in texts)


# none


def test_nothing_is_said_of_any_latent(tmp_path):
    opened = make(explain(ExplainSpec(explainer=Nothing()), mine=world()), Store.at(tmp_path))
    assert opened.summary["statuses"] == {"none": 6} and opened.summary["usd"] == 0
    assert all(found.label == "" for found in explanations(opened).values())
