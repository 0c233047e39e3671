"""``load`` and ``random``: explanations in files, and of which SAE they are."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artifacts.store import Store
from flows.config import load
from flows.plan import plan
from flows.recipes import recipes
from flows.sweep import jobs
from tasks.explain import ExplainSpec, explain, explanations
from tasks.explainers._files import ORIGIN, loaded
from tasks.explainers.base import one_line
from tasks.explainers.lexical import Lexical
from tasks.explainers.load import Load
from tasks.explainers.random import AnotherLatents
from tasks.score import ScoreSpec, score
from tasks.scorers.detection import Detection
from tasks.spec import SpecError
from tests.making import make
from tests.planted import CANARY, latent_examples, world

DATA = Path(__file__).parents[2] / "../shared/data/claude-replies"
SAE, OTHER = (f"train/{digit * 64}" for digit in "12")


def written(folder: Path, name: str, data: str | bytes) -> str:
    file = folder / name
    file.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(file)


def table(folder: Path, rows: list[dict], origin: dict | None = None) -> str:
    found = pa.Table.from_pylist(rows)
    if origin is not None:
        found = found.replace_schema_metadata({ORIGIN: json.dumps(origin)})
    pq.write_table(found, folder / "a.parquet")
    return str(folder / "a.parquet")


def labels(path: str) -> dict[int, str]:
    return {n: e.label for n, e in Load(path=path).loaded().explanations.items() if e.status == "ok"}


# what files hold

NEURONPEDIA = [
    {"modelId": "gpt2-small", "layer": "8-res-jb", "index": "3", "description": "cats", "explanationModelName": "gpt-4o"},
    {"modelId": "gpt2-small", "layer": "8-res-jb", "index": "17", "description": "rivers, lakes", "typeName": "oai"},
]


@pytest.mark.parametrize(
    "name, text",
    [
        ("a.csv", 'latent,label\n3,cats\n17,"rivers, lakes"\n'),
        ("a.csv", '\ufeffx,explanation,feature\n0,cats,3\n0,"rivers, lakes",17.0\n'),
        ("a.tsv", "latent\tlabel\n3\tcats\n17\trivers, lakes\n"),
        ("a.jsonl", '{"latent": 3, "label": "cats"}\n\n{"latent": 17, "label": "rivers, lakes"}\n'),
        ("a.jsonl", "\n".join(map(json.dumps, NEURONPEDIA))),
        ("a.json", json.dumps(NEURONPEDIA)),
        ("a.json", '{"3": "cats", "17": "rivers, lakes"}'),
        ("a.json", '{"3": {"certainty": 1, "common_semantic": "cats"}, "17": {"certainty": 0.2, "common_semantic": "rivers, lakes"}}'),
        ("a.json", json.dumps({"b": {"3": {"content": 'So: {"common_semantic": "cats", "certainty": 1}'},
                                     "17": {"content": '{"common_semantic": "rivers, lakes", "certainty": 0.2}'}}})),
    ],
)  # fmt: skip
@pytest.mark.parametrize("zipped", [False, True])
def test_explanations_are_read_whoever_wrote_them(tmp_path, name, text, zipped):
    data = gzip.compress(text.encode()) if zipped else text.encode()
    assert labels(written(tmp_path, f"{name}.gz" if zipped else name, data)) == {3: "cats", 17: "rivers, lakes"}


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data/claude-replies, which is not part of the project")
def test_what_saint_kept_of_its_replies_loads_as_its_replies_do():
    kept, replies = (loaded(str(DATA / f"{name}_last.json.gz")).explanations for name in ("aggregated", "responses"))
    assert len(kept) == 3726 and all(kept[n].confidence == replies[n].confidence for n in kept)
    assert all(one_line(replies[n].label, 1000) == e.label for n, e in kept.items())
    assert Counter(e.status for e in replies.values()) == {"ok": 3726, "unparsable": 3}


def test_labels_from_outside_are_cleaned_cut_and_never_stand_beside_a_failure(tmp_path):
    rows = [
        {"latent": 0, "label": f"\u202e{CANARY}\n", "confidence": "7"}, {"latent": 1, "label": "x" * 3000, "confidence": "0.5"},
        {"latent": 2, "label": " \u200b\n"}, {"latent": 3, "label": None}, {"latent": 4, "label": "no", "status": "refused"},
        {"latent": 5, "label": "\ud800half"},
    ]  # fmt: skip
    one = Load(path=written(tmp_path, "a.json", json.dumps(rows)), max_label_characters=100)
    found = [one.read([], latent_examples(i)) for i in range(7)]
    assert found[0].label.isprintable() and found[0].label.startswith("IGNORE ALL") and found[0].confidence is None
    assert len(found[1].label) == 100 and found[1].confidence == 0.5 and found[5].label == "half"
    assert [e.status for e in found[2:]] == ["not_in_file", "not_in_file", "refused", "ok", "not_in_file"]
    assert all(e.label == "" for e in found if e.status != "ok")


@pytest.mark.parametrize(
    "name, data, why",
    [
        ("a.csv", "latent,text\n3,x\n", r"row 1 has latent, text, and no label"),
        ("a.csv", "label\nx\n", "row 1 has label, and no latent"),
        ("a.csv", "latent,label\n-3,x\n", "row 1 has latent '-3', and latents are numbers from 0 up"),
        ("a.csv", "latent,label\n3.5,x\n", "row 1 has latent '3.5'"),
        ("a.csv", "latent,label\n1,x\n,y\n", "row 2 has latent ''"),
        ("a.csv", "latent,label\n3,x\n3,y\n", "it explains latent 3 twice, in different words; leave one"),
        ("a.csv", "", "it holds no explanations"),
        ("a.csv", b"latent,label\n3,\xff\n", "can't decode"),
        ("a.csv", "latent,label\n3," + "x" * 200_000, "field larger than field limit"),
        ("a.csv", "latent,label,status\n3,x,Very Bad\n", "status 'Very Bad'"),
        ("a.csv", "latent,label,predicate\n3,x,\"{\"\"any\"\": 3}\"\n", "row 1 has a predicate that is no rule"),
        ("a.jsonl", '{"latent": 3', "Expecting"),
        ("a.jsonl", "[1]", "line 1 is no object"),
        ("a.json", "3", "neither an array nor an object"),
        ("a.json", '[{"latent": true, "label": "x"}]', "entry 1 has latent True"),
        ("a.json", '[{"latent": 1e400, "label": "x"}]', "entry 1 has latent inf"),
        ("a.json", '[{"latent": 1, "label": ["x"]}]', "entry 1 has label ..x.., which is no text"),
        ("a.json", '{"1": {"common_semantic": "x"}}', "certainty"),
        ("a.json", "[" * 100_000, "recursion"),
        ("a.json.gz", b"\x1f\x8b\x08broken", "mend the file"),
        ("a.parquet", b"PAR1", "mend the file"),
        ("a.txt", "3 cats", ".txt is not read; it may be .parquet, .csv"),
        ("explanations", "3 cats", "a name without an ending is not read"),
    ],
)  # fmt: skip
def test_a_file_that_holds_no_explanations_is_one_clear_error(tmp_path, name, data, why):
    path = written(tmp_path, name, data)
    with pytest.raises(SpecError, match=rf"^explainer\.path = '{path}', but .*{why}") as caught:
        Load(path=path).pinned()
    assert "; " in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 600 + len(path)


def test_a_path_that_is_none_is_one_clear_error(tmp_path):
    for path, why in [(None, "explanations come from a file"), (str(tmp_path / "no"), "nothing is there"),
                      (str(tmp_path), "the folder holds no explanations.parquet")]:  # fmt: skip
        with pytest.raises(SpecError, match=rf"^explainer\.path = .*, but {why}"):
            Load(path=path).pinned()
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(SpecError, match=r"its manifest.json is none"):
        Load(path=str(tmp_path)).pinned()


# an earlier run


def lexical(**settings):
    return explain(ExplainSpec(explainer=Lexical(), **settings), mine=world())


def test_an_explain_artifact_loads_whole_and_scores_as_it_did(tmp_path):
    store = Store.at(tmp_path / "store")
    first = make(lexical(), store)
    home = tmp_path / "store" / store.home(first.artifact)
    assert (home / "manifest.json").is_file()
    for path in (home, first.path, first.path / "explanations.parquet"):
        again = explain(ExplainSpec(explainer=Load(path=str(path)).pinned()), mine=world())
        assert explanations(make(again, store)) == explanations(first)
    old, new = (make(score(ScoreSpec(scorer=Detection()), mine=world(), explain=e), store) for e in (lexical(), again))
    assert new.summary == old.summary and new.summary["mean"] == 1.0  # rules came along, so that no judge was needed


def test_evidence_and_rules_of_strangers_are_taken_only_where_they_have_the_shape_of_ours(tmp_path):
    row = {"latent": 0, "label": "x", "evidence": '{"terms": [{"no": "term"}]}', "predicate": '{"any": ["word:x"]}'}
    assert Load(path=table(tmp_path, [row])).read([], latent_examples(0)).evidence == {}
    found = Load(path=table(tmp_path, [row], {"sae": SAE})).read([], latent_examples(0))
    assert found.evidence and found.predicate == {"any": ["word:x"]}


# of which SAE


def test_explanations_say_of_which_sae_they_are(tmp_path):
    opened = make(lexical(latents="0:3"), Store.at(tmp_path))
    assert loaded(str(opened.path)).n_latents == 6 and loaded(str(opened.path)).sae is None  # planted without an SAE
    origin = json.loads(pq.read_schema(opened.path / "explanations.parquet").metadata[ORIGIN])
    assert origin["mine"].startswith("planted/")


@pytest.mark.parametrize(
    "origin, latent, told",
    [
        ({"sae": SAE, "n_latents": 8}, 7, None),
        ({}, 7, None),
        ({"sae": OTHER, "n_latents": 8}, 7, "its explanations are of the latents of train/222222222222, and this SAE is train/1"),
        ({"n_latents": 9}, 7, "its explanations are of an SAE with 9 latents, and this one has 8"),
        ({}, 8, "it explains latent 8, and the SAE has latents 0 to 7"),
    ],
)
def test_explanations_of_another_sae_are_refused(tmp_path, origin, latent, told):
    for one in (Load(path=table(tmp_path, [{"latent": latent, "label": "x"}], origin)), AnotherLatents(path=str(tmp_path / "a.parquet"))):
        one.check()
        if told is None:
            one.check(8, SAE)
        else:
            with pytest.raises(SpecError, match=rf"^explainer\.path = .*, but {told}.*; use explanations of this SAE$"):
                one.check(8, SAE)


@pytest.mark.parametrize("origin", ["[]", '"x"', '{"sae": 3}', '{"n_latents": "9"}', "{"])
def test_an_origin_that_nobody_of_ours_wrote_is_refused(tmp_path, origin):
    pq.write_table(pa.table({"latent": [1], "label": ["x"]}).replace_schema_metadata({ORIGIN: origin}), tmp_path / "a.parquet")
    with pytest.raises(SpecError, match=r"^explainer\.path = "):
        Load(path=str(tmp_path / "a.parquet")).check()


def test_a_stage_that_meets_another_saes_explanations_makes_nothing(tmp_path):
    path = written(tmp_path, "a.csv", "latent,label\n6,x\n")
    wrong = explain(ExplainSpec(explainer=Load(path=path).pinned()), mine=world())
    with pytest.raises(SpecError, match="it explains latent 6, and the SAE has latents 0 to 5"):
        make(wrong, Store.at(tmp_path / "store"))
    assert Store.at(tmp_path / "store").find(wrong.artifact) is None


def test_a_run_is_told_before_any_work_and_keyed_by_contents(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, "a.csv", "latent,label\n3,cats\n")
    found = load(["explainer=load", f"explainer.path={path}"])
    assert found.explainer.fingerprint and "path" not in found.explainer.payload()
    (tmp_path / "b.csv").write_bytes((tmp_path / "a.csv").read_bytes())
    assert recipes(load(["explainer=load", "explainer.path=b.csv"])).finals == recipes(found).finals
    sae = recipes(found).named["layers.1"]["train"].address
    mine = table(tmp_path, [{"latent": 3, "label": "cats"}], {"sae": sae, "n_latents": 1536})
    recipes(load(["explainer=load", f"explainer.path={mine}"]))
    with pytest.raises(SpecError, match=f"are of the latents of {sae[:18]}, and this SAE is train/"):
        recipes(load(["explainer=load", f"explainer.path={mine}", "train.seed=1"]))
    far = written(tmp_path, "far.csv", "latent,label\n1536,cats\n")
    with pytest.raises(SpecError, match="it explains latent 1536, and the SAE has latents 0 to 1535"):
        load(["explainer=load", f"explainer.path={far}"])
    with pytest.raises(SpecError, match="explainer.path = None, but explanations come from a file"):
        load(["explainer=random"])


def test_a_file_that_changed_since_the_run_was_composed_is_refused(tmp_path):
    one = Load(path=written(tmp_path, "a.csv", "latent,label\n3,cats\n")).pinned()
    assert one.read([], latent_examples(3)).label == "cats"
    written(tmp_path, "a.csv", "latent,label\n3,dogs and cats\n")
    with pytest.raises(SpecError, match="its contents changed since the run was composed"):
        one.read([], latent_examples(3))


def test_a_plan_expects_a_judge_for_loaded_labels(tmp_path, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test")
    path = written(tmp_path, "a.csv", "latent,label\n3,cats\n")
    asked = ["client=anthropic_batch", "explainer=load", f"explainer.path={path}"]
    lines = {line.stage: line.usd for line in plan(jobs([asked])).lines}
    assert lines["score"] > 0 and lines["explain"] == 0
