"""Explanations and scores of a store against each other."""

from __future__ import annotations

import json
import time
import zlib

import pytest

from artifacts import ledger
from artifacts.journal import Journal
from artifacts.store import Store
from flows.cli import main
from flows.comparing import compared
from tasks.clients.anthropic_batch import AnthropicBatch
from tasks.clients.recorded import Recorded
from tasks.explain import ExplainSpec, explain
from tasks.score import ScoreSpec, score
from tasks.scorers.detection import Detection
from tasks.spec import Runtime, SpecError
from tasks.stage import Job, Recipe, Summary, stage
from tests.fake_anthropic import FakeAnthropic
from tests.making import make
from tests.planted import PlantedSpec, knowing, planted
from tests.unit.test_score import Told

HAIKU = AnthropicBatch()
SONNET = AnthropicBatch(model="claude-sonnet-5-5", price_input=1.0, price_output=5.0)


@stage("train", version=1)
def sae(job: Job[PlantedSpec]) -> Summary:
    (job.out / "sae.json").write_text("{}")
    return {"n_latents": job.spec.n_latents, "hookpoint": "layers.0"}


@stage("mine", version=1)
def mined(job: Job[PlantedSpec]) -> Summary:
    """The planted windows, of an SAE that there is."""
    return planted.run(job)


def windows(n_latents: int = 9) -> Recipe:
    spec = PlantedSpec(n_latents=n_latents)
    return mined(spec, sae=sae(spec))


def noisy(params):
    """The weaker model errs on every tenth answer or so."""
    found = knowing(params)
    if params["model"] == SONNET.model or "answers" not in found:
        return found
    shown = json.loads(params["messages"][0]["content"])["windows"]
    return {"answers": {i: answer != (zlib.crc32(shown[i].encode()) % 10 == 0) for i, answer in found["answers"].items()}}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[Store, dict[str, str]]:
    """A store with two explainers, two judges and two SAEs, and the names of what lies in it."""
    patch = pytest.MonkeyPatch()
    patch.setenv("ANTHROPIC_API_KEY", "sk-canary-key")
    patch.delenv("ANTHROPIC_BASE_URL", raising=False)
    store = Store.at(tmp_path_factory.mktemp("comparing") / "store")
    found: dict[str, str] = {}

    def keep(name: str, recipe: Recipe, api: FakeAnthropic) -> Recipe:
        make(recipe, store, Runtime(mode="inline", device="cpu", base_url=api.url, poll_seconds=0.02))
        found[name] = str(recipe.artifact)
        return recipe

    with FakeAnthropic(answer=noisy) as api:
        right = keep("right", explain(ExplainSpec(explainer=Told()), mine=windows()), api)
        time.sleep(1.1)  # manifests tell the time by the second, and the newest explanations are those of an SAE
        wrong = keep("wrong", explain(ExplainSpec(explainer=Told(shift=1)), mine=windows()), api)
        for name, explained in (("right", right), ("wrong", wrong)):
            keep(f"{name} by rule", score(ScoreSpec(scorer=Detection()), mine=windows(), explain=explained), api)
        for name, client in (("haiku", HAIKU), ("sonnet", SONNET)):
            spec = ScoreSpec(scorer=Detection(judge="llm"), client=client)
            keep(name, score(spec, mine=windows(), explain=right), api)
        keep("other", explain(ExplainSpec(explainer=Told()), mine=windows(5)), api)
    found["sae"] = str(sae(PlantedSpec(n_latents=9)).artifact)
    patch.undo()
    return store, found


def test_explainers_are_paired_by_latent_on_what_both_were_scored_by(world):
    store, names = world
    found = compared(store, [names["right"], names["wrong"]])
    assert (found["of"], found["sae"]) == ("explainers", names["sae"])
    assert [side["name"] for side in found["sides"]] == ["told shift=0", "told shift=1"]
    (pair,) = found["pairs"]
    assert (pair["labels"]["n"], pair["labels"]["both"], pair["labels"]["equal"]) == (9, 8, 0)
    ((name, figures),) = pair["scores"].items()
    assert name == "detection model=none", "the one that both have, of the three that there are"
    assert figures["first"]["value"] == 1.0 and figures["difference"]["better"] == figures["n"] == 8
    assert figures["difference"]["low"] > 0.4 and len(figures["thirds"]) == 3
    assert {"first_label", "second_label"} <= figures["largest"][0].keys()
    assert len(found["sides"][0]["scores"]) == 3 and len(found["sides"][1]["scores"]) == 1


def test_judges_of_the_same_explanations_have_a_kappa(world):
    store, names = world
    found = compared(store, [names["haiku"], names["sonnet"]])
    assert (found["of"], found["explain"]) == ("judges", names["right"])
    assert [side["name"] for side in found["sides"]] == [f"detection model={c.model}" for c in (HAIKU, SONNET)]
    answers, figures = found["pairs"][0]["answers"], found["pairs"][0]["scores"]["score"]
    assert answers["n"] == 8 * 24 and 0.5 < answers["value"] < 1 and answers["low"] < answers["value"] < answers["high"]
    assert answers["first_right"] == 0 and answers["apart"] == answers["n"] - sum(answers["table"][n] for n in ("both_yes", "both_no"))
    assert figures["second"]["value"] == 1.0 and figures["difference"]["value"] < 0


def test_scores_of_different_explanations_compare_explainers_on_those_scores(world):
    store, names = world
    found = compared(store, [names["right by rule"], names["wrong by rule"]])
    assert found["of"] == "explainers" and list(found["pairs"][0]["scores"]) == ["detection"]
    none = compared(store, [names["haiku"], names["wrong by rule"]])["pairs"][0]
    assert none["scores"] == {}, "another judge is another measure"


def test_an_sae_stands_for_its_newest_explanations(world):
    store, names = world
    (first, second) = compared(store, [names["right"], names["sae"]])["sides"]
    assert (first["artifact"], second["artifact"]) == (names["right"], names["wrong"])


@pytest.mark.parametrize(("given", "message"), [
    (["right"], "saint compare .* but it takes two or more"),
    (["right", "other"], "but they are of two SAEs .* whose latents have nothing to do with one another"),
    (["right", "right"], "but both mean explain/"),
    (["right", "haiku"], "but both mean explain/.*; name others, or two scores of it"),
    (["haiku", "haiku"], "but both are score/"),
    (["right", "mine/"], "does not compare; name explanations"),
    (["right", "nonesuch"], "no artifact of this store is called so"),
])  # fmt: skip
def test_what_does_not_compare_is_one_clear_error(world, given, message):
    store, names = world
    mine = next(str(a) for a in store.artifacts() if a.stage == "mine")
    with pytest.raises(SpecError, match=message) as error:
        compared(store, [mine if name == "mine/" else names.get(name, name) for name in given])
    assert "\n" not in str(error.value)


def test_the_command_prints_tables_json_and_a_page(world, capsys, tmp_path):
    store, names = world
    root = f"backend.root={store.backend.root}"
    assert main(["compare", names["haiku"], names["sonnet"], root, "--html", str(tmp_path / "page.html")]) == 0
    text = capsys.readouterr().out
    assert "judges of explain/" in text and "kappa 0." in text and "most frequent third" in text
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "2 judges compared" in page and "default-src 'none'" in page and page.count("<svg") == 1
    assert main(["compare", names["right"], names["wrong"], root, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["of"] == "explainers"
    assert main(["compare", names["right"], names["other"], root]) == 2


def test_foreign_words_on_the_page_are_shown_and_not_obeyed(world):
    from tasks.reporting.comparison import page

    store, names = world
    found = compared(store, [names["right"], names["wrong"]])
    for row in found["pairs"][0]["scores"]["detection model=none"]["largest"]:
        row["first_label"] = "<script>alert(1)</script>\u202e\x1b"
    text = page(found)
    assert text.count("<script") == 1 and "&lt;script&gt;alert(1)" in text and "\u202e" not in text and "\x1b" not in text


def test_the_ledger_says_who_was_asked_for_how_much(world, capsys):
    store, names = world
    root = f"backend.root={store.backend.root}"
    assert main(["ledger", root, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    usd = {name: store.find(next(a for a in store.artifacts() if str(a) == names[name])).summary["usd"] for name in ("haiku", "sonnet")}
    assert {row["model"]: row["usd"] for row in found["rows"]} == pytest.approx({HAIKU.model: usd["haiku"], SONNET.model: usd["sonnet"]})
    assert found["usd"] == pytest.approx(sum(usd.values())) and found["possibly_usd"] == 0
    assert all(row["n_requests"] == row["n_answered"] > 0 and row["input_tokens"] > 0 for row in found["rows"])
    assert main(["ledger", root]) == 0
    text = capsys.readouterr().out
    assert f"${found['usd']:,.4f} in all" in text and "claude-haiku-5-5" in text
    assert main(["ledger", "explain/1", root]) == 2


@pytest.mark.parametrize("name", ["replies.jsonl", "replies.parquet"])
def test_the_answers_of_a_store_are_recorded_once_and_replayed(world, tmp_path, capsys, name):
    store, _ = world
    root, path = f"backend.root={store.backend.root}", tmp_path / name
    assert main(["ledger", root, "--record", str(path)]) == 0
    text = capsys.readouterr().out
    n = sum(row["n_answered"] for row in ledger.rows(Journal(store.backend, "journal")))
    assert f"{n:,} answers in {path}; replay them: client=recorded client.path={path}" in text and n > 0
    kept = path.read_bytes()
    assert main(["ledger", root, "--record", str(path)]) == 2
    assert f"--record {path}, but a file is there" in capsys.readouterr().err and path.read_bytes() == kept
    assert Recorded(path=str(path), model=HAIKU.model).pinned().fingerprint
    assert main(["ledger", root, "--record", str(tmp_path / "no/where")]) == 2
    assert "is no folder" in capsys.readouterr().err
    Store.at(tmp_path / "empty")
    (tmp_path / "empty").mkdir(exist_ok=True)
    assert main(["ledger", f"backend.root={tmp_path / 'empty'}", "--record", str(tmp_path / "new.jsonl")]) == 2
    assert "holds no answers to record" in capsys.readouterr().err and not (tmp_path / "new.jsonl").exists()


def test_some_latents_alone_can_be_compared_and_other_settings_are_refused(world, capsys):
    store, names = world
    root = f"backend.root={store.backend.root}"
    assert main(["compare", names["right"], names["wrong"], root, "latents=[1,3]", "--json"]) == 0
    (pair,) = json.loads(capsys.readouterr().out)["pairs"]
    assert pair["labels"]["n"] == 2 and all(figures["difference"]["n"] == 2 for figures in pair["scores"].values())
    assert main(["compare", names["haiku"], names["sonnet"], root, "latents=0:2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"][0]["answers"]["n"] == 2 * 24
    assert main(["compare", names["right"], names["wrong"], root, "explain.latents=0:2"]) == 2
    assert "saint compare takes latents=" in capsys.readouterr().err
