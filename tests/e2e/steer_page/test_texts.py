"""The Steer tab in a real browser: texts are those of the recipe, what is shown is what is written, hostile text is only text."""

from __future__ import annotations

import json
import re

import pytest

pytest.importorskip("gradio", reason="no gradio here")

from flows.api import load_recipe
from flows.cli import main
from flows.steered import open_recipe
from flows.ui.rendering import lines
from tasks.steering.recipe import SteeringRecipe
from tests.browsed import ATTACKS, PLANTED
from tests.browser import width_of
from tests.e2e.steer_page.visiting import (
    as_shown,
    ask,
    load,
    pick,
    recipe_of,
    run,
    settings,
    show_recipe,
    texts,
    turn,
    two_saes,
)

pytestmark = [pytest.mark.slow, pytest.mark.special]

CHAT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"


def test_three_actions_steer_and_the_recipe_gives_the_same_texts_everywhere(visit, store, tmp_path, capsys):
    page = visit()
    pick(page)
    assert PLANTED in page.inner_text("#turned")
    turn(page, 40)
    run(page)
    (default,), (steered,) = texts(page, "default"), texts(page, "steered")
    assert default and steered and default != steered
    assert "times as long as they were" in page.inner_text("#texts .steered [role=note]")
    show_recipe(page)
    with page.expect_download() as loading:
        page.click("#recipe-text a[download]")
    path = tmp_path / loading.value.suggested_filename
    loading.value.save_as(path)
    assert path.read_bytes() == recipe_of(page)
    found = load_recipe(path, store, device="cpu").run()
    assert as_shown(found.default) == [default] and as_shown(found.steered) == [steered]
    capsys.readouterr()
    assert main(["steer", "--recipe", str(path), "--json", f"backend.root={store.backend.root}", "runtime.device=cpu"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["prompts"]
    assert lines(one["steered"]["text"]) == steered
    assert page.inner_text("#recipe-shell") == f"saint steer --recipe {path.name}"
    assert f'load_recipe("{path.name}")' in page.inner_text("#recipe-python")


def test_strength_0_and_a_latent_switched_off_are_the_model_itself(visit):
    page = visit()
    pick(page)
    turn(page, 0)
    run(page)
    assert texts(page, "default") == texts(page, "steered") != [""]
    assert "nothing is turned" in page.inner_text("#status-line")
    turn(page, 60)
    page.locator("#turned input[type=checkbox]").uncheck()
    run(page)
    assert texts(page, "default") == texts(page, "steered")
    page.locator("#turned input[type=checkbox]").check()
    run(page)
    assert texts(page, "default") != texts(page, "steered")


def test_presets_set_mode_and_strength_and_the_slider_sets_the_number(visit):
    page = visit()
    pick(page)
    row = page.locator("#turned [data-push]")
    row.get_by_role("slider").fill("-2.5")
    assert row.locator("[data-of=strength]").input_value() == "-2.5"
    for name, mode, strength in (("suppress", "ablate", 1.0), ("clamp", "clamp", 1.0), ("boost", "add", 1.0)):
        row.get_by_role("button", name=name).click()
        run(page)
        (push,) = json.loads(recipe_of(page))["pushes"]
        assert (push["mode"], push["strength"]) == (mode, strength) and push["label"] == PLANTED
    assert row.locator(".zero").is_hidden()
    row.locator("[data-of=mode]").select_option("clamp")
    turn(page, 0)
    assert "0 is off in every mode; ablate" in row.locator(".zero").inner_text()
    turn(page, 1)
    assert row.locator(".zero").is_hidden()
    row.get_by_role("button", name="Remove").click()
    row.wait_for(state="detached")
    pick(page)
    assert row.locator("[data-of=strength]").input_value() == "0.5" and row.locator("[data-of=mode]").input_value() == "add"


def test_a_recipe_of_two_layers_is_loaded_and_written_as_it_is_run(visit, state, store, tmp_path):
    path = two_saes(state, tmp_path / "r.json")
    page = visit()
    load(page, path)
    assert page.locator("#turned [data-push]").count() == 4 and "layers.1" in page.inner_text("#turned")
    run(page)
    found = load_recipe(path, store, device="cpu").run()
    assert texts(page, "default") == as_shown(found.default) and texts(page, "steered") == as_shown(found.steered)
    assert recipe_of(page) == path.read_bytes()
    # the heat of one latent, on both sides
    steps = "[...document.querySelectorAll('#texts [data-heat]')].map(e => e.className)"
    strongest = page.evaluate(steps)
    page.select_option("#heat", "2")
    own = page.evaluate(steps)
    heats = [list(map(int, e.split())) for e in page.evaluate(steps.replace("className", "dataset.heat"))]
    assert own != strongest and any(own)
    assert own == [f"s{min(10, -(-heat[2] // 10))}" if heat[2] else "" for heat in heats]
    assert strongest == [f"s{min(10, -(-max(heat) // 10))}" if max(heat) else "" for heat in heats]
    page.fill("#recipe-paste textarea", '{"format": "saint-steering", "version": 1, "lm": "<img src=x onerror=alert(1)>"}')
    page.click("#recipe-load")
    page.wait_for_selector("#status-line [role=alert]")
    assert page.locator("#turned [data-push]").count() == 4


def test_hostile_labels_windows_and_prompts_are_only_text(visit, state):
    page = visit()
    index = state.index(state.names[0])
    attacking = (index.max_N > 0).nonzero()[0].tolist()[1 : len(ATTACKS) + 1]
    assert ATTACKS[0] == index.label(attacking[0])
    for n, latent in enumerate(attacking, 1):
        page.fill("#steer-search input, #steer-search textarea", str(latent))
        page.click(f"#steer-found button[data-value='{latent}']")
        page.wait_for_function(f"document.querySelectorAll('#turned [data-push]').length === {n}")
    page.locator("#turned summary").first.click()
    ask(page, ATTACKS[0][:60], ATTACKS[3])
    run(page)
    show_recipe(page)
    page.wait_for_timeout(300)
    assert page.locator("#steer img, #steer script, #steer [onmouseover], #steer [onerror]").count() == 0
    shown = page.inner_text("#turned") + page.inner_text("#texts") + page.inner_text("#recipe-text")
    assert not re.search(r"[\x00-\x08\x0e-\x1f\u202a-\u202e\u2066-\u2069]", shown)
    assert "<img src=x onerror=" in shown
    assert json.loads(recipe_of(page))["prompts"] == [ATTACKS[0][:60], ATTACKS[3]]


def test_the_button_on_a_latents_page_leads_to_the_list(visit, state):
    page = visit(tab=False, query=f"?sae={state.names[1]}&latent={int((state.index(state.names[1]).max_N > 0).argmax())}")
    page.get_by_role("button", name="Steer with this latent").click()
    page.wait_for_selector("#turned [data-push]:visible")
    assert page.get_attribute("#turned [data-push]", "data-sae") == state.names[1]
    page.get_by_role("tab", name="Browse").click()
    page.get_by_role("button", name="Steer with this latent").click()
    page.wait_for_selector("#status-line [role=alert]:visible")
    assert "it is in the list" in page.inner_text("#status-line") and page.locator("#turned [data-push]").count() == 1


def test_chat_is_refused_without_a_template_and_with_one_goes_on_with_an_answer(visit, model, state):
    page = visit()
    page.click("#kind label:has-text('Chat')")
    page.wait_for_selector("#status-line [role=alert]")
    assert "its tokenizer has no chat template" in page.inner_text("#status-line")
    assert page.locator("#kind input[value=text]").is_checked()
    model.lm.tokenizer.chat_template = CHAT
    try:
        pick(page)
        turn(page, 30)
        page.click("#kind label:has-text('Chat')")
        page.wait_for_selector("#asked [data-prompt=chat]")
        page.fill("#asked textarea", "Who are you?")
        settings(page, tokens="8")
        run(page)
        first = texts(page, "steered")
        page.click("#texts .steered [data-act=goon]")
        page.wait_for_function("document.querySelectorAll('#asked textarea').length === 3")
        page.locator("#asked textarea").nth(2).fill("And who am I?")
        run(page)
        found = open_recipe(SteeringRecipe(**json.loads(recipe_of(page))), state.models).run()
        assert texts(page, "steered") == as_shown(found.steered) != first
        (turns,) = json.loads(recipe_of(page))["prompts"]
        assert [turn["role"] for turn in turns] == ["user", "assistant", "user"] and turns[2]["content"] == "And who am I?"
        assert turns[1]["content"] and json.loads(recipe_of(page))["n_tokens"] == 8
        page.locator("#asked textarea").nth(2).fill("")
        page.click("#run")
        page.wait_for_selector("#status-line [role=alert]")
        assert "its last turn is empty" in page.inner_text("#status-line")
    finally:
        model.lm.tokenizer.chat_template = None


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
def test_the_tab_fits_its_window_and_all_its_controls_have_names(visit, state, tmp_path, tmp_path_factory, width, scheme):
    page = visit(width=width, scheme=scheme)
    load(page, two_saes(state, tmp_path / "r.json"))
    run(page)
    assert width_of(page) == width
    nameless = """[...document.querySelectorAll('#steer button, #steer input, #steer select, #steer textarea')].filter(e => e.offsetParent
        && !(e.getAttribute('aria-label') || e.innerText || e.labels?.length || e.title)).map(e => e.outerHTML)"""
    assert page.evaluate(nameless) == []
    page.screenshot(path=str(tmp_path_factory.getbasetemp() / f"steer-{width}-{scheme}.png"), full_page=True)
