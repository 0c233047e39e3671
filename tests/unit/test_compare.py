"""The page and the tables of a sweep: what is on the front, what is best, and nothing foreign obeyed."""

from __future__ import annotations

import base64
import hashlib
import itertools
import math
import re
from functools import partial
from typing import Any

import pytest

from artifacts.store import Store
from tasks.compare import CompareSpec, JobRow, compare, front, fronted, lines, markdown, rows
from tasks.reporting.sweep import page
from tasks.reporting.sweep_grid import axes, in_order
from tasks.spec import Spec, SpecError
from tasks.stage import Job, Summary, stage
from tests.browser import DESK, TELEPHONE, width_of
from tests.making import make

NASTY = "<script>document.title='XSS'</script>$\\frac|`*\u202e\x1b\"'&"


class FiguresSpec(Spec):
    figures: dict[str, Any]


@stage("train", version=1)
def trained(job: Job[FiguresSpec]) -> Summary:
    return job.spec.figures


@stage("evaluate", version=1)
def evaluated(job: Job[FiguresSpec]) -> Summary:
    return job.spec.figures


@stage("score", version=1)
def scored(job: Job[FiguresSpec]) -> Summary:
    return job.spec.figures


def sweep(hookpoints: list[str], ce: bool = True, scores: tuple[str, ...] = (), **settings: list[Any]) -> dict[str, Any]:
    """Arguments of ``rows`` for a full grid, with figures that look like a real sweep's. ``__`` in a name is a dot."""
    specs, train, evaluate = [], [], []
    found: dict[str, list[Any]] = {kind: [] for kind in scores}
    for layer, hookpoint in enumerate(hookpoints):
        for i, values in enumerate(itertools.product(*settings.values())):
            named = {name.replace("__", "."): value for name, value in zip(settings, values, strict=True)}
            specs.append(JobRow(hookpoint=hookpoint, settings=named))
            fvu = (0.1 + 0.08 * layer) * math.exp(-0.2 * i)
            train.append({"n_latents": 512 * (i + 1)})
            figures = {"l0": 16.0 + 9 * i + layer, "fvu": fvu, "dead_fraction": 0.01 * i}
            evaluate.append({**figures, "ce_loss_recovered": 1 - fvu / 2 if ce else None})
            for kind in scores:
                found[kind].append({"mean": 0.6 + 0.02 * i, "control_mean": 0.51, "n_ok": 40})
    return {"job_specs": specs, "train": train, "evaluate": evaluate, "scores": found}


GRID = partial(sweep, ["layers.10", "layers.2", "layers.2.mlp"], sae__expansion_factor=[4, 8, 16, 32])


def heat_tables(text: str) -> list[list[list[str]]]:
    """The cells of each heat map."""
    tables = re.findall(r'<table class="heat">.*?<tbody>(.*?)</tbody>', text, re.S)
    return [
        [re.findall(r"<t[hd][^>]*>([^<]*)<", line) for line in re.findall(r"<tr>.*?</tr>", t, re.S)] for t in tables
    ]


def test_a_point_that_another_beats_is_not_on_the_front():
    points = [(3.0, 0.1), (1.0, 0.3), (2.0, 0.4), (2.0, 0.2), (4.0, 0.1)]
    assert front(points) == [1, 3, 0]


def test_where_more_is_better_the_front_rises():
    assert front([(3.0, 0.9), (1.0, 0.7), (2.0, 0.6), (2.0, 0.8)], highest=True) == [1, 3, 0]


def test_equal_points_stand_together_and_what_was_not_measured_stands_nowhere():
    assert front([(1.0, 0.5), (None, 0.0), (1.0, 0.5), (2.0, None), (2.0, 0.5)]) == [0, 2]
    assert front([(1.0, 0.5)]) == [0]
    assert front([]) == [] and front([(None, None)]) == []


def test_hookpoints_stand_by_layer_and_a_site_after_its_block():
    wanted = [
        "embed", "layers.0", "layers.2", "layers.2+layers.3", "layers.2.attn", "layers.2.mlp", "layers.2.mlp_in:layers.2.mlp",
        "layers.10", "elsewhere",
    ]  # fmt: skip
    assert in_order([*reversed(wanted), "layers.2"]) == wanted


def test_a_row_holds_the_job_and_its_figures():
    found = rows(**sweep(["layers.1"], sae__k=[16, 32], scores=("detection",)))
    assert found[1] == {
        "job": "layers.1, k 32", "hookpoint": "layers.1", "settings": {"sae.k": 32}, "n_latents": 1024, "l0": 25.0,
        "fvu": pytest.approx(0.1 * math.exp(-0.2)), "ce_loss_recovered": pytest.approx(1 - 0.05 * math.exp(-0.2)),
        "dead_fraction": 0.01, "scores": {"detection": {"mean": 0.62, "control_mean": 0.51, "n_ok": 40}},
        "pareto": True, "pareto_ce": True,
    }  # fmt: skip


def test_markdown_marks_the_best_of_a_column_and_the_front():
    given = sweep(["layers.1", "layers.2"], sae__k=[16, 32])
    table = markdown(rows(**given)).splitlines()
    assert table[0] == "| hookpoint | k | n_latents | L0 | FVU | CE loss recovered | dead fraction | Pareto |"
    assert table[1] == "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |"
    assert table[2] == "| layers.1 | 16 | 512 | 16.0 | 0.1000 | 0.9500 | **0.00%** | FVU, CE |"
    assert table[3] == "| layers.1 | 32 | 1,024 | 25.0 | **0.0819** | **0.9591** | 1.00% | FVU, CE |"
    assert table[5].endswith("| 0.1474 | 0.9263 | 1.00% | FVU, CE |") and len(table) == 6


def test_every_hookpoint_has_a_front_of_its_own():
    """All of layers.2 are worse than any of layers.1, and explain another variance: they are on their own front all the same."""
    given = sweep(["layers.1", "layers.2"], sae__k=[16, 32], sae__lr=[1, 2])
    for i, figures in enumerate(given["evaluate"]):
        figures["fvu"] = [0.4, 0.3, 0.5, 0.2][i % 4] + (i >= 4)
        figures["l0"] = [10, 20, 30, 40][i % 4]
    found = rows(**given)
    assert [row["pareto"] for row in found] == [True, True, False, True] * 2
    assert [row["pareto"] for row in fronted(found, place=lambda row: 0)] == [True, True, False, True] + [False] * 4
    text = page(found)
    assert "6 on their hookpoint's front of L0 and FVU" in text.replace("&#39;", "'") and "the Pareto front of each hookpoint" in text
    plot = text.split('aria-label="FVU against L0"')[1].split("</svg>")[0]
    assert plot.count("stroke-dasharray: 4,2") == 2, "a line for each"


def test_a_terminal_gets_the_same_table_without_marks():
    header, cells = lines(rows(**sweep(["layers.1"], sae__k=[16, 32], scores=("fuzzing",))))
    assert header == ["hookpoint", "k", "n_latents", "L0", "FVU", "CE loss recovered", "dead fraction", "fuzzing score", "Pareto"]
    assert cells[0] == ["layers.1", "16", "512", "16.0", "0.1000", "0.9500", "0.00%", "0.600", "FVU, CE"]


def test_what_no_job_measured_has_no_column():
    found = rows(**GRID(ce=False))
    assert "CE loss recovered" not in lines(found)[0]
    text = page(found)
    assert "CE loss recovered</" not in text and text.count("<figcaption>FVU (lower") == 1


def test_settings_that_end_alike_keep_their_full_names():
    assert lines(rows(**sweep(["layers.1"], sae__seed=[0, 1], train__seed=[0, 1])))[0][1:3] == ["sae.seed", "train.seed"]


def test_a_cell_of_markdown_cannot_break_the_table():
    for line in markdown(rows(**sweep([NASTY, "a|b"], sae=[NASTY, 1]))).splitlines():
        assert len(re.findall(r"(?<!\\)\|", line)) == 9 and "<" not in line and "\x1b" not in line


def test_a_grid_has_a_heat_map_for_each_metric():
    text = page(rows(**GRID(scores=("detection",))))
    found = heat_tables(text)
    assert len(found) == 5, "L0, FVU, CE loss recovered, dead fraction, score"
    assert [line[0] for line in found[1]] == ["layers.2", "layers.2.mlp", "layers.10"]
    assert found[1][2][1:] == ["0.1000", "0.0819", "0.0670", "0.0549"]
    assert "swept: hookpoint over layers.2, layers.2.mlp, layers.10; expansion_factor over 4, 8, 16, 32." in text
    assert "Best FVU: 0.0549, of layers.10, expansion_factor 32, at L0 43.0." in text
    assert "Best detection score: 0.660, of" in text


def test_every_job_is_a_point_that_says_its_name_and_a_row_of_the_table():
    text = page(rows(**GRID()))
    assert text.count("<title>layers.2, expansion_factor 8: L0") == 2, "on both plots"
    table = text.split('id="jobs"')[1].split("</table>")[0]
    assert table.count("<tr") == 1 + 12 and 'class="front"' in table


def test_where_all_jobs_are_equally_sparse_the_points_stand_by_their_size():
    given = GRID()
    for figures in given["evaluate"]:
        figures["l0"] = 32.0
    text = page(rows(**given))
    assert "FVU (lower is better) against n_latents, since L0 is nearly the same" in text and "dashed" not in text
    assert len(heat_tables(text)) == 3, "L0 is the same everywhere: no map"


def test_more_settings_make_small_multiples_and_too_many_make_none():
    assert len(heat_tables(page(rows(**GRID(sae=["topk", "jump"]))))) == 2 * 4
    assert "<figcaption>sae topk</figcaption>" in page(rows(**GRID(sae=["topk", "jump"])))
    assert heat_tables(page(rows(**GRID(train__seed=list(range(13)))))) == []


def test_a_grid_with_a_hole_is_still_a_grid():
    given = {name: value[1:] if value else value for name, value in GRID().items()}
    assert heat_tables(page(rows(**given)))[0][2] == ["layers.10", "\u2013", "25.0", "34.0", "43.0"]


def test_a_random_search_is_a_table_and_points():
    given = GRID()
    given["job_specs"] = [
        JobRow(hookpoint=spec.hookpoint, settings={"train.lr": 1e-4 * 1.3**i, "sae.k": 7 + 3 * i})
        for i, spec in enumerate(given["job_specs"])
    ]
    text = page(rows(**given))
    assert heat_tables(text) == [] and "Metric by metric" not in text
    assert "lr over 12 values from 0.0001 to" in text and "<title>layers.2, k " in text


@pytest.mark.parametrize("settings", [{"sae__k": [8, 16, 32]}, {"sae": ["topk", "batch_topk"]}, {"sae__b": [True, None]}])
def test_one_axis_makes_curves(settings):
    text = page(rows(**sweep(["layers.1"], **settings)))
    assert heat_tables(text) == [] and text.count('id="curve-') > 0
    assert "Metric by metric" in text and len(axes(rows(**sweep(["layers.1"], **settings)))) == 1


def test_one_job_is_a_page_too():
    text = page(rows(**sweep(["layers.1"])))
    assert "Sweep of 1 SAE<" in text and "nothing was swept" in text and text.count('id="curve-') == 0


def test_jobs_without_any_figure_are_still_listed():
    specs = [JobRow(hookpoint="layers.1", settings={"sae.k": k}) for k in (1, 2)]
    text = page(rows(specs, [{}, {}], [{}, {}]))
    assert "What sparsity costs" not in text and text.count("<tr>") == 3


@pytest.mark.parametrize("given", [GRID(sae=[NASTY, "topk"]), sweep([NASTY, "layers.1"]), sweep(["layers.1"], **{NASTY: [NASTY, 3]})])
def test_foreign_text_is_shown_and_not_obeyed(given):
    text = page(rows(**given))
    assert text.count("<script") == 1 and text.count("</script") == 1
    assert "&lt;script&gt;document.title" in text and "\u202e" not in text and "\x1b" not in text
    assert not re.search(r"(?:src|href|action)=[\"'](?!#|data:)", text) and "url(http" not in text
    script = text.split("<script>")[1].split("</script>")[0]
    assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in text
    assert "default-src 'none'" in text


def test_the_same_rows_make_the_same_bytes():
    assert page(rows(**GRID(sae=["a", "b"]))) == page(rows(**GRID(sae=["a", "b"])))


def recipe(given: dict[str, Any]):
    scores = {
        f"score_{kind}": [scored(FiguresSpec(figures=f)) for f in figures] for kind, figures in given["scores"].items()
    }
    return compare(
        CompareSpec(jobs=given["job_specs"]),
        train=[trained(FiguresSpec(figures=f)) for f in given["train"]],
        evaluate=[evaluated(FiguresSpec(figures=f)) for f in given["evaluate"]],
        **scores,
    )


def test_the_stage_writes_a_page_and_a_table_of_all_jobs(tmp_path):
    import pyarrow.parquet as pq

    opened = make(recipe(GRID(scores=("detection", "fuzzing"), sae=["topk", 3])), Store.at(tmp_path))
    assert opened.summary["n_jobs"] == 24 and len(opened.summary["rows"]) == 24
    assert lines(opened.summary["rows"])[0][:3] == ["hookpoint", "sae", "expansion_factor"]
    table = pq.read_table(opened.path / "sweep.parquet").to_pylist()
    assert table[1]["sae.expansion_factor"] == 4 and table[1]["sae"] == "3" and table[0]["sae"] == '"topk"'
    assert table[0]["score_fuzzing"] == 0.6 and table[0]["score_detection_control"] == 0.51
    assert table[0]["train"].startswith("train/") and table[0]["train"] in (opened.path / "sweep.html").read_text("utf-8")


def test_an_order_of_jobs_is_a_sweep_of_its_own():
    one, other = sweep(["layers.1", "layers.2"]), sweep(["layers.2", "layers.1"])
    assert recipe(one).key == recipe(sweep(["layers.1", "layers.2"])).key != recipe(other).key


def test_the_key_of_a_sweep_does_not_move():
    spec = CompareSpec(jobs=[JobRow(hookpoint="layers.1", settings={"sae.expansion_factor": 8})])
    assert compare(spec).key == "b03e2e9d8d41747c81152e3e3b684862434d107dfa04047d01c0688fc5a03077"


def test_inputs_that_are_not_parallel_are_refused(tmp_path):
    given = GRID()
    given["evaluate"] = given["evaluate"][1:]
    with pytest.raises(SpecError, match="compare.evaluate = 11 artifacts, but compare.jobs has 12; give one for each"):
        make(recipe(given), Store.at(tmp_path))


@pytest.mark.special
@pytest.mark.parametrize("width", [DESK, TELEPHONE])
def test_a_real_browser_sorts_the_table_and_nothing_overflows(tmp_path, visit, width):
    (tmp_path / "sweep.html").write_text(page(rows(**GRID(scores=("detection",), sae=["topk", NASTY]))), "utf-8")
    shown = visit((tmp_path / "sweep.html").as_uri(), width=width)
    assert shown.title() == "Sweep of 24 SAEs"
    assert width_of(shown) == width

    def column(at: int) -> list[str]:
        return shown.locator(f"#jobs tbody td:nth-child({at})").all_text_contents()

    fvu = shown.locator("#jobs th").all_inner_texts().index("FVU") + 1
    for down in (False, True):
        shown.click(f"#jobs th:nth-child({fvu}) button")
        assert column(fvu) == sorted(column(fvu), reverse=down)
    shown.click("#jobs th:first-child button")
    assert list(dict.fromkeys(column(1))) == ["layers.2", "layers.2.mlp", "layers.10"]
