"""The report: whole, offline, and deaf to what the corpus or an explainer would like it to do."""

from __future__ import annotations

import json
import re
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tasks.report import embedded
from tests.e2e.test_cli import saint
from tests.small import overrides

NASTY = "<img src=x onerror=\"document.title='XSS'\"></script><script>document.title='XSS'</script> \u202e \u2028 & \x1b[31m"


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    """A report over a corpus whose every fifth sentence attacks it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    world = tmp_path_factory.mktemp("report")
    small = overrides(world)
    table = pq.read_table(world / "corpus.parquet").to_pydict()
    texts = [f"{text} {NASTY}" if i % 5 == 0 else text for i, text in enumerate(table["text"])]
    pq.write_table(pa.table({"text": texts, "doc": table["doc"]}), world / "corpus.parquet")
    done = saint(world, "run", *small, "runtime.mode=inline", "train.n_tokens=20000")
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = (world / "saint-store").rglob("report.html")
    return path.read_text("utf-8")


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
    assert "onerror" in json.dumps(json.loads(data)), "the attack must be in the page, as text"


def test_every_latent_is_in_the_table_and_the_page_is_small(page):
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert [row["latent"] for row in data["latents"]] == list(range(128))
    assert all(row["status"] for row in data["latents"])
    assert len(page.encode()) < 5_000_000
    for heading in ("All latents", "Where it came from", "Measured, and how", "training-curves", "cross-entropies"):
        assert heading in page


def test_any_text_survives_being_embedded():
    value = {"a": NASTY, "b": ["</script>", "\u2029"]}
    assert json.loads(embedded(value)) == value
    with pytest.raises(ValueError):
        embedded(float("nan"))


@pytest.mark.special
@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium here")
def test_a_real_browser_shows_cards_searches_and_runs_no_foreign_script(page, tmp_path):
    webdriver = pytest.importorskip("selenium.webdriver")
    (tmp_path / "report.html").write_text(page, "utf-8")
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_request(self, *_: object) -> None:
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                 "--disable-background-networking", "--disable-component-update", "--disable-sync",
                 f"--user-data-dir={tmp_path / 'profile'}"):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    browser = webdriver.Chrome(options=options, service=service)
    try:
        browser.get(f"http://127.0.0.1:{server.server_port}/report.html")
        find = partial(browser.find_elements, "css selector")
        assert "XSS" not in browser.title and "latents" in browser.title
        assert len(find("#best .card")) > 0 and len(find("#latents tbody tr")) == 100
        assert not find("img")
        search = find("#search")[0]
        search.send_keys("17")
        rows = find("#latents tbody tr")
        assert rows and len(rows) < 100
        rows[0].click()
        assert find("#chosen .card") and "#latent-" in browser.current_url
        problems = [e["message"] for e in browser.get_log("browser") if "favicon" not in e["message"]]
        assert problems == []
    finally:
        browser.quit()
        server.shutdown()
    assert {path for path in asked if path != "/favicon.ico"} == {"/report.html"}


