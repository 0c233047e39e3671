"""``saint ui`` over HTTP and in a real browser: nobody comes in beside the page, nothing foreign runs, a latent is found and shown."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="no gradio here")

from artifacts.store import Store
from flows.shelves import browsable, shelf_of
from flows.ui.launch import Access, serve
from flows.ui.rendering import rendered
from flows.ui.state import State
from tasks.browsing.index import Index
from tasks.spec import Runtime, SpecError
from tests.browsed import ATTACKS, PLANTED, build
from tests.browser import DESK, TELEPHONE, width_of
from tests.servers import free_port

OPENING = {
    "GRADIO_SHARE": "true", "GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_ALLOWED_PATHS": "/", "GRADIO_MCP_SERVER": "true",
    "GRADIO_RUN_HISTORY": "true", "GRADIO_ANALYTICS_ENABLED": "true", "GRADIO_VIBE_MODE": "1",
}  # fmt: skip
"""Variables with which Gradio would let strangers in."""

pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return Store.at(build(tmp_path_factory.mktemp("ui")))


def state_of(store: Store) -> State:
    return State(store, browsable(store), Runtime(mode="inline", device="cpu"))


@pytest.fixture(scope="module")
def url(store) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patched:
        for name, value in OPENING.items():
            patched.setenv(name, value)
        page, address = serve(state_of(store), Access(port=free_port()))
        yield address
        page.close(verbose=False)


def got(url: str, headers: dict[str, str] | None = None, data: bytes | None = None) -> tuple[int, str, dict[str, str]]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers or {}), timeout=100) as reply:
            return reply.status, reply.read().decode("utf-8", "replace"), dict(reply.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode("utf-8", "replace"), dict(error.headers)


# HTTP


def test_no_variable_of_the_environment_opens_anything(url):
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
    assert got(url + "gradio_api/file=/etc/passwd")[0] == 403
    assert got(url + "gradio_api/file=" + str(Path(__file__)))[0] == 403
    assert got(url + "gradio_api/mcp/")[0] == 404
    assert got(url + "gradio_api/vibe-code/")[0] in (403, 404, 405)
    assert got(url + "monitoring")[0] == 403


def test_no_handler_can_be_called_by_name_or_by_number_as_an_api(url):
    status, body, _ = got(url + "gradio_api/info")
    assert status == 200 and json.loads(body) == {"named_endpoints": {}, "unnamed_endpoints": {}}
    for name in ("look", "anew", "fires", "show"):
        for way in ("gradio_api/call", "gradio_api/run", "gradio_api/api", "call", "run", "api"):
            assert got(f"{url}{way}/{name}", {"content-type": "application/json"}, b'{"data": []}')[0] == 404
    assert got(url + "openapi.json")[0] == got(url + "docs")[0] == 404


def test_every_answer_forbids_other_hosts_and_a_foreign_name_is_none_of_ours(url):
    status, _, headers = got(url)
    policy = headers["content-security-policy"]
    assert status == 200 and "default-src 'self'" in policy and "https:" not in policy
    assert got(url, {"Host": "rebound.example.org"})[0] == 421
    assert got(url, {"Host": "localhost"})[0] == 200


def test_the_page_itself_names_no_other_host(url):
    _, body, _ = got(url)
    assert set(re.findall(r"(?:src|href)=[\"']?(?:https?:)?//([^/\"'> ]+)", body)) <= {url.split("/")[2]}


def test_with_a_password_nothing_is_shown_without_it(store):
    page, address = serve(state_of(store), Access(port=free_port(), users=(("ann", "secret"),)))
    try:
        assert got(address + "config")[0] == 401 and got(address + "gradio_api/info")[0] == 401
        assert PLANTED not in got(address)[1]
        assert got(address + "login", data=b"username=ann&password=wrong")[0] == 400
        assert got(address + "login", data=b"username=ann&password=secret")[0] == 200
    finally:
        page.close(verbose=False)


def test_a_port_that_is_taken_is_told_in_one_sentence(url, store):
    with pytest.raises(SpecError, match=r"--port \d+, but something else listens there"):
        serve(state_of(store), Access(port=int(url.split(":")[2].strip("/"))))


def test_a_shelf_has_all_explanations_their_scores_and_the_corpus(store):
    (sae,) = browsable(store)
    shelf = shelf_of(store, sae)
    assert [one.name for one in shelf.explained] == ["load", "lexical"]
    assert list(shelf.explained[1].scores) == ["detection"] and shelf.corpus is not None
    assert Index(shelf).counts()["not asked"] > 50
    with pytest.raises(SpecError, match="is no SAE"):
        browsable(store, [str(shelf.mine.artifact)])


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_rendered_is_escaped_and_no_template_of_the_browsers(attack):
    html = rendered("told.html.j2", told=attack)
    body = html.removeprefix('<div class="saint"><p class="told" role="alert">').removesuffix("</p></div>")
    assert not re.search(r"[<>\"$`{}\x00-\x1f\u202a-\u202e\u2028]", body)


# in a browser


@pytest.fixture
def visit(visit, url):
    """Opens the page at a query, and waits until it shows a latent or says why it does not."""

    def open_(query: str = "", **options):
        page = visit(url + query, **options)
        page.wait_for_selector("#latent article, #latent .told", timeout=60_000)
        return page

    yield open_
    assert all(page.title() == "SAINT" for context in visit.contexts for page in context.pages)


@pytest.mark.special
def test_search_finds_the_planted_latent_and_its_page_shows(visit):
    page = visit()
    page.fill("#search input, #search textarea", "cafe ZEB")
    page.wait_for_function("document.querySelectorAll('#results tbody tr').length === 1")
    assert PLANTED in page.inner_text("#results tbody")
    page.click("#results tbody a")
    page.wait_for_selector("article[data-latent='3']")
    assert page.inner_text("#latent h2.label") == PLANTED
    text = page.inner_text("#latent")
    for part in ("When it fires", "Near misses", "promotes", "nearest latents", "Who explained it", "lexical", "load"):
        assert part in text
    assert page.evaluate("location.search") == "?" + page.get_attribute("#results tbody a", "href").removeprefix("?")
    page.click("text=Whole sentences, and what was asked")
    page.wait_for_selector("#grounds article[data-grounds='3']")
    assert "Sentences of the corpus" in page.inner_text("#grounds")


@pytest.mark.special
def test_an_address_leads_to_its_latent_and_a_wrong_one_says_so(visit, store):
    name = str(browsable(store)[0].artifact)
    page = visit(f"?sae={name}&latent=3")
    assert page.inner_text("#latent h2.label") == PLANTED
    assert "not asked" in visit(f"?sae={name}&latent=90").inner_text("#latent")
    assert "this SAE has latents 0 to 127" in visit(f"?sae={name}&latent=9999").inner_text("#latent")
    assert f"sae = 'train/<b>x', but this page shows {name}; choose one of them" in visit("?sae=train/<b>x").inner_text("#latent")
    assert "latent = -1, but this SAE has latents 0 to 127" in visit("?latent=-1").inner_text("#latent")
    assert "latent = 'x', but a latent is a whole number" in visit("?latent=x").inner_text("#latent")
    page = visit("?q=128&latent=3")
    assert "latent = 128, but this SAE has latents 0 to 127" in page.inner_text("#results")
    page.fill("#search input, #search textarea", "90")
    page.wait_for_selector("#results tbody a:has-text('90')")
    assert page.inner_text("#results .count") == "1 of 128 latents"


@pytest.mark.special
def test_the_histogram_ends_at_the_largest_activation(visit, store):
    page = visit(f"?sae={browsable(store)[0].artifact}&latent=3")
    largest = re.search(r"largest ([\d.]+)", page.inner_text("#latent"))[1]
    caption = page.locator("#latent small:has-text('log axis')").inner_text()
    assert float(caption.rsplit(" ", 1)[1]) == pytest.approx(float(largest), rel=0.01)


@pytest.mark.special
def test_filters_count_only_where_something_is_typed(visit):
    page = visit()
    page.click("#filters button")
    page.locator("#filters input[type=text], #filters input:not([type])").first.wait_for()
    page.get_by_label("Fires on at least, %").fill("5%")
    page.wait_for_function("!document.querySelector('#results .count').innerText.startsWith('128 of')")
    shares = [float(one.rstrip("%")) for one in page.locator("#results tbody td.wide").all_inner_texts()]
    assert shares and min(shares) >= 4.95
    page.get_by_label("Fires on at least, %").fill("many")
    page.wait_for_selector("#results .told")
    assert "that is no number" in page.inner_text("#results")


@pytest.mark.special
def test_a_text_shows_the_latents_that_fire_on_it(visit, store):
    page = visit()
    page.fill("#text textarea, #text input", "A bird saw two letters at school.")
    page.click("#text button")
    page.wait_for_selector("#results th:has-text('here')", timeout=60_000)
    shown = [int(one) for one in page.locator("#results tbody td.id").all_inner_texts()]
    encoded = state_of(store).sae(str(browsable(store)[0].artifact)).encode("A bird saw two letters at school.")
    assert shown and set(shown) <= set(encoded.index_TK[encoded.value_TK > 0].tolist())
    page.fill("#text textarea, #text input", "")
    page.click("#text button")
    page.wait_for_selector("#results th:has-text('here')", state="detached")


@pytest.mark.special
@pytest.mark.parametrize("attack", range(len(ATTACKS)))
def test_a_hostile_label_and_hostile_windows_are_only_text(visit, store, attack):
    page = visit(f"?sae={browsable(store)[0].artifact}&latent={4 + attack}")
    page.click("text=Whole sentences, and what was asked")
    page.wait_for_selector("#grounds article")
    page.wait_for_timeout(300)
    label = page.inner_text("#latent h2.label")
    assert ATTACKS[attack].split()[-1][:8].strip("\x07\U000e0041") in label
    assert page.locator("#latent img, #latent script, #grounds img, #grounds script, #results img, [onmouseover]").count() == 0
    whole = page.inner_text("#latent") + page.inner_text("#grounds")
    assert not re.search(r"[\x00-\x08\x0e-\x1f\u202a-\u202e\u2066-\u2069]", whole)
    assert "<img src=x onerror=" in whole + label or "document.title" in whole


@pytest.mark.special
def test_results_are_gone_through_with_keys_and_pages(visit):
    page = visit()
    page.focus("#results tbody a")
    page.keyboard.press("ArrowDown")
    second = page.locator("#results tbody a").nth(1)
    assert second.evaluate("e => e === document.activeElement")
    page.keyboard.press("Enter")
    page.wait_for_selector(f"article[data-latent='{second.inner_text()}'][data-permalink]")
    page.click("#results .pager button:has-text('More')")
    page.wait_for_selector("#results .pager :text('26 to 50')")


@pytest.mark.special
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [DESK, TELEPHONE])
def test_the_page_fits_its_window_in_light_and_dark(visit, tmp_path_factory, width, scheme):
    page = visit(width=width, scheme=scheme)
    assert width_of(page) == width
    colour = page.evaluate("getComputedStyle(document.querySelector('#latent article')).backgroundColor")
    assert (colour == "rgb(255, 255, 255)") == (scheme == "light")
    page.screenshot(path=str(tmp_path_factory.getbasetemp() / f"browse-{width}-{scheme}.png"), full_page=True)


@pytest.mark.special
def test_two_visitors_see_each_their_own(visit):
    first, second = visit(), visit()
    first.fill("#search input, #search textarea", "zebra")
    first.wait_for_function("document.querySelectorAll('#results tbody tr').length === 1")
    second.click("#results .pager button:has-text('More')")
    second.wait_for_selector("#results .pager :text('26 to 50')")
    assert first.locator("#results tbody tr").count() == 1 and second.locator("#results tbody tr").count() == 25
