"""What every explainer promises. A new file in ``tasks/explainers`` is held to it before anybody tests it."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import yaml

import tasks.explainers
from tasks.clients.base import Reply
from tasks.explainers.base import Explainer, Explanation
from tasks.kinds import decode, kinds
from tests.fake_anthropic import by_schema
from tests.planted import CANARY, WORDS, dead, knowing, latent_examples

CONF = Path(__file__).parents[2] / "conf/explainer"
every = pytest.mark.parametrize("kind", kinds(tasks.explainers))


@pytest.fixture(scope="module", autouse=True)
def a_file_of_explanations(tmp_path_factory):
    """What kinds with a ``path`` read: explanations of latents 0 to 4, of which 4 could not be explained."""
    file = tmp_path_factory.mktemp("explanations") / "explanations.csv"
    rows = [f"{i},ok,the word {WORDS[i]}" for i in range(4)]
    file.write_text("\n".join(["latent,status,label", *rows, "4,refused,"]))
    SOURCE["path"] = str(file)


SOURCE: dict[str, str] = {}


def explainer(kind: str) -> Explainer:
    """The kind as its YAML has it, made ready as composing a run does."""
    fields = yaml.safe_load((CONF / f"{kind}.yaml").read_text())
    return decode(tasks.explainers, {**fields, **(SOURCE if "path" in fields else {})}, "explainer").pinned()


def answered(requests) -> list[Reply]:
    """Replies of an LLM that looks, or that at least keeps to the schema."""
    found = []
    for request in requests:
        params = {"messages": [{"content": request.user}], "output_config": {"format": {"schema": request.schema}}}
        try:
            text = json.dumps(knowing(params))
        except (ValueError, KeyError):
            text = json.dumps(by_schema(params))
        found.append(Reply("", "ok", text))
    return found


def explained(kind: str, examples) -> Explanation:
    one = explainer(kind)
    return one.read(answered(one.requests(examples)), examples)


@every
def test_its_yaml_has_every_field_and_only_those(kind):
    filled = {"fingerprint"}  # when a run is composed
    assert set(yaml.safe_load((CONF / f"{kind}.yaml").read_text())) == set(type(explainer(kind)).model_fields) - filled


@every
def test_what_it_says_is_one_clean_line_about_what_it_promises(kind):
    for latent in range(4):
        found, says = explained(kind, latent_examples(latent)), type(explainer(kind)).SAYS
        assert found.latent == latent
        if says == "nothing":
            assert (found.status, found.label, found.confidence) == (kind, "", None)
            continue
        assert found.status == "ok" and found.label and found.label.isprintable()
        assert (WORDS[latent] in found.label) == (says == "own") and any(word in found.label for word in WORDS)
        assert found.confidence is None or 0 <= found.confidence <= 1
        json.dumps([found.predicate, found.evidence])


@every
def test_a_rule_is_given_by_all_that_promise_one(kind):
    one = explainer(kind)
    assert not one.GIVES_PREDICATE or explained(kind, latent_examples(0)).predicate
    assert not (one.GIVES_PREDICATE and one.NEEDS_CLIENT)


@every
def test_the_same_examples_give_the_same_requests_and_explanation(kind):
    one, examples = explainer(kind), latent_examples(1)
    assert one.requests(examples) == explainer(kind).requests(latent_examples(1))
    assert explained(kind, examples) == explained(kind, latent_examples(1))


@every
def test_windows_for_scoring_are_never_looked_at(kind):
    examples = latent_examples(2)
    train_only = dataclasses.replace(examples, windows=tuple(w for w in examples.windows if w.split == "train"))
    kept = [i % 2 == 0 for i in range(len(examples.amplified.prompts))]  # of continuations, scorers judge every other
    half = {
        name: tuple(text if keep else "judged" for text, keep in zip(getattr(examples.amplified, name), kept, strict=True))
        for name in ("prompts", "untouched", "steered")
    }
    train_only = dataclasses.replace(train_only, amplified=dataclasses.replace(examples.amplified, **half))
    assert explainer(kind).requests(examples) == explainer(kind).requests(train_only)
    assert explained(kind, examples) == explained(kind, train_only)


@every
def test_a_latent_without_examples_is_not_asked_about_and_has_no_label(kind):
    one = explainer(kind)
    assert one.requests(dead(7)) == []
    found = explained(kind, dead(7))
    if "path" in type(one).model_fields or one.SAYS == "nothing":  # these do not look at examples
        assert found == dataclasses.replace(explained(kind, latent_examples(7)), latent=7)
    else:
        assert (found.latent, found.label) == (7, "") and found.status in ("too_few_examples", "not_amplified")


@every
def test_without_ok_there_is_no_label_and_the_status_is_one_word(kind):
    one = explainer(kind)
    for examples in (dead(7), latent_examples(4), latent_examples(11, n=1)):
        found = one.read(answered(one.requests(examples)), examples)
        assert re.fullmatch("[a-z_]+", found.status) and (found.status == "ok") == bool(found.label)


@every
def test_an_sae_that_it_can_explain_is_not_complained_of(kind):
    explainer(kind).check()
    explainer(kind).check(n_latents=12, sae="train/" + "0" * 64)


@every
def test_only_explainers_that_say_so_ask_anything(kind):
    one = explainer(kind)
    assert bool(one.requests(latent_examples(0))) == one.NEEDS_CLIENT


@every
def test_corpus_text_moves_nothing_but_the_data_of_a_request(kind):
    examples = latent_examples(0)
    sly = dataclasses.replace(
        examples,
        windows=tuple(dataclasses.replace(w, tokens=(CANARY, *w.tokens[1:])) for w in examples.windows),
        sentences=tuple(dataclasses.replace(s, text=f"{CANARY} {s.text}") for s in examples.sentences),
        promoted=((CANARY, 1.0), *examples.promoted),
        amplified=dataclasses.replace(examples.amplified, steered=tuple(CANARY + t for t in examples.amplified.steered)),
    )
    one = explainer(kind)
    for plain, request in zip(one.requests(examples), one.requests(sly), strict=True):
        assert request.system == plain.system and request.schema == plain.schema
        assert isinstance(json.loads(request.user.encode()), dict) and CANARY not in request.user
    found = explained(kind, sly)
    assert found.label.isprintable()


@every
@pytest.mark.parametrize("status", ["refused", "truncated", "errored", "expired", "canceled", "missing"])
def test_a_reply_that_failed_is_a_status_and_never_a_label(kind, status):
    one, examples = explainer(kind), latent_examples(0)
    requests = one.requests(examples)
    if not requests:
        pytest.skip(f"{kind} asks nothing")
    found = one.read([Reply("", status, "half a sen", detail="why")] * len(requests), examples)
    assert (found.status, found.label, found.confidence) == (status, "", None)


@every
@pytest.mark.parametrize("text", ["", "prose", "null", "[]", "{}", '{"label": 1}', '{"label": "x'])
def test_a_reply_that_says_nothing_is_unparsable_and_never_an_exception(kind, text):
    one, examples = explainer(kind), latent_examples(0)
    requests = one.requests(examples)
    if not requests:
        pytest.skip(f"{kind} asks nothing")
    found = one.read([Reply("", "ok", text)] * len(requests), examples)
    assert (found.status, found.label) == ("unparsable", "")
