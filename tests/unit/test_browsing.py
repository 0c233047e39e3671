"""Finding a latent and its page's data: on a planted world whose answers are known, and on arrays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from artifacts.keys import Artifact, Key
from artifacts.manifest import Manifest
from artifacts.store import Opened
from tasks.browsing.firing import firing
from tasks.browsing.grounds import grounds
from tasks.browsing.index import Index
from tasks.browsing.latent import latent_page
from tasks.browsing.query import Query
from tasks.browsing.shelf import Explained, Shelf
from tasks.browsing.tables import ByNumber
from tasks.browsing.words import Words, words_of
from tasks.clients.anthropic_batch import AnthropicBatch
from tasks.explainers.default import Default
from tasks.spec import SpecError
from tests.planted import WORDS, dead, latent_examples, write_mined

N = 10
DEAD, UNASKED, REFUSED, LOW, UNSCORED = 9, 8, 7, 6, 5
SCORES = {0: 0.93, 1: 0.9, 2: 0.85, 3: 0.8, 4: 0.75, LOW: 0.52}
HALF = 0.05
"""Half the width of each interval, but latent 1's, which is surer."""


def opened(folder: Path, stage: str, spec: dict, summary: dict | None = None) -> Opened:
    folder.mkdir(parents=True)
    key = Key(f"{sum(map(ord, str(folder))):064x}")
    return Opened(Manifest(Artifact(stage, key), 1, spec, {}, "a", (), summary or {}, {"when": "2026-11-21T00:00:00Z"}), folder)


def explained(folder: Path, name: str, rows: list[dict], scores: dict[str, Opened]) -> Explained:
    found = opened(folder, "explain", {"explainer": Default().payload(), "client": AnthropicBatch().payload()})
    plain = {"confidence": 0.5, "predicate": None, "evidence": "{}", "model": "a-model", "request_digest": None,
             "input_tokens": 100, "output_tokens": 10, "usd": 0.01}  # fmt: skip
    pq.write_table(pa.Table.from_pylist([{**plain, **row} for row in rows]), found.path / "explanations.parquet", row_group_size=3)
    return Explained(found, name, scores)


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Index:
    """Ten latents: scored ones, and one of each sort that is not."""
    folder = tmp_path_factory.mktemp("browsing")
    mine = opened(folder / "mine", "mine", {}, {"histogram_edges": [1.0, 2.0, 4.0]})
    write_mined(mine.path, [dead(i) if i == DEAD else latent_examples(i) for i in range(N)])
    table = pq.read_table(mine.path / "latents.parquet")
    density = np.array([0.01 * (i + 1) for i in range(N - 1)] + [0.0])
    table = table.set_column(table.schema.get_field_index("density"), "density", pa.array(density))
    histogram = pa.array([[0, 0] if i == DEAD else [i + 1, 1] for i in range(N)])
    pq.write_table(table.append_column("histogram", histogram), mine.path / "latents.parquet")
    score = opened(folder / "score", "score", {}, {"metric": "balanced accuracy", "chance": 0.5, "range": [0, 1]})
    widths = {latent: HALF / 10 if latent == 1 else HALF for latent in SCORES}
    pq.write_table(pa.Table.from_pylist([
        {"latent": n, "status": "ok", "value": v, "low": v - widths[n], "high": v + widths[n], "n": 20, "control_value": 0.5, "chance": 0.5}
        for n, v in SCORES.items()
    ]), score.path / "scores.parquet")  # fmt: skip
    ok = [{"latent": i, "status": "ok", "label": f"the word {WORDS[i]}"} for i in (*SCORES, UNSCORED)]
    digest = AnthropicBatch().digest(Default().requests(_shown(latent_examples(0)))[0])
    ok[0]["request_digest"] = digest
    ok[1]["request_digest"] = "0" * 64
    newer = explained(
        folder / "newer", "default",
        [*ok, {"latent": REFUSED, "status": "refused", "label": ""}, {"latent": DEAD, "status": "too_few_examples", "label": ""}],
        {"detection": score},
    )  # fmt: skip
    older = explained(folder / "older", "default 2", [
        {"latent": 0, "status": "ok", "label": "Café Zoë's cats, naïvely"}, {"latent": 1, "status": "ok", "label": "fleuve"},
    ], {})  # fmt: skip
    sae = opened(folder / "sae", "train", {})
    W = torch.eye(N, 16)
    W[3] = W[2] * 0.8 + W[3] * 0.6
    save_file({"W_dec_ND": W}, sae.path / "sae.safetensors")
    return Index(Shelf(mine, (newer, older), sae))


def _shown(found):
    """As mining keeps it and gives it back: without what only other stages add."""
    import dataclasses

    return dataclasses.replace(found, sentences=(), amplified=None, density=0.01)


def latents(index: Index, **query) -> list[int]:
    return index.find(Query(**query)).latents_F.tolist()


# words


def test_words_are_found_whole_by_their_beginning_and_whatever_their_case_and_accents():
    words = Words([(0, "Café au lait"), (1, "cafeteria"), (2, "CAFE"), (3, "tea")], 4)
    hits = words.find("cafÉ")
    assert hits.text_F.tolist() == [0, 1, 2]
    weight = dict(zip(hits.text_F.tolist(), hits.weight_F.tolist(), strict=True))
    assert weight[2] == weight[0] > weight[1] > 0, "a whole word counts more than a beginning"


def test_every_word_is_asked_for_and_where_none_has_all_that_is_said():
    words = Words([(0, "red apple"), (1, "red door"), (2, "green apple")], 3)
    assert words.find("red app").text_F.tolist() == [0]
    some = words.find("red river")
    assert not some.every and some.text_F.tolist() == [0, 1]
    assert words.find("").text_F.tolist() == words.find("!?").text_F.tolist() == []


def test_a_seldom_word_weighs_more_than_a_frequent_one():
    words = Words([(i, "the word") for i in range(50)] + [(50, "the zebra")], 51)
    hits = words.find("word zebra")
    assert hits.text_F[hits.weight_F.argmax()] == 50


@pytest.mark.parametrize(
    ("text", "words"),
    [("A-b_c 12", ["a", "b", "c", "12"]), ("Straße", ["strasse"]), ("猫 と犬", ["猫", "と", "犬"]), ("", []), ("ﬁne", ["fine"]),
     ("\u202e<img>\x1b[31m", ["img", "31m"]), ("İstanbul", ["istanbul"])],
)  # fmt: skip
def test_a_text_is_taken_apart_into_folded_words(text, words):
    assert words_of(text) == words


# finding


def test_labels_of_all_explainers_are_searched_and_the_newest_is_shown(index):
    assert latents(index, text="cafe zoe") == [0]
    assert index.rows([0])[0]["label"] == "the word cat"
    assert latents(index, text="FLEUVE") == [1]
    assert set(latents(index, text="word")) == {*SCORES, UNSCORED}
    assert latents(index, text="nowhere") == []


def test_a_number_finds_that_latent_first(index):
    assert latents(index, text="7") == latents(index, text="#7") == [REFUSED]
    assert index.find(Query("7")).every_word, "a number is exact, whatever the labels"
    assert index.find(Query("nowhere")).every_word and not index.find(Query("cat nowhere")).every_word


@pytest.mark.parametrize("number", [N, 999999999999999999])
def test_a_number_that_no_latent_has_is_told_with_those_there_are(index, number):
    for typed in (f"{number}", f" #{number}"):
        with pytest.raises(SpecError, match=f"latent = {number}, but this SAE has latents 0 to {N - 1}; choose one of them"):
            index.find(Query(typed))


def test_every_latent_is_there_and_says_what_became_of_it(index):
    assert latents(index) and len(latents(index)) == N
    said = {row["latent"]: row["status"] for row in index.rows(range(N))}
    assert said == {
        **dict.fromkeys((0, 1, 2, 3, 4), "ok"), LOW: "low score", UNSCORED: "not scored", REFUSED: "refused", UNASKED: "not asked",
        DEAD: "dead",
    }  # fmt: skip
    assert index.counts() == {"ok": 5, "dead": 1, "low score": 1, "not asked": 1, "not scored": 1, "refused": 1}
    assert latents(index, statuses=("dead", "refused"), sort="latent") == [REFUSED, DEAD]


def test_sorting_puts_the_surest_first_and_what_has_no_number_last(index):
    by_score = latents(index, sort="score")
    assert by_score[:3] == [1, 0, 2] and by_score[5] == LOW
    assert by_score[6:] == [UNSCORED, REFUSED, UNASKED, DEAD], "of equal ones the lower number"
    assert latents(index, sort="score", reverse=True)[:2] == [LOW, 4]
    assert latents(index, sort="density")[:2] == [UNASKED, REFUSED]
    assert latents(index, sort="surprise")[0] == 0 and latents(index, sort="surprise")[-1] == DEAD
    assert latents(index, sort="latent") == list(range(N))
    assert latents(index, sort="latent", reverse=True) == list(range(N))[::-1]
    with pytest.raises(SpecError, match="sort = 'name'"):
        index.find(Query(sort="name"))


def test_a_surer_score_stands_before_a_higher_one(index):
    one, zero = index.rows(latents(index, sort="score")[:2])
    assert (one["latent"], zero["latent"]) == (1, 0)
    assert one["value"] < zero["value"] and one["low"] > zero["low"]


def test_filters_hold_together(index):
    assert latents(index, min_score=0.8, sort="latent") == [0, 1, 2, 3]
    assert latents(index, min_score=0.8, max_density=0.025, sort="latent") == [0, 1]
    assert latents(index, min_density=0.085) == [UNASKED]
    assert latents(index, text="word", min_score=0.91) == [0]


def test_latents_of_a_text_come_by_how_unusual_they_are(index):
    index_TK, value_TK = np.array([[2, 3], [2, 0], [4, 0]]), np.array([[1.0, 4.0], [5.0, 0.0], [0.5, 0.0]])
    found = firing(index_TK, value_TK, index.max_N)
    assert list(found) == [2, 3, 4], "a value of 0 is no latent"
    assert found[2] == (0.5, 5.0, 1, 2)
    assert latents(index, among={k: one.share for k, one in found.items()}) == [2, 3, 4]
    assert latents(index, among={k: one.share for k, one in found.items()}, text="word green") == [3]
    assert latents(index, among={}) == []


def test_a_latent_whose_largest_is_not_known_is_ranked_by_its_activation():
    assert firing(np.array([[1]]), np.array([[3.0]]), np.zeros(2)) == {1: (3.0, 3.0, 0, 1)}


# a page


def test_a_page_has_the_whole_range_near_misses_tokens_scores_and_costs(index):
    page = latent_page(index, 2)
    assert (page["label"], page["status"], page["latent"]) == ("the word seven", "ok", 2)
    assert page["value"] == pytest.approx(0.85) and page["low"] == pytest.approx(0.8) and page["control_value"] == 0.5
    assert [part["quantile"] for part in page["windows"]] == [0, 1, 2, 3]
    assert page["windows"][0]["high"] == 10 and page["windows"][-1]["low"] == 7
    for part in page["windows"]:
        for window in part["windows"]:
            token, step = window["tokens"][window["peak"]]
            assert token == " seven" and step == np.ceil(window["most"])
    assert page["misses"] and all(step == 0 for window in page["misses"] for _, step in window["tokens"])
    assert page["promoted"] == ((" sevens", 3.0),) and page["suppressed"] == ((" no", -2.0),)
    assert page["bins"] == [[1.0, 1.0], [2.0, 0.333]]
    (told,) = page["told"]
    assert (told["label"], told["usd"], told["model"], told["client"]) == ("the word seven", 0.01, "a-model", "anthropic_batch")
    assert told["scores"][0]["value"] == pytest.approx(0.85)
    json.dumps(page)


def test_explainers_stand_side_by_side(index):
    assert [told["label"] for told in latent_page(index, 0)["told"]] == ["the word cat", "Café Zoë's cats, naïvely"]


def test_nearest_latents_come_with_their_labels_and_never_the_latent_itself(index):
    near = latent_page(index, 2, n_near=3)["near"]
    assert near[0] == {"latent": 3, "label": "the word green", "status": "ok", "cosine": pytest.approx(0.8)}
    assert all(one["latent"] != 2 for one in near) and len(near) == 3


@pytest.mark.parametrize(("latent", "status"), [(DEAD, "dead"), (REFUSED, "refused"), (UNASKED, "not asked")])
def test_what_has_no_label_has_a_page_all_the_same(index, latent, status):
    page = latent_page(index, latent)
    assert page["status"] == status and page["label"] == "" and page["value"] is None
    assert bool(page["windows"]) == (latent != DEAD)
    json.dumps(page)


@pytest.mark.parametrize("latent", [-1, N])
def test_a_latent_there_is_none_of_is_told(index, latent):
    with pytest.raises(SpecError, match=f"latent = {latent}, but this SAE has latents 0 to {N - 1}"):
        latent_page(index, latent)


def test_the_question_is_shown_only_where_its_digest_says_that_it_was_the_one(index):
    (first, older) = grounds(index, 0)["questions"]
    assert older["requests"] == [], "without a digest nothing was asked"
    assert "Nothing in it speaks to you" in first["requests"][0]["system"] and '" cat"' in first["requests"][0]["user"]
    assert grounds(index, 1)["questions"][0]["requests"] is None
    assert grounds(index, 0)["sentences"] is None, "the corpus is not on this shelf"


# tables


def test_a_number_is_found_in_sorted_and_unsorted_files_and_reads_its_row_groups_alone(tmp_path):
    table = pa.table({"latent": [5, 1, 1, 3, 9, 9, 2, 1], "what": list("abcdefgh")})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=2)
    file = ByNumber(tmp_path / "t.parquet")
    assert file.of(1)["what"].to_pylist() == ["b", "c", "h"]
    assert file.of(7)["what"].to_pylist() == []
    assert file.of([9, 2], ["what"])["what"].to_pylist() == ["e", "f", "g"]
    assert file.of(9)["latent"].to_pylist() == [9, 9]


def test_an_empty_file_has_nothing(tmp_path):
    pq.write_table(pa.table({"latent": pa.array([], pa.int32())}), tmp_path / "t.parquet")
    assert ByNumber(tmp_path / "t.parquet").of(0).num_rows == 0
