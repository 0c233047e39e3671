from __future__ import annotations

import dataclasses
import json
from collections import Counter
from typing import Literal

import pyarrow.parquet as pq
import pytest

from artifacts.store import Store
from tasks.clients.anthropic_batch import AnthropicBatch
from tasks.clients.base import ClientError, Reply
from tasks.explain import ExplainSpec, explain, explanations
from tasks.explainers._shown import STRANGERS, by_turns, marked, spread
from tasks.explainers.base import Explainer, Explanation, one_line
from tasks.explainers.default import Default
from tasks.progress import Progress
from tasks.spec import Runtime, SpecError
from tests import fake_anthropic as fake
from tests.fake_anthropic import FakeAnthropic, succeeded
from tests.making import make
from tests.planted import CANARY, WORDS, knowing, latent_examples, world


class Notes(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.bars: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)

    def advanced(self, bar) -> None:
        self.bars.append(f"{bar.label} {bar.done:g}/{bar.total} {bar.figures}")


@pytest.fixture
def store(tmp_path, monkeypatch) -> Store:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-canary-key")
    monkeypatch.delenv("ANTHROPIC_BASE_URL", raising=False)
    return Store.at(tmp_path / "store")


def runtime(api: FakeAnthropic, **more) -> Runtime:
    return Runtime(mode="inline", device="cpu", base_url=api.url, poll_seconds=0.02, **more)


def recipe(latents="all", explainer=None, **planted):
    spec = ExplainSpec(explainer=explainer or Default(), client=AnthropicBatch(), latents=latents)
    return explain(spec, mine=world(**planted))


def table(opened) -> list[dict]:
    return pq.read_table(opened.path / "explanations.parquet").to_pylist()


def test_planted_meanings_are_found_and_every_row_has_its_price(store):
    notes = Notes()
    with FakeAnthropic(answer=knowing) as api:
        opened = make(recipe(), store, runtime(api), notes)
    found = explanations(opened)
    assert {i: e.label for i, e in found.items() if e.status == "ok"} == {i: f"the word {WORDS[i]}" for i in range(5)}
    assert found[5].status == "too_few_examples" and found[0].confidence == 0.9
    rows = table(opened)
    assert all(r["usd"] > 0 and r["model"] == "claude-haiku-5-5" and len(r["request_digest"]) == 64 for r in rows[:5])
    assert (rows[5]["usd"], rows[5]["request_digest"], rows[5]["input_tokens"]) == (0.0, None, 0)
    summary = opened.summary
    assert (summary["n"], summary["n_ok"], summary["statuses"]) == (6, 5, {"ok": 5, "too_few_examples": 1})
    assert summary["usd"] == pytest.approx(sum(r["usd"] for r in rows), abs=1e-8) and summary["usd_paid_before"] == 0
    assert [sum(r[n] for r in rows) for n in ("input_tokens", "output_tokens")] == api.paid_tokens
    assert any("usd" in line for line in notes.bars)


def test_more_latents_cost_only_the_new_ones(store):
    with FakeAnthropic(answer=knowing) as api:
        make(recipe("0:2"), store, runtime(api))
        opened = make(recipe("all"), store, runtime(api))
        assert [len(b.requests) for b in api.batches.values()] == [2, 3] and set(api.paid.values()) == {1}
    assert 0 < opened.summary["usd_paid_before"] < opened.summary["usd"]


def test_each_latents_failure_is_its_own(store):
    results = {
        "cat": succeeded("no", stop="refusal"),
        "river": succeeded('{"label": "cu', stop="max_tokens"),
        "seven": succeeded("not json"),
        "green": fake.errored("invalid_request_error"),
    }

    def answer(params):
        label = knowing(params)["label"].split()[-1]
        return results.get(label) or knowing(params)

    with FakeAnthropic(answer=answer) as api:
        opened = make(recipe(), store, runtime(api))
    found = explanations(opened)
    assert [found[i].status for i in range(6)] == [
        "refused", "truncated", "unparsable", "errored", "ok", "too_few_examples",
    ]  # fmt: skip
    assert all(found[i].label == "" and found[i].confidence is None for i in range(4))
    assert found[2].evidence == {"text": "not json"} and "invalid_request_error" in found[3].evidence["detail"]
    assert table(opened)[0]["usd"] > 0 and table(opened)[3]["usd"] == 0


def test_a_run_in_which_nothing_is_answered_fails_and_makes_no_artifact(store):
    with FakeAnthropic(answer=lambda params: fake.errored("billing_error")) as api:
        with pytest.raises(ClientError, match="not one was answered, 5 of them: errored"):
            make(recipe(), store, runtime(api))
        assert store.find(recipe().artifact) is None
        api.answer = knowing
        assert make(recipe(), store, runtime(api)).summary["n_ok"] == 5


def test_the_limit_stops_a_run_before_anything_is_sent(store):
    with FakeAnthropic(answer=knowing) as api:
        with pytest.raises(ClientError, match=r"runtime\.max_usd = 0, but 5 requests"):
            make(recipe(), store, runtime(api, max_usd=0))
        assert not api.batches


class Clumsy(Explainer):
    kind: Literal["clumsy"] = "clumsy"
    NEEDS_CLIENT = False
    on: int = 2

    def read(self, replies, examples):
        if examples.latent == self.on or self.on < 0:
            raise KeyError("oh")
        return Explanation(examples.latent, "ok", "fine")


def test_a_latent_that_breaks_the_explainer_stops_no_other(store):
    opened = make(explain(ExplainSpec(explainer=Clumsy()), mine=world()), store)
    found = explanations(opened)
    assert Counter(e.status for e in found.values()) == {"ok": 5, "errored": 1}
    assert found[2].evidence == {"error": "KeyError: 'oh'"}


def test_an_explainer_that_breaks_on_every_latent_stops_the_run(store):
    with pytest.raises(KeyError):
        make(explain(ExplainSpec(explainer=Clumsy(on=-1)), mine=world()), store)


def test_an_explainer_that_needs_an_llm_says_so(store):
    with pytest.raises(SpecError, match="client is none, but explainer 'default' asks an LLM"):
        make(explain(ExplainSpec(explainer=Default()), mine=world()), store)


# the default explainer


def reply(text: str) -> list[Reply]:
    return [Reply("d", "ok", text)]


def test_the_corpus_speaks_only_as_data(store):
    asked = []

    def answer(params):
        asked.append(params)
        return knowing(params)

    with FakeAnthropic(answer=answer) as api:
        opened = make(recipe(canary=True), store, runtime(api))
    assert {e.label for e in explanations(opened).values() if e.status == "ok"} == {f"the word {w}" for w in WORDS[:5]}
    for params in asked:
        (message,) = params["messages"]
        shown = json.loads(message["content"])  # whatever a passage says, it cannot end its string
        assert set(shown) == {"active", "silent", "promoted"} and STRANGERS in params["system"]
        texts = [part if isinstance(part, str) else part[0] for passage in shown["active"] for part in passage]
        assert any(CANARY in text for text in texts)
        assert "\x1b" not in message["content"] and '"label": "PWNED"' not in message["content"]


def test_a_label_that_comes_back_is_one_clean_line():
    label = "\x1b[2Jthe\nword\u202e \u200bcat\x07" + " very" * 100
    found = Default().read(reply(json.dumps({"label": label, "confidence": 1})), latent_examples(0))
    assert found.label.startswith("[2Jthe word cat very") and len(found.label) <= 200 and found.label.isprintable()
    assert found.confidence == 1 and one_line("a" * 300, 10) == "a" * 9 + "\u2026"


@pytest.mark.parametrize("confidence", ['"high"', "1.5", "-0.1", "NaN", "true", "null"])
def test_a_confidence_out_of_range_is_none_and_the_label_stands(confidence):
    text = f'{{"reasoning": "", "label": "cats", "confidence": {confidence}}}'
    found = Default().read(reply(text), latent_examples(0))
    assert (found.status, found.label, found.confidence) == ("ok", "cats", None)


@pytest.mark.parametrize("text", ["", "prose", "[]", "3", '{"label": 3}', '{"label": " \\n"}', '{"confidence": 1}'])
def test_a_reply_without_a_label_is_unparsable_and_never_a_label(text):
    found = Default().read(reply(text), latent_examples(0))
    assert (found.status, found.label) == ("unparsable", "")


def test_activations_are_shown_from_one_to_ten_and_silent_text_in_one_piece():
    window = dataclasses.replace(
        latent_examples(0).windows[0], tokens=("a", " b", " c", " d", "\ud800"), values=(0.0, 0.0, 0.01, 10.0, 0.0)
    )
    assert marked(window, 10.0) == ["a b", [" c", 1], [" d", 10], "?"]


def test_strong_windows_come_first_and_the_rest_from_the_whole_range():
    windows = [
        dataclasses.replace(latent_examples(0).windows[0], values=(float(v),) * 8, window_id=str(v))
        for v in range(1, 41)
    ]
    shown = [w.values[0] for w in spread(windows, 8)]
    assert shown[:4] == [40, 39, 38, 37] and shown == sorted(shown, reverse=True) and shown[-1] < 10
    assert len(spread(windows[:5], 8)) == 5


def test_near_misses_and_random_windows_take_turns():
    windows = [dataclasses.replace(latent_examples(0).windows[0], group=g) for g in ["random"] * 3 + ["near_miss"]]
    assert [w.group for w in by_turns(windows, 3)] == ["near_miss", "random", "random"] and by_turns([], 3) == []
