"""Explaining and judging by an LLM, the whole way: real SDK, real HTTP, a fake API that counts what it is paid for."""

from __future__ import annotations

import importlib
import json
import logging
import sys
from pathlib import Path

import pytest

from artifacts import ledger
from artifacts.journal import Journal
from tests import fake_anthropic as fake
from tests.fake_anthropic import HTML, FakeAnthropic, status
from tests.fake_openai import FakeOpenAI, by_schema
from tests.fake_openai_batches import FakeOpenAIBatches
from tests.small import overrides
from tests.warm import calling, command, saint

KEY = "sk-canary-0123456789"
ASK = ["explainer=default", "client=anthropic_batch", "scorers=[detection,fuzzing]", "runtime.poll_seconds=0.05"]
SAID = f"the key {KEY} is tired"
SERVERS = {
    "anthropic_batch": (FakeAnthropic, []),
    "openai_batch": (FakeOpenAIBatches, ["client.model=m", "client.price_input=1", "client.price_output=2"]),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("world")


def run(world: Path, api: FakeAnthropic, *more: str):
    return saint(
        world, "run", *overrides(world), "runtime.mode=inline", *ASK, *more,
        ANTHROPIC_API_KEY=KEY, ANTHROPIC_BASE_URL=api.url,
    )  # fmt: skip


def test_latents_are_explained_and_judged_and_more_of_them_costs_only_the_new_ones(world):
    with FakeAnthropic() as api:
        first = run(world, api, "explain.latents=0:6")
        assert first.returncode == 0, first.stderr[-3000:]
        shown = json.loads(saint(world, "show", "last", "--json").stdout)["run"]
        booked = json.loads(saint(world, "ledger", "--json").stdout)["usd"]
        assert shown["usd"] == pytest.approx(booked, abs=1e-4) and booked > 0
        beside = run(world, api, "explain.latents=0:6", "scorers=[detection,recall]")  # recall puts detection's questions
        assert beside.returncode == 0, beside.stderr[-3000:]
        assert json.loads(saint(world, "show", "last", "--json").stdout)["run"]["usd"] == 0
        paid = dict(api.paid)
        assert paid and max(paid.values()) == 1
        assert run(world, api, "explain.latents=0:6").returncode == 0
        assert api.paid == paid
        wider = run(world, api, "explain.latents=0:9")
        assert wider.returncode == 0, wider.stderr[-3000:]
        assert max(api.paid.values()) == 1 and len(api.paid) > len(paid)
        record = json.loads(saint(world, "show", "last", "--json").stdout)["run"]
        metrics = record["metrics"]["layers.1"]
        assert metrics["explain"]["n"] == 9 and metrics["explain"]["n_ok"] >= 1
        assert metrics["explain"]["usd"] > 0 and {"score/detection", "score/fuzzing"} <= set(metrics)


def test_the_key_is_in_no_file_of_the_store(world):
    files = [p for p in (world / "saint-store").rglob("*") if p.is_file()]
    assert len(files) > 20 and not [p for p in files if KEY.encode() in p.read_bytes()]


def test_a_run_that_would_cost_too_much_sends_nothing(world):
    with FakeAnthropic() as api:
        done = run(world, api, "explain.latents=20:40", "runtime.max_usd=0.0001")
        assert done.returncode == 1 and "max_usd" in done.stderr
        assert not api.paid


def test_the_plan_prices_llm_stages_and_opens_no_socket(world):
    with FakeAnthropic() as api:
        env = {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": api.url}
        done = saint(world, "plan", "--json", *overrides(world), *ASK, "explain.latents=40:60", **env)
        stages = {s["stage"]: s for s in json.loads(done.stdout)["stages"]}
        assert stages["explain"]["usd"] > 0 and stages["score"]["usd"] > 0
        assert api.seen == []


@pytest.mark.slow
def test_live_clients_explain_and_judge_too_and_a_web_page_is_one_error(world):
    live = ["client=openai", "client.model=m", "runtime.max_usd=none", "explain.latents=0:4"]
    with FakeOpenAI(answer=by_schema) as api:
        env = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": api.url}
        asked = [*overrides(world), "runtime.mode=inline", *ASK, *live]
        done = saint(world, "run", *asked, **env)
        assert done.returncode == 0, done.stderr[-3000:]
        assert api.paid and max(api.paid.values()) == 1
        api.fault("chat", *[HTML] * 20)
        done = saint(world, "run", *asked, "client.model=other", **env)
        assert done.returncode == 1 and "but it answers with an HTML page ('Sign in')" in done.stderr
        assert "Traceback" not in done.stderr and KEY not in done.stderr + done.stdout
    rows = ledger.rows(Journal(world / "saint-store" / "journal"))
    assert sum(api.paid.values()) == next(row["n_answered"] for row in rows if row["kind"] == "openai")


def test_sentences_of_the_corpus_are_explained_and_what_was_said_can_be_loaded_again(world):
    with FakeAnthropic() as api:
        told = run(world, api, "explainer=sentence", "explain.latents=top:3", "scorers=[detection]")
        assert told.returncode == 0, told.stderr[-3000:]
        asked = [json.loads(r["params"]["messages"][0]["content"]) for b in api.batches.values() for r in b.requests]
        sentences = [text for body in asked for text in body.get("sentences", [])]
        assert sentences and all(text[0].isupper() and text.endswith(".") for text in sentences)
        files = (world / "saint-store/explain").glob("*/*/attempts/*/data/explanations.parquet")
        file = max(files, key=lambda path: path.stat().st_mtime_ns)
        paid = dict(api.paid)
        again = run(world, api, "explainer=load", f"explainer.path={file}", "explain.latents=top:3", "scorers=[detection]")
        assert again.returncode == 0 and api.paid == paid  # the same labels, so the same questions to the judge
        other = run(world, api, "explainer=load", f"explainer.path={file}", "train.seed=77")
        assert other.returncode == 2 and "its explanations are of the latents of train/" in other.stderr


def loud(world: Path, kind: str, api, *more: str) -> tuple[int, str, str]:
    """Exit code and words of a run that logs and tells all it can."""
    env = {"ANTHROPIC_API_KEY": KEY, "OPENAI_API_KEY": KEY, "ANTHROPIC_LOG": "debug", "OPENAI_LOG": "debug"}
    asked = [*overrides(world), "runtime.mode=inline", "runtime.debug=true", *ASK, "scorers=[detection]",
             f"client={kind}", *SERVERS[kind][1], f"runtime.base_url={api.url}", *more]  # fmt: skip
    going = calling(logging_command, "run", *asked, cwd=world, **env)
    out, said = going.communicate(280)
    return going.returncode, out, said


def logging_command(*arguments: str) -> int:
    """A command whose every library logs all it can; those of the SDKs read their variable when they are imported."""
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    for sdk in ("anthropic", "openai"):
        importlib.import_module(f"{sdk}._utils._logs").setup_logging()
    return command(*arguments)


@pytest.mark.parametrize("kind", SERVERS)
def test_the_key_is_in_no_log_error_or_file_though_the_server_says_it_and_everything_is_logged(world, kind):
    told, codes = [], []
    with SERVERS[kind][0]() as api:
        api.fault("create", status(429, message=SAID), status(401, message=SAID), fake.DROP_AFTER_ACCEPTING)
        api.fault("retrieve", status(529, message=SAID), fake.DROP_BEFORE_ACCEPTING)
        api.fault("results", fake.CUT_IN_A_LINE, status(503, message=SAID))
        while len(codes) < 3 and 0 not in codes:  # an error ends a run; the same command goes on
            code, *words = loud(world, kind, api, "explain.latents=60:72")
            told += words
            codes.append(code)
        assert codes == [1, 0], told[-1][-3000:]
        assert api.paid and max(api.paid.values()) == 1 and api.keys == {KEY}
    text = "".join(told)
    assert "DEBUG" in text and "Traceback" in text and "set a valid key" in text  # it was said, and all of it logged
    assert KEY not in text
    files = [path for path in world.rglob("*") if path.is_file()]
    assert len(files) > 30 and not [path for path in files if KEY.encode() in path.read_bytes()]
