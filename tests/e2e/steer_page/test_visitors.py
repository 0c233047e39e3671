"""Visitors of the Steer tab: stop stops, who waits is told, each keeps to himself, and nothing that goes wrong ends a page."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("gradio", reason="no gradio here")

from flows.api import load_recipe
from flows.ui import form, steer
from flows.ui.launch import Access, serve
from tests.e2e.steer_page.visiting import as_shown, ask, at_rest, finished, pick, recipe_of, run, texts, turn
from tests.servers import free_port

pytestmark = [pytest.mark.slow, pytest.mark.special]


def test_stop_stops_the_work(visit, endless):
    page = visit()
    pick(page)
    turn(page, 3)
    page.click("#run")
    page.wait_for_function("document.querySelector('[data-side=steered]')?.textContent.length > 3")
    before = endless.calls
    page.click("#stop")
    finished(page)
    assert at_rest(endless) and endless.calls - before < 20
    assert page.inner_text("#status-line").startswith("stopped after") and texts(page, "steered") != [""]
    endless.seconds = 0
    run(page)
    assert page.inner_text("#status-line").startswith("done")


def test_who_waits_for_a_turn_and_stops_is_told_at_once_and_may_steer_again(visit, endless, state, monkeypatch):
    monkeypatch.setattr(steer, "_MOST_AT_ONCE", 1)
    shown, address = serve(state, Access(port=free_port()))
    try:
        first, second = visit(address=address), visit(address=address)
        first.click("#run")
        first.wait_for_function("document.querySelector('[data-side=steered]')?.textContent.length > 3")
        for seed in (1, 2):
            if seed == 1:
                second.click("#settings button >> nth=0")
            second.locator("#seed input, #seed textarea").fill(str(seed))
            second.click("#run")
            second.wait_for_selector("#stop:not([disabled])")
            assert second.inner_text("#status-line p") == "waiting for its turn"
            if seed == 1:
                second.click("#stop")
                finished(second)
                assert second.inner_text("#status-line p") == "stopped before its turn came" and second.locator("#stop").is_disabled()
        assert first.inner_text("#status-line").startswith("token"), "the other is at work all the while"
        endless.seconds = 0
        for page in (first, second):
            finished(page)
            assert page.inner_text("#status-line").startswith("done")
        assert json.loads(recipe_of(second))["seed"] == 2
    finally:
        shown.close(verbose=False)


def test_closing_the_tab_stops_the_work(visit, endless, state):
    page = visit()
    pick(page)
    page.click("#run")
    page.wait_for_function("document.querySelector('[data-side=steered]')?.textContent.length > 3")
    before = endless.calls
    page.close()
    assert at_rest(endless) and endless.calls - before < 20
    assert state.model.acquire(timeout=20)
    state.model.release()


def test_two_visitors_at_once_get_each_their_own_texts(visit, slowly, store, state):
    slowly.seconds = 0.01
    first, second = visit(), visit()
    pick(first)
    turn(first, 50)
    ask(first, "The cat saw", "My sister")
    assert second.locator("#turned [data-push]").count() == 0
    second.fill("#steer-search input, #steer-search textarea", "1")
    second.locator("#steer-found button").first.click()
    second.wait_for_selector("#turned [data-push]")
    turn(second, -45)
    ask(second, "A bird ate")
    first.click("#run")
    second.click("#run")
    finished(first)
    finished(second)
    for page in (first, second):
        recipe = json.loads(recipe_of(page))
        found = load_recipe(recipe, store, device="cpu").run()
        assert texts(page, "default") == as_shown(found.default) and texts(page, "steered") == as_shown(found.steered)
    assert texts(first, "steered") != texts(second, "steered")
    assert first.locator("#turned [data-push]").count() == second.locator("#turned [data-push]").count() == 1
    assert first.locator("#asked textarea").count() == 2 and second.locator("#asked textarea").count() == 1


def test_stopping_one_visitor_leaves_the_other_at_work(visit, endless):
    first, second = visit(), visit()
    for page in (first, second):
        page.click("#run")
        page.wait_for_function("document.querySelector('[data-side=steered]')?.textContent.length > 3")
    first.click("#stop")
    finished(first)
    endless.seconds = 0
    finished(second)
    assert second.inner_text("#status-line").startswith("done: ") and first.inner_text("#status-line").startswith("stopped")


def test_what_goes_wrong_is_told_in_one_sentence_and_the_page_goes_on(visit, model, monkeypatch):
    page = visit()
    ask(page, "word " * 400)
    page.click("#run")
    page.wait_for_selector("#status-line [role=alert]")
    assert "reads at most 128" in page.inner_text("#status-line")
    ask(page, "The cat")
    run(page)
    assert page.locator("#texts.before, #recipe-text.before").count() == 0
    model.error = RuntimeError("/secret/path\nin many lines")
    page.click("#run")
    page.wait_for_function("document.querySelector('#status-line').innerText.includes('steering failed with RuntimeError')")
    assert "secret" not in page.inner_text("body")
    # texts and recipe are those of the run before, whatever is done next, and say so
    assert page.locator("#texts.before .told-one").count() == 1
    assert json.loads(recipe_of(page))["prompts"] == ["The cat"] and page.locator("#recipe-text.before pre").count()
    label = "getComputedStyle(document.querySelector('#texts .saint'), '::before').content"
    assert page.evaluate(label) == '"Of the run before:"'
    pick(page)
    assert page.evaluate(label) == '"Of the run before:"'
    model.error = None
    run(page)
    assert page.locator(".before").count() == 0 and page.evaluate(label) == "none"
    page.locator("#asked textarea").fill("x" * (form.MOST_CHARACTERS + 1))
    page.click("#run")
    page.wait_for_selector("#status-line [role=alert]")
    assert "shorten it" in page.inner_text("#status-line") and not page.locator("#run").is_disabled()
