"""Latents as Neuronpedia and SAEDashboard have them, on planted windows; and foreign text in a card."""

from __future__ import annotations

import dataclasses
import gzip
import json
from html.parser import HTMLParser

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from artifacts.keys import Artifact, Key
from artifacts.manifest import Manifest
from artifacts.store import Opened
from flows.model_card import _worth
from tasks.browsing.index import Index
from tasks.browsing.shelf import Explained, Shelf
from tasks.explainers.base import one_line
from tasks.mining import reading
from tasks.progress import Progress
from tasks.sharing.batches import write_neuronpedia, write_saedashboard
from tasks.sharing.card import body, front_matter, licence, repo_id
from tasks.sharing.escaping import markdown
from tasks.sharing.gathered import gathered
from tasks.sharing.neuronpedia import Activation, Place, checked
from tasks.spec import SpecError
from tests.browsed import ATTACKS
from tests.planted import dead, latent_examples, write_mined

N, DEAD = 6, 5
PLACE = Place(model="gpt2-small", layer=3, set="res-saint-1k", when="2026-11-21T00:00:00Z")
HOSTILE = "\ud83d half \0 nul \u2028 <img src=x onerror=alert(1)> \u202e"


def opened(folder, stage, spec, summary=None):
    folder.mkdir(parents=True)
    key = Key(f"{sum(map(ord, stage)):064x}")
    return Opened(Manifest(Artifact(stage, key), 1, spec, {}, "a", (), summary or {}, {"when": "2026-11-21T00:00:01Z"}), folder)


def made(folder, change=lambda latents: latents) -> Index:
    mine = opened(folder / "mine", "mine", {}, {"histogram_edges": [1.0, 2.0, 4.0]})
    write_mined(mine.path, change([dead(i) if i == DEAD else latent_examples(i) for i in range(N)]))
    table = pq.read_table(mine.path / "latents.parquet")
    histogram = pa.array([[0, 0] if i == DEAD else [i + 1, 1] for i in range(N)])
    pq.write_table(table.append_column("histogram", histogram), mine.path / "latents.parquet")
    explain = opened(folder / "explain", "explain", {"explainer": {"kind": "default"}})
    labels = {0: "the word cat", 1: HOSTILE.replace("\ud83d", ""), 2: "the word seven"}
    rows = [{"latent": n, "status": "ok", "label": label, "model": "a-model"} for n, label in labels.items()]
    pq.write_table(pa.Table.from_pylist([*rows, {"latent": 3, "status": "refused", "label": "", "model": "a-model"}]),
                   explain.path / "explanations.parquet")  # fmt: skip
    score = opened(folder / "score", "score", {}, {"metric": "balanced accuracy", "chance": 0.5, "range": [0, 1]})
    names = ("latent", "status", "value", "low", "high", "n", "control_value", "chance")
    values = [(0, "ok", 0.75, 0.7, 0.8, 20, 0.5, 0.5), (1, "errored", None, None, None, 0, None, 0.5)]
    found = [dict(zip(names, row, strict=True)) for row in values]
    pq.write_table(pa.Table.from_pylist(found), score.path / "scores.parquet")
    return Index(Shelf(mine, (Explained(explain, "default", {"detection": score}),)))


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Index:
    return made(tmp_path_factory.mktemp("sharing"))


def rows(folder, table) -> list[dict]:
    files = sorted((folder / "gpt2-small" / "3-res-saint-1k" / table).iterdir())
    return [json.loads(line) for file in files for line in gzip.open(file, "rt", encoding="utf-8").read().splitlines()]


@pytest.fixture(scope="module")
def out(index, tmp_path_factory):
    folder = tmp_path_factory.mktemp("np") / "out"
    n = write_neuronpedia(index, PLACE, {}, range(N), folder, 2, Progress())
    assert (n["latents"], n["explanations"], n["scores"]) == (N, 3, 1)
    return folder


def test_each_latent_is_a_feature_dead_ones_too(out):
    found = rows(out, "features")
    assert [row["index"] for row in found] == [str(i) for i in range(N)]
    assert found[2]["pos_str"] == [" sevens"] and found[2]["pos_values"] == [3.0] and found[2]["neg_str"] == [" no"]
    assert found[2]["freq_hist_data_bar_values"] == [1.5, 3.0] and found[2]["freq_hist_data_bar_heights"] == [3.0, 1.0]
    assert (found[DEAD]["frac_nonzero"], found[DEAD]["maxActApprox"], found[DEAD]["pos_str"]) == (0.0, 0.0, [])
    assert {tuple(row) for row in found} == {tuple(found[0])}, "the importer takes the columns of the first line for all"


def test_activations_are_the_windows_of_the_train_split_with_their_bins(out, index):
    found = [row for row in rows(out, "activations") if row["index"] == "1"]
    kept = latent_examples(1).train(activating=True)
    assert len(found) == len(kept) and all(row["tokens"][row["qualifyingTokenIndex"]] == " river" for row in found)
    assert all(row["values"][row["maxValueTokenIndex"]] == row["maxValue"] == max(row["values"]) for row in found)
    top = [row for row in found if row["binMin"] == -1]
    assert found[: len(top)] == top and {(row["binMax"], row["binContains"]) for row in top} == {(10.0, -1.0)}
    assert {(row["binMin"], row["binMax"], row["binContains"]) for row in found[len(top) :]} == {(v, v, 0.25) for v in (9.0, 8.0, 7.0)}
    assert len({row["id"] for row in rows(out, "activations")}) == len(rows(out, "activations"))


def test_labels_go_out_without_what_would_end_the_import(out):
    found = {row["index"]: row for row in rows(out, "explanations")}
    assert set(found) == {"0", "1", "2"}, "a refusal is no explanation"
    assert all(row["typeName"] is None and row["explanationModelName"] is None for row in found.values())
    assert found["0"]["notes"] == "SAINT, explainer default, model a-model; detection: balanced accuracy 0.750"
    assert "\0" not in found["1"]["description"] and "<img" in found["1"]["description"]
    scored = {row["index"]: row["explanations"][0] for row in rows(out, "explanation-scores")}
    (score,) = scored["0"]["scores"]
    assert (score["value"], score["explanationScoreTypeName"]) == (0.75, "saint_detection") and scored["1"]["scores"] == []
    assert scored["0"]["id"] == found["0"]["id"] == score["explanationId"]


def test_the_same_store_gives_the_same_bytes_in_files_of_so_many_latents(out, index, tmp_path):
    again = tmp_path / "again"
    write_neuronpedia(index, PLACE, {}, range(N), again, 2, Progress())
    one, two = ({p.relative_to(f): p.read_bytes() for f in (folder,) for p in folder.rglob("*.gz")} for folder in (out, again))
    assert one == two and len(one) == 3 + 3 + 2 + 2


def test_what_neuronpedia_would_not_take_is_named_by_latent_and_field(tmp_path):
    def spoilt(latents):
        first, *rest = latents[1].windows
        values = [*first.values[:-1], float("nan")]
        latents[1] = dataclasses.replace(latents[1], windows=(dataclasses.replace(first, values=tuple(values)), *rest))
        return latents

    with pytest.raises(SpecError, match=r"latent 1: activation.* = nan, but Neuronpedia takes no such thing"):
        write_neuronpedia(made(tmp_path / "world", spoilt), PLACE, {}, range(N), tmp_path / "out", 2, Progress())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"values": [1.0]}, "have different lengths: tokens 2, values 1"),
        ({"qualifyingTokenIndex": 2}, "qualifyingTokenIndex = 2 is beyond the 2 tokens"),
        ({"binMin": 3.0}, "binMin = 3.0 is above binMax = 2.0"),
        ({"index": 7}, "activation.index = 7"),
        ({"layer": "3 res"}, "activation.layer = '3 res'"),
        ({"extra": 1}, "activation.extra = 1"),
        ({"maxValue": float("inf")}, "activation.maxValue = inf"),
    ],
)
def test_rows_are_strict(change, said):
    good = {
        "id": "c" + "0" * 24, "modelId": "m", "layer": "3-res", "index": "7", "creatorId": "u", "createdAt": "t", "tokens": ["a", "b"],
        "values": [1.0, 0.0], "maxValue": 1.0, "maxValueTokenIndex": 0, "minValue": 0.0, "binMin": -1.0, "binMax": 2.0, "binContains": -1.0,
        "qualifyingTokenIndex": 1,
    }  # fmt: skip
    assert checked(Activation, 7, **good).index == "7"
    with pytest.raises(SpecError, match="latent 7: ") as caught:
        checked(Activation, 7, **{**good, **change})
    assert said in str(caught.value)


def test_memory_is_a_batch_whatever_the_number_of_latents(index, monkeypatch):
    read, opened = [], []

    def examples(*arguments, **named):
        opened.append(arguments)
        for found in reading.examples(*arguments, **named):
            read.append(found.latent)
            yield found

    monkeypatch.setattr("tasks.sharing.gathered.examples", examples)
    walk = gathered(index, [4, 1, 0, 2], 2)
    assert [it.latent for it in next(walk)] == read == [0, 1], "the second batch is not read before the first is used"
    assert [it.latent for it in next(walk)] == read[2:] == [2, 4]
    assert len(opened) == 1, "what is of all latents is read once, not with every batch"


def test_saedashboard_gets_token_ids_bins_and_titles_as_it_reads_them(tmp_path):
    pushed = {"promoted": ((" river", 3.0),), "suppressed": ((" the", -2.0),)}
    index = made(tmp_path / "world", lambda latents: [dataclasses.replace(e, **pushed) if e.latent == 1 else e for e in latents])
    n = write_saedashboard(index, [1, DEAD], tmp_path / "out", 1, Progress())
    assert n["latents"] == 2 and sorted(p.name for p in (tmp_path / "out").iterdir()) == ["sae_vis_data-0.json", "sae_vis_data-1.json"]
    data = json.loads((tmp_path / "out" / "sae_vis_data-0.json").read_text())
    (found,) = data["feature_data_dict"].values()
    groups = found["sequence_data"]["seq_group_data"]
    assert [g["title"] for g in groups] == ["TOP ACTIVATIONS<br>MAX = 10.000"] + [
        f"INTERVAL {v:.3f} - {v:.3f}<br>CONTAINS 25.000%" for v in (9, 8, 7)
    ]
    first = groups[0]["seq_data"][0]
    words = [index.texts[i] for i in first["token_ids"]]
    assert words[first["qualifying_token_index"] - 1] == " river" and len(words) == len(first["feat_acts"])
    assert found["acts_histogram_data"]["title"] == "ACTIVATIONS<br>DENSITY = 1.000%"
    assert data["feature_stats"]["max"] == [10.0]
    assert [index.texts[i] for i in found["logits_table_data"]["top_token_ids"]] == [" river"]
    with pytest.raises(SpecError, match="lists a token ' no' that its model has not"):
        write_saedashboard(index, [2], tmp_path / "other", 1, Progress())
    (silent,) = json.loads((tmp_path / "out" / "sae_vis_data-1.json").read_text())["feature_data_dict"].values()
    assert silent["sequence_data"]["seq_group_data"] == [] and silent["acts_histogram_data"]["bar_heights"] == []


# the card

INJECTIONS = [
    *ATTACKS, "a | b || c", "---", "- [x] task", "1. one", "# heading", "```\ncode\n```", "[a](javascript:alert(1))", "![](http://x/y.png)",
    "a\n\n---\nlicense: evil\n---\n", "https://evil.example www.evil.example", "<!-- ", "&lt;img&gt; &#60;", "*a* _b_ ~~c~~ `d` $e$",
    "\\| \\", "<details><summary>", "@everyone #1", "= = =", "+ plus",
]  # fmt: skip


class Seen(HTMLParser):
    """Tags and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "td":
            self.texts.append("")

    def handle_data(self, data):
        if self.texts:
            self.texts[-1] += data


@pytest.mark.parametrize("label", INJECTIONS)
def test_a_label_in_a_card_is_shown_letter_for_letter_and_is_no_part_of_it(label):
    page = MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(f"| a | b |\n|---|---|\n| 1 | {markdown(label)} |\n")
    found = Seen(page)
    assert set(found.tags) <= {"table", "thead", "tbody", "tr", "th", "td"}
    assert " ".join(found.texts[-1].split()) == one_line(label) and len(found.texts) == 2
    listed = Seen(MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(f"- {markdown(label)}\n"))
    assert listed.tags == ["ul", "li"]
    assert "://" not in markdown(label) and "www." not in markdown(label)


def test_front_matter_is_yaml_that_the_hub_reads_and_nothing_gets_into_it():
    evil = 'x"\n---\nlicense: evil\n- &a [*a, {'
    text = front_matter("mit", "openai-community/gpt2", evil, "saelens", evil, {"fvu": 0.1}) + "\n# page\n"
    card = ModelCard(text)
    assert (card.data.license, card.data.base_model, card.data.to_dict()["library_name"]) == ("mit", "openai-community/gpt2", "saelens")
    assert card.text.strip() == "# page" and card.data.datasets == [one_line(evil)] and card.data.model_name == one_line(evil)
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("fvu", 0.1)


def test_a_card_without_explanations_and_evaluation_says_so():
    text = body({
        "title": "t", "kind": "topk", "n_latents": 8, "hookpoint": "layers.1", "model": "m", "figures": [("FVU", "0.1")],
        "measured_on": None, "explained": [], "examples": [], "example_score": "", "uses": [], "n_dead": 2,
        "notes": ["a <b> note"], "provenance": [],
    })  # fmt: skip
    assert "has no evaluation" in text and "None yet." in text and "2 latents never fired" in text and "a &#60;b&#62; note" in text


def test_a_card_steers_with_a_latent_that_is_called_by_a_word_and_lifts_one(tmp_path):
    def promoting(latents):
        tokens = {0: ((" cats", 1.0),), 1: (("!", 9.0),), 2: ((" cat", 2.0), (".", 9.0)), 3: ((" lots", 5.0),)}
        return [dataclasses.replace(e, promoted=tokens.get(e.latent, ())) for e in latents]

    index = made(tmp_path / "world", promoting)
    best = [(1, "cat!", ""), (3, "“.” or “s…”", ""), (0, "the word cat", ""), (2, "the word seven", "")]
    assert _worth(index, best) == (2, float(index.max_N[2])), "not the surest, and not the one called a full stop"
    assert _worth(index, best[1:2])[0] == 3 and _worth(index, [(DEAD, "nothing", ""), *best[:1]])[0] == DEAD, "else the surest"
    assert _worth(index, [])[0] == int(index.max_N.argmax()) and _worth(None, []) == (0, 0.0)


@pytest.mark.parametrize("name", ["gpt2", "a/b/c", "a/", "/b", "a b/c", "a/b--c", "a/..", "me/x.git", "https://huggingface.co/a/b"])
def test_what_is_no_repository_is_refused(name):
    with pytest.raises(SpecError, match="but a repository is OWNER/NAME"):
        repo_id(name)
    assert repo_id("me/gpt2_sae.8-k") and licence("cc-by-4.0")
    with pytest.raises(SpecError, match="--license = 'MIT License', but the hub has names such as mit"):
        licence("MIT License")


