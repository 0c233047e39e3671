"""The report: whole, offline, and deaf to what the corpus or an explainer would like it to do."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest

from flows.config import load
from flows.recipes import recipes
from tasks.analyse import AnalyseSpec, analyse
from tasks.report import ReportSpec, _figures, report
from tasks.reporting.pages import embedded
from tasks.score import ScoreSpec, score
from tasks.scorers.base import Answer, Score, Scorer
from tasks.scorers.detection import Detection
from tests.browsed import attacked
from tests.browser import DESK, TELEPHONE, width_of
from tests.making import make
from tests.reported import data_of
from tests.small import overrides
from tests.warm import saint

NASTY = "<img src=x onerror=\"document.title='XSS'\"></script><script>document.title='XSS'</script> \u202e \u2028 & \x1b[31m"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A run over a corpus whose every fifth sentence attacks its report."""
    world = tmp_path_factory.mktemp("report")
    small = attacked(world, [NASTY])
    done = saint(world, "run", *small, "runtime.mode=inline", "train.n_tokens=20000")
    assert done.returncode == 0, done.stderr[-2000:]
    return world


@pytest.fixture(scope="module")
def page(world) -> str:
    (path,) = (world / "saint-store").rglob("report.html")
    return path.read_text("utf-8")


class Leaning(Scorer):
    """A correlation that may be below 0, of latents alone: it needs no explanation, and gives windows numbers, not answers."""

    kind: Literal["leaning"] = "leaning"
    METRIC = "correlation"
    CHANCE = 0.0
    RANGE = (-1.0, 1.0)

    def needs_client(self, explanation_has_predicate):
        return False

    def score(self, replies, explanation, examples, seed, bench=None):
        windows = examples.test(True)
        if not windows:
            return Score(examples.latent, "too_few_examples")
        value = (examples.latent % 9 - 4) / 4
        lost = Answer(windows[0].window_id, True, None, windows[0].quantile, None, windows[0].group, "truncated")
        answers = (lost, *(Answer(w.window_id, True, None, w.quantile, value, w.group) for w in windows[1:]))
        return Score(examples.latent, "ok", value, None, None, len(windows), len(windows), 1.0, answers)


def page_of(world: Path, *scorers: Scorer) -> str:
    """The report of the same SAE and explanations with other scorers."""
    p = load([*overrides(world), "train.n_tokens=20000", f"backend.root={world / 'saint-store'}"])
    named = recipes(p).named["layers.1"]
    rests = {"mine": named["mine"], "explain": named["explain"]}
    scores = [score(ScoreSpec(scorer=scorer), **rests) for scorer in scorers]
    inputs = {name: named[name] for name in ("corpus", "lm", "train", "evaluate")}
    statistics = analyse(AnalyseSpec(), **rests, scores=scores)
    made = make(report(ReportSpec(n_cards=24), **inputs, **rests, scores=scores, statistics=statistics), p.store)
    return (made.path / "report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def several(world) -> str:
    return page_of(world, Detection(), Leaning(), Detection(n_positive=10))


def test_the_cost_counts_no_answer_twice():
    """Recall is judged by the answers that detection paid for."""
    paid, reused = {"usd": 0.75, "usd_paid_before": 0.0}, {"usd": 0.5, "usd_paid_before": 0.5}
    opened = {"explain": SimpleNamespace(summary=paid)}
    scores = [SimpleNamespace(summary=summary) for summary in (paid, reused, {"usd": None, "usd_paid_before": 0.0})]
    job = SimpleNamespace(one=opened.__getitem__, many=lambda name: scores)
    analysis = {"n_latents": 8, "n_alive": 8, "scorers": [], "explanations": {}}
    assert _figures(job, {}, analysis, {})[-1]["value"] == "$1.50"


def cells(page: str, table: str) -> list[list[str]]:
    """The text of each cell of a table of some class, row by row."""
    body = re.search(rf'<table class="{table}">.*?<tbody>(.*?)</tbody>', page, re.S)[1]
    rows = re.findall(r"<tr>(.*?)</tr>", body, re.S)
    return [[re.sub(r"<[^>]+>", " ", cell).strip() for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)] for row in rows]


def test_the_page_asks_nothing_of_the_network_and_forbids_it(page):
    assert re.search(r"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-[A-Za-z0-9+/=]{44}'", page)
    assert not re.search(r"(?:src|href|action)=[\"'](?!#|data:)", page)
    assert "@import" not in page and "url(http" not in page


def test_its_script_is_the_one_that_the_policy_allows(page):
    import base64
    import hashlib

    script = page.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in page
    assert "innerHTML" not in script and "eval(" not in script


def test_foreign_text_cannot_end_the_data_or_start_an_element(page):
    assert page.count("<script") == 2 and page.count("</script") == 2
    assert "<img" not in page
    data = page.split('id="data">')[1].split("</script>")[0]
    assert not set("<>&\u2028\u2029") & set(data)
    assert "onerror" in json.dumps(data_of(page)), "the attack must be in the page, as text"


def test_every_latent_is_in_the_table_and_the_page_is_small(page):
    data = data_of(page)
    assert len(data["latents"]) == 128 and all(row["status"] for row in data["latents"])
    assert list(data["cards"]) == list(range(128)), "what is small is in one file, with every latent's windows"
    assert len(page.encode()) < 5_000_000
    for heading in ("All latents", "Where it came from", "Measured, and how", "training-curves", "cross-entropies"):
        assert heading in page


def test_a_card_names_the_latents_that_write_nearly_the_same(page):
    data = data_of(page)
    for latent, card in data["cards"].items():
        cosines = [cosine for _, cosine in card["nearest"]]
        assert len(cosines) == 5 and cosines == sorted(cosines, reverse=True) and cosines[0] < 1
        assert int(latent) not in [other for other, _ in card["nearest"]]
    assert 'aria-label="cosines of pairs"' in page and 'aria-label="largest cosines"' in page


def test_one_scorer_has_its_aggregates_curves_and_account(page):
    ((name, macro, _, _, _, good, control, difference, scored, _),) = cells(page, "aggregates")
    assert name.split()[0] == "detection" and "balanced accuracy, chance 0.5" in name
    assert 0.5 < float(macro.split()[0]) <= 1 and good.split()[0].endswith("%") and abs(float(control.split()[0]) - 0.5) < 0.15
    assert difference.startswith("+0.") and scored.endswith(" of 128")
    assert all(f'aria-label="{plot}"' in page for plot in ("scores 0", "true positives", "true negatives", "score by density"))
    assert "How scorers agree" not in page and 'id="scorer" aria-label="Scorer" hidden' in page


@pytest.mark.parametrize("which", ["page", "several"])
def test_what_became_of_every_latent_adds_up(which, request):
    rows = cells(request.getfixturevalue(which), "counts")
    assert rows[0][0] == "explained" and len(rows) == (2 if which == "page" else 4)
    assert all(sum(int(cell or 0) for cell in row[1:]) == 128 for row in rows)
    shares = re.findall(r'class="stack">(.*?)</div>', request.getfixturevalue(which))
    assert all(sum(map(float, re.findall(r"width: ([0-9.]+)%", bar))) == pytest.approx(100, abs=0.01) for bar in shares)


def test_many_scorers_each_have_a_row_a_scale_and_a_place_in_the_matrix(several):
    names = ["detection n_positive=20", "leaning", "detection n_positive=10"]
    rows = cells(several, "aggregates")
    assert [row[0].split("  ")[0] for row in rows] == names
    assert [s["name"] for s in data_of(several)["scorers"]] == names
    scale = data_of(several)["scorers"][1]
    assert (scale["metric"], scale["chance"], scale["low"], scale["high"]) == ("correlation", 0, -1, 1)
    heat = cells(several, "heat")
    assert [row[0] for row in heat] == names and heat[0][1] == "" and heat[0][3] == heat[2][1] != ""
    assert several.count('<svg role="img" aria-label="agreement') == 3 and several.count('aria-label="scores ') == 3
    assert 'aria-label="rated 1"' in several, "windows that got numbers have a curve of them"
    assert re.findall(r"leaning: ([\d,]+) of [\d,]+ answers are missing \(\1 truncated\)", several)
    ids = re.findall(r' id="([^"]+)"', several)
    assert len(ids) == len(set(ids))


def test_scores_below_zero_and_without_intervals_reach_the_page_as_they_are(several):
    found = data_of(several)["latents"]
    values = {row["latent"]: row["scores"][1] for row in found if row["scores"][1]}
    assert min(v[0] for v in values.values()) == -1 and all(v[1] is None and v[2] is None for v in values.values())
    assert any(row["scores"][1] and not row["scores"][0] for row in found), "scored though nobody could explain it"
    assert all(len(row["scores"]) == 3 for row in found)


def test_a_scorer_below_chance_can_come_first_and_alone(world):
    found = data_of(page_of(world, Leaning()))
    assert len(found["best"]) == 12 and found["latents"][found["best"][0]]["scores"][0][0] == 1.0


def test_a_run_without_scorers_has_a_page(world):
    text = page_of(world)
    assert "Nothing was scored in this run" in text and cells(text, "counts")[0][0] == "explained"
    found = data_of(text)
    assert found["scorers"] == [] and len(found["latents"]) == 128 and found["best"] == []


def test_a_share_of_one_latent_is_drawn_without_an_interval():
    from tasks.reporting import score_plots

    rows = [{"quantile": q, "share": 0.5, "low": low, "high": low and 0.9} for q, low in enumerate((0.1, None))]
    assert "<svg" in score_plots.rates([("detection", rows)], "quantile", "told", "plot")


def test_any_text_survives_being_embedded():
    value = {"a": NASTY, "b": ["</script>", "\u2029"]}
    assert json.loads(embedded(value)) == value
    with pytest.raises(ValueError):
        embedded(float("nan"))


@pytest.mark.special
def test_a_real_browser_shows_cards_searches_and_runs_no_foreign_script(several, tmp_path, served, visit):
    (tmp_path / "report.html").write_text(several, "utf-8")
    folder = served(tmp_path)
    page = visit(folder.url + "report.html", width=TELEPHONE)
    assert width_of(page) == TELEPHONE
    assert "XSS" not in page.title() and "latents" in page.title()
    assert page.locator("#best .card").count() > 0 and page.locator("#latents tbody tr").count() == 100
    assert page.locator("img").count() == 0
    first = page.locator("#latents tbody tr td:nth-child(3)").first
    page.select_option("#scorer", "1")
    assert first.inner_text() == "1.000" and "leaning 1.00" in page.locator("#best .card").first.inner_text()
    page.click('#latents th [data-by="value"]')
    assert first.inner_text() == "-1.000"
    page.fill("#search", "17")
    rows = page.locator("#latents tbody tr")
    assert 0 < rows.count() < 100
    rows.first.click()
    assert page.locator("#chosen .card").count() == 1 and "#latent-" in page.url
    assert width_of(page) == TELEPHONE, "nor does a card stick out"
    assert folder.paths == ["/report.html"]


@pytest.mark.special
@pytest.mark.parametrize("width", [DESK, TELEPHONE])
def test_the_report_fits_its_window_and_obeys_light_and_dark(several, tmp_path, visit, width):
    (tmp_path / "report.html").write_text(several, "utf-8")
    light, dark = (visit((tmp_path / "report.html").as_uri(), width=width, scheme=scheme) for scheme in ("light", "dark"))
    ground = "getComputedStyle(document.body).backgroundColor"
    assert light.evaluate(ground) != dark.evaluate(ground)
    assert width_of(light) == width_of(dark) == width
