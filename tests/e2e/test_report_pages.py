"""The report in a real browser, from disk and by HTTP: pieces come when they are asked for, and nothing foreign runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="no playwright here")

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.browse import shelf_of
from benchmarks.report import inputs_of, ran
from tasks import report as stage
from tasks.report import ReportSpec, report
from tests.browsed import ATTACKS, PLANTED
from tests.browser import DESK, TELEPHONE, width_of

pytestmark = [pytest.mark.special]

N, PLANT = 400, 201
LARGEST = 600_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A report of 400 latents that does not fit into its file, of words and labels that attack it."""
    folder = tmp_path_factory.mktemp("report")
    shelf = shelf_of(folder, N, 16)
    tokens = json.loads((shelf.mine.path / "tokens.json").read_text())
    (shelf.mine.path / "tokens.json").write_text(json.dumps([ATTACKS[i % 4] if i % 7 == 0 else t for i, t in enumerate(tokens)]))
    file = shelf.explained[0].explain.path / "explanations.parquet"
    table = pq.read_table(file)
    labels = [ATTACKS[i % 4] if label and i % 3 == 0 else label for i, label in enumerate(table["label"].to_pylist())]
    labels[PLANT] = PLANTED
    status = table["status"].to_pylist()
    status[PLANT] = "ok"
    for name, column in (("label", labels), ("status", status)):
        table = table.set_column(table.column_names.index(name), name, pa.array(column))
    pq.write_table(table, file)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stage, "LARGEST", LARGEST)
        summary = ran(report, ReportSpec(), inputs_of(shelf, folder), folder / "report")
    assert summary["bytes"] <= LARGEST < summary["bytes_beside"]
    return folder / "report"


@pytest.fixture(params=["file", "http"])
def url(request, folder, served) -> str:
    return (folder / "report.html").as_uri() if request.param == "file" else served(folder).url + "report.html"


def test_a_planted_latent_is_found_and_its_windows_come_from_beside_the_page(url, visit):
    page = visit(url)
    before = page.evaluate("reader.src")
    page.fill("#search", "zebra crossing")
    rows = page.locator("#latents tbody tr")
    assert rows.count() == 1 and PLANTED in rows.inner_text()
    rows.click()
    page.wait_for_selector("#chosen .window")
    assert before == "" and page.evaluate("reader.src").endswith(f"/latents/{PLANT // 128:05d}.html")
    card = page.locator("#chosen .card")
    titles = card.locator("summary").all_inner_texts()
    assert titles == ["strongest", "weaker, down to the weakest", "near misses: it does not fire here"]
    assert card.locator(".near").count() == 5 and card.locator(".histogram span").count() > 5
    largest = page.evaluate(f"Promise.resolve(cardOf({PLANT})).then((found) => found.max)")
    caption = card.locator("small:has-text('activation, on a log axis')").inner_text()
    assert caption.endswith(f" to {largest:g}"), "not the lower edge of the last bin"
    card.locator(".near").first.click()
    page.wait_for_function("() => !document.querySelector('#chosen [aria-busy]') && document.querySelector('#chosen .columns')")
    assert f"latent {PLANT}" not in page.locator("#chosen").inner_text()


def test_an_address_with_a_latent_opens_at_it(url, visit):
    page = visit(f"{url}#latent-{PLANT}")
    page.wait_for_selector("#chosen .window")
    assert PLANTED in page.locator("#chosen .label").inner_text()


def test_nothing_of_the_corpus_or_a_label_runs(url, visit):
    page = visit(url)
    page.wait_for_selector("#latents tbody tr")
    for latent in range(0, N, 40):
        page.evaluate(f"show({latent})")
        page.wait_for_selector("#chosen .columns")
    assert "OWNED" not in page.title() and page.locator("img, main script, main template").count() == 0
    shown = page.locator("main").inner_text()
    assert "onerror=" in shown, "the attack is there, as text"
    assert not re.search("[\x00-\x08\x1b\x9b\u202a-\u202e\u2028]|\U000e0041", shown)


def test_all_latents_can_be_paged_through_and_sorted(url, visit):
    page = visit(url)
    first = page.locator("#latents tbody tr td:first-child")
    seen = set()
    for _ in range(4):
        seen |= set(first.all_inner_texts())
        if page.is_enabled("#after"):
            page.click("#after")
    assert seen == {str(latent) for latent in range(N)} and page.is_disabled("#after")
    for by, place in (("density", 6), ("interest", 7), ("value", 3)):
        page.click(f'#latents th [data-by="{by}"]')
        texts = page.locator(f"#latents tbody td:nth-child({place})").all_inner_texts()
        values = [float(text) for text in texts if text]
        assert values == sorted(values, reverse=page.locator(f'th[aria-sort=descending] [data-by="{by}"]').count() == 1)
    assert page.locator("#latents tbody tr").count() == 100, "the document stays small"


def test_a_dead_latent_says_so(url, visit):
    page = visit(url)
    for status in ("dead", "refused", "low score"):
        page.select_option("#status", status)
        assert set(page.locator("#latents tbody td:last-child").all_inner_texts()) == {status}
    page.select_option("#status", "dead")
    page.locator("#latents tbody tr").first.click()
    page.wait_for_selector("#chosen .columns")
    assert "It never fired" in page.locator("#chosen").inner_text()


@pytest.mark.parametrize("width", [DESK, TELEPHONE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out(folder, visit, width, scheme):
    page = visit((folder / "report.html").as_uri(), width=width, scheme=scheme)
    page.wait_for_selector("#latents tbody tr")
    assert width_of(page) == width
    for latent in (0, 3, PLANT):
        page.evaluate(f"show({latent})")
        page.wait_for_selector("#chosen .columns")
        assert width_of(page) == width


def test_a_piece_that_is_not_there_or_says_nonsense_is_told_of(folder, tmp_path, visit):
    (tmp_path / "report.html").write_bytes((folder / "report.html").read_bytes())
    (tmp_path / "latents").mkdir()
    piece = (folder / "latents" / "00000.html").read_text("utf-8")
    (tmp_path / "latents" / "00000.html").write_text(re.sub(r'(id="data">).*?(</script>)', r"\1{nonsense\2", piece, flags=re.S))
    page = visit((tmp_path / "report.html").as_uri())
    page.wait_for_selector("#latents tbody tr")
    for start in (0, 384):
        page.evaluate(f"() => {{ let latent = {start}; while (latent in first) latent += 1; show(latent); }}")
        page.wait_for_function("() => document.querySelector('#chosen').innerText.includes('could not be read')", timeout=60_000)


def test_paper_is_white_shows_what_is_folded_and_no_controls(folder, visit):
    page = visit((folder / "report.html").as_uri(), scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(17, 17, 17)"
    for control in ("#search", "#pager", "nav", ".whole >> nth=0"):
        assert not page.is_visible(control)
    folded = page.locator("details:not([open])").count()
    count = "document.querySelectorAll('details:not([open])').length"
    page.evaluate(f"() => addEventListener('beforeprint', () => {{ window.folded_on_paper = {count}; }})")
    assert page.pdf(format="A4").startswith(b"%PDF") and folded > 0
    assert page.evaluate("window.folded_on_paper") == 0, "all is unfolded on paper"
    assert page.locator("details:not([open])").count() == folded, "and folded again on the screen"
