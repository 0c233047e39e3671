from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artifacts.store import Store
from flows.config import load
from flows.plan import plan
from flows.recipes import recipes
from flows.sweep import jobs, packed, unpacked
from tasks.choosing import chosen, counted, parsed_latents, selected
from tasks.explain import ExplainSpec
from tasks.explainers.default import Default
from tasks.mining.interest import interest, most_interesting
from tasks.spec import SpecError
from tests.making import make
from tests.planted import world


@pytest.mark.parametrize(
    "typed, found",
    [
        ("all", [0, 1, 2, 3, 4, 5, 6, 7]), ("0:3", [0, 1, 2]), ("5:", [5, 6, 7]), (":2", [0, 1]), ("6:8", [6, 7]),
        ([3, 1, 3], [1, 3]), (4, [4]), ([], None),
    ],
)  # fmt: skip
def test_latents_are_chosen_by_name_range_or_list(typed, found):
    if found is None:
        with pytest.raises(SpecError, match="holds numbers from 0 up"):
            parsed_latents(typed)
    else:
        assert list(selected(parsed_latents(typed), 8)) == found


@pytest.mark.parametrize("typed", ["some", "1:2:3", ":", "-1:3", "1-3", [-1], [1.5], ["a"], [True], None, {"a": 1}])
def test_other_choices_are_refused_as_typed(typed):
    with pytest.raises(ValueError, match=r"explain\.latents = .*, but"):
        ExplainSpec(explainer=Default(), latents=typed)


def test_latents_that_the_sae_does_not_have_are_named():
    with pytest.raises(SpecError, match=r"explain.latents = \[3, 8\], but the SAE has latents 0 to 7; leave out 8"):
        selected((3, 8), 8)
    for typed in ("9:12", "6:100", "8:", "3:3"):
        with pytest.raises(SpecError, match=f"explain.latents = '{typed}', but .* use a range within 0:8"):
            selected(typed, 8)


def test_two_spellings_of_one_choice_have_one_key():
    assert (
        ExplainSpec(explainer=Default(), latents=[3, 1]).payload()
        == ExplainSpec(explainer=Default(), latents=(1, 3)).payload()
    )




# files


@pytest.mark.parametrize(
    "name, text",
    [
        ("a.txt", "5\n3 # the loud one\n\n# none\n11, 3"),
        ("a.txt", "\ufeff3,5,11"),
        ("a.list", "3 5 11"),
        ("a.csv", "label,latent\nx,3\ny,11\n\nz,5\n"),
        ("a.csv", "3\n5\n11\n"),
        ("a.csv", "index,x\n3,0\n5.0,0\n11,0\n"),
        ("a.json", "[11, 3, 5]"),
        ("a.json", '{"latents": [3, "5", 11]}'),
        ("a.json", '[{"latent": 3}, {"latent": 5}, {"latent": 11}]'),
    ],
)
def test_a_file_of_latents_becomes_numbers(tmp_path, name, text):
    (tmp_path / name).write_text(text, "utf-8")
    assert parsed_latents(f"file:{tmp_path / name}") == (3, 5, 11)
    if not name.endswith(".list"):
        assert parsed_latents(str(tmp_path / name)) == (3, 5, 11)


def test_a_table_of_ours_names_latents(tmp_path):
    pq.write_table(pa.table({"latent": np.array([4, 2, 4], np.int32), "x": [1, 2, 3]}), tmp_path / "scores.parquet")
    assert parsed_latents(str(tmp_path / "scores.parquet")) == (2, 4)


@pytest.mark.parametrize(
    "name, data, why",
    [
        ("a.txt", b"", "lists no latents"),
        ("a.txt", b"3 four", "'four' in it is no latent"),
        ("a.txt", b"-3", "'-3' in it is no latent"),
        ("a.txt", b"3.5", "'3.5' in it is no latent"),
        ("a.txt", b"\xff\xfe\xff", "cannot be read"),
        ("a.txt", b"99999999999999999999", "is no latent"),
        ("a.csv", b"latent\n\x00\n", "cannot be read|is no latent"),
        ("a.csv", b"x,latent\n1\n", "'' in it is no latent"),
        ("a.json", b'{"x": 1}', "it holds no array of latents"),
        ("a.json", b"[true]", "'True' in it is no latent"),
        ("a.json", b"[" * 100_000, "cannot be read"),
        ("a.json", b"[3", "cannot be read"),
        ("a.parquet", b"PAR1", "cannot be read"),
    ],
)
def test_a_file_that_lists_no_latents_is_one_clear_error(tmp_path, name, data, why):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SpecError, match=rf"^explain\.latents = '.*{name}', but .*({why}).*; ") as caught:
        parsed_latents(str(tmp_path / name))
    assert "\n" not in str(caught.value)
    with pytest.raises(SpecError, match="no such file is there"):
        parsed_latents(f"file:{tmp_path / 'none'}")


@pytest.mark.parametrize("stage", ["explain", "score"])
def test_a_run_reads_the_file_once_and_travels_without_it(tmp_path, monkeypatch, stage):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my latents.txt").write_text("7 2")
    by_file, by_list = (load([f"{stage}.latents={typed}"]) for typed in ("file:my latents.txt", "[2,7]"))
    assert by_file.plain[stage] == by_list.plain[stage] and by_file.plain[stage]["latents"] == [2, 7]
    of = jobs([[f"{stage}.latents=my latents.txt"]])
    (tmp_path / "my latents.txt").unlink()
    (there,) = unpacked(json.loads(json.dumps(packed(of))))
    assert recipes(there.pipeline).finals == recipes(by_list).finals


def test_a_latent_out_of_range_is_told_before_any_work(tmp_path):
    (tmp_path / "a.txt").write_text(" ".join(map(str, range(100))) + " 4000")
    with pytest.raises(SpecError, match=r"= \[0, 1, 2, ..., 4000\], but the SAE has latents 0 to 1535; leave out 4000"):
        load([f"explain.latents={tmp_path / 'a.txt'}"])


# the most interesting


def latents(**columns) -> pa.Table:
    n = len(next(iter(columns.values())))
    usual = {"n_fires": [1000] * n, "density": [0.001] * n, "max_value": [10.0] * n, "mean_value": [2.0] * n}
    table = {**usual, "single_token_share": [0.2] * n, **columns}
    return pa.table({"latent": np.arange(n, dtype=np.int32), **table})


def test_dead_rare_and_dense_latents_are_never_interesting():
    table = latents(
        n_fires=[0, 19, 20, 10**6, 1000], density=[0.0, 1e-5, 1e-5, 0.5, 0.001], max_value=[0.0, 1.0, 1.0, 1.0, 1.0]
    )
    assert (interest(table) > 0).tolist() == [False, False, True, False, True]
    assert most_interesting(table, 100) == [2, 4]


@pytest.mark.parametrize(
    "better",
    [{"density": [0.01, 0.001]}, {"mean_value": [5.0, 1.0]}, {"n_fires": [30, 3000]}, {"single_token_share": [1.0, 0.1]}],
)
def test_rare_peaked_broad_and_well_attested_latents_come_first(better):
    assert most_interesting(latents(**better), 1) == [1]


def test_equal_latents_come_in_their_order_and_those_chosen_ascend():
    assert most_interesting(latents(density=[0.01] * 50), 3) == [0, 1, 2]
    assert most_interesting(latents(density=[0.001, 0.05, 0.0001]), 2) == [0, 2]


def test_a_table_without_statistics_is_ranked_by_what_it_has():
    table = latents(density=[0.01, 0.001]).select(["latent", "n_fires", "density", "max_value"])
    assert most_interesting(table, 1) == [1]


def test_the_most_interesting_are_found_in_what_was_mined(tmp_path):
    mined = make(world(), Store.at(tmp_path))
    assert list(chosen(parsed_latents("top:3"), mined)) == [0, 1, 2]
    assert list(chosen(parsed_latents("top:100"), mined)) == [0, 1, 2, 3, 4]  # the sixth is dead
    assert list(chosen(parsed_latents("2:4"), mined)) == [2, 3]
    dead = make(world(n_latents=2, n_dead=2), Store.at(tmp_path))
    with pytest.raises(SpecError, match=r"explain.latents = 'top:3', but no latent of planted/\w+ fires often enough"):
        chosen("top:3", dead)


def test_a_plan_counts_the_most_interesting_without_knowing_them(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test")
    asked = ["explainer=default", "client=anthropic_batch"]
    some, half = (
        plan(jobs([[*asked, f"explain.latents={typed}"]])).json["total"]["usd"] for typed in ("top:100", "0:100")
    )
    assert some == half > 0
    assert counted("top:100", 60) == 60 and counted("top:7", 60) == 7
    assert parsed_latents("top:007") == "top:7"
    for typed in ("top:0", "top:", "top:-1", "top:x"):
        with pytest.raises(SpecError, match="top:100 for the most interesting"):
            parsed_latents(typed)
