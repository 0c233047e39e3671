"""The Steer tab in a real browser: texts are those of the recipe, stop stops, visitors keep to themselves, hostile text is only text."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("gradio", reason="no gradio here")

from artifacts.store import Store
from flows.api import load_recipe
from flows.cli import main
from flows.shelves import browsable
from flows.ui import form, steer
from flows.ui.launch import Access, serve
from flows.ui.rendering import lines
from flows.ui.state import State
from tasks.spec import Runtime, SpecError
from tasks.steering.recipe import SteeringRecipe
from tests.browsed import ATTACKS, PLANTED, attacked
from tests.browser import DESK, width_of
from tests.servers import free_port

pytestmark = [pytest.mark.slow]

CHAT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """SAEs on two layers of one model; on the first one a latent with a label to find, and labels that attack."""
    folder = tmp_path_factory.mktemp("ui-steer")
    small = attacked(folder)
    where = ["runtime.mode=inline", f"backend.root={folder / 'store'}"]
    asked = [*small, "train.n_tokens=20000", "capture.n_shards=1", "capture.hookpoints=[layers.0,layers.1]", "explain.latents=0:2"]
    assert main(["explain", *asked, *where]) == 0
    store = Store.at(folder / "store")
    state = state_of(store)
    lively = (state.index(state.names[0]).max_N > 0).nonzero()[0].tolist()[: len(ATTACKS) + 1]
    labels = dict(zip(lively, [PLANTED, *ATTACKS], strict=True))
    (folder / "labels.json").write_text(json.dumps([{"latent": n, "label": label} for n, label in labels.items()]))
    assert main(["explain", state.names[0], "explainer=load", f"explainer.path={folder / 'labels.json'}", *where]) == 0
    return store


def state_of(store: Store) -> State:
    saes = sorted(browsable(store), key=lambda m: m.summary["hookpoint"])
    return State(store, saes, Runtime(mode="inline", device="cpu"))


@pytest.fixture(scope="module")
def state(store) -> State:
    return state_of(store)


@pytest.fixture(scope="module")
def model(state) -> Iterator[SimpleNamespace]:
    """The model that the page steers: how often it was called, and what each call is to cost."""
    held = SimpleNamespace(calls=0, seconds=0.0, error=None, lm=state.models.lm(state.saes[state.names[0]].lm.artifact))

    def called(*_) -> None:
        held.calls += 1
        time.sleep(held.seconds)
        if held.error is not None:
            raise held.error

    hook = held.lm.model.register_forward_pre_hook(called)
    yield held
    hook.remove()


@pytest.fixture
def slowly(model):
    model.seconds = 0.05
    yield model
    model.seconds = 0.0


@pytest.fixture
def endless(slowly):
    """Texts that no end of a text ends, five seconds of work."""
    config, slowly.seconds = slowly.lm.model.generation_config, 0.08
    held, config.eos_token_id = config.eos_token_id, [10**6]
    yield slowly
    config.eos_token_id = held


def at_rest(model, seconds: float = 2.0) -> bool:
    """Whether the model comes to rest, long before its texts could be whole."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        before = model.calls
        time.sleep(0.4)
        if model.calls == before:
            return True
    return False


@pytest.fixture(scope="module")
def url(state, model) -> Iterator[str]:
    page, address = serve(state, Access(port=free_port()))
    yield address
    page.close(verbose=False)


@pytest.fixture
def visit(visit, url):
    """Opens the tab in a browser of its own."""

    def open_(width: int = DESK, scheme: str = "light", tab: bool = True, query: str = "", address: str = url):
        page = visit(address + query, width=width, scheme=scheme)
        page.set_default_timeout(40_000)
        page.wait_for_selector("#latent article", timeout=60_000)
        if tab:
            page.get_by_role("tab", name="Steer").click()
            page.wait_for_selector("#steer-found button")
        return page

    yield open_
    assert all(page.title() == "SAINT" for context in visit.contexts for page in context.pages)


# what a visitor does


def pick(page, words: str = "zebra") -> None:
    n = page.locator("#turned [data-push]").count()
    page.fill("#steer-search input, #steer-search textarea", words)
    page.wait_for_function("document.querySelectorAll('#steer-found li').length === 1")
    page.click("#steer-found button")
    page.wait_for_function(f"document.querySelectorAll('#turned [data-push]').length === {n + 1}")


def turn(page, strength: float, row: int = 0) -> None:
    page.locator("#turned [data-push]").nth(row).locator("input[data-of=strength]").fill(str(strength))


def settings(page, **typed: str) -> None:
    """Open the settings and type into them, once they stand: a field that has just come up is filled from the page's state."""
    page.click("#settings button >> nth=0")
    page.wait_for_selector("#tokens input")
    page.wait_for_timeout(500)
    for name, text in typed.items():
        field = page.locator(f"#{name} input, #{name} textarea").first
        field.fill(text)
        field.press("Tab")
    page.wait_for_timeout(200)
    assert {name: page.locator(f"#{name} input, #{name} textarea").first.input_value() for name in typed} == typed


def run(page) -> None:
    page.evaluate("document.querySelector('#status-line p').textContent = ''")  # what it said of the run before
    page.click("#run")
    finished(page)


def finished(page) -> None:
    over = "!document.querySelector('#run').disabled && /^(done|stopped)/.test(document.querySelector('#status-line p').innerText)"
    try:
        page.wait_for_function(over)
    except Exception as error:
        seen = {name: page.locator(name).first.is_disabled() for name in ("#run", "#stop")}
        raise AssertionError(f"the run does not end: {page.inner_text('#status-line')!r}, disabled {seen}") from error


def texts(page, side: str) -> list[str]:
    return page.locator(f"[data-side={side}]").all_text_contents()


def ask(page, *prompts: str) -> None:
    for i, prompt in enumerate(prompts):
        if i:
            page.click("#asked [data-act=more]")
        page.locator("#asked textarea").nth(i).fill(prompt)


def open_recipe(page) -> None:
    if not page.locator("#recipe-paste").count():
        page.click("#recipe button >> nth=0")
        page.wait_for_selector("#recipe-paste")


def recipe_of(page) -> bytes:
    open_recipe(page)
    return base64.b64decode(page.get_attribute("#recipe-text a[download]", "href").split(",", 1)[1])


def load(page, path: Path) -> None:
    open_recipe(page)
    page.set_input_files("#recipe input[type=file]", str(path))
    page.wait_for_function("document.querySelector('#status-line').innerText.startsWith('recipe loaded')")


def as_shown(found: str | list[str]) -> list[str]:
    return [lines(text) for text in ([found] if isinstance(found, str) else found)]


def two_saes(state: State, path: Path, **other) -> Path:
    """A recipe with latents of both SAEs, in three modes."""
    names = state.names
    lively = [(state.index(name).max_N > 0).nonzero()[0].tolist() for name in names]
    turned = [
        form.Turned(sae=names[0], latent=lively[0][0], strength=30.5),
        form.Turned(sae=names[1], latent=lively[1][1], strength=-20.25, mode="clamp"),
        form.Turned(sae=names[1], latent=lively[1][0], strength=12, mode="bias"),
        form.Turned(sae=names[0], latent=lively[0][3], mode="ablate"),
    ]  # fmt: skip
    settings = {"n_tokens": 20, "temperature": 0.73, "top_p": 0.913, "seed": 2**60 + 1, "name": "two of them"} | other
    return form.recipe_of_form(state, turned, ["The cat saw", "My sister\n  \"<b>\" $x"], names[0], settings).save(path)


# without a browser


def test_a_recipe_goes_through_the_form_unchanged(state, tmp_path):
    held = SteeringRecipe.load(two_saes(state, tmp_path / "r.json"))
    recipe, turned = form.form_of_recipe(state, held.text())
    settings = {name: getattr(held, name) for name in ("n_tokens", "temperature", "top_p", "seed", "positions", "name")}
    assert form.recipe_of_form(state, turned, list(recipe.prompts), state.names[0], settings) == held == recipe
    # what the browser sends of it
    sent = json.dumps([one.model_dump(exclude_none=True) for one in turned])
    assert form.turned_in(sent) == turned
    larger = json.loads(held.text())
    larger["pushes"][0]["largest"] = 7.25
    assert form.form_of_recipe(state, json.dumps(larger))[1][0].largest == 7.25 and turned[0].largest is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "bfloat16"}, "start saint ui --dtype bfloat16"),
        ({"n_tokens": 4000}, "this page writes at most 512; saint steer --recipe takes more"),
        ({"prompts": ["a"] * 9}, "at most 8 at once"),
        ({"prompts": ["a\r"]}, "a field of a page holds none"),
        ({"prompts": ["a", [{"role": "user", "content": "b"}]]}, "one kind at a time"),
        ({"version": 2}, "take a newer SAINT"),
        ({"format": "x"}, "it is no steering recipe"),
        ({"temperature": -1}, "recipe.temperature = -1"),
        ({"saes": [{"n_latents": 1 << 20}, {}], "pushes": [{"latent": 128}, {}, {}, {}]}, "n_latents = 1048576|latents 0 to 127"),
    ],
)
def test_a_recipe_whose_texts_the_page_cannot_give_is_refused(state, tmp_path, change, message):
    body = json.loads(two_saes(state, tmp_path / "r.json").read_text())
    for part in ("saes", "pushes"):
        change = change | ({part: [a | b for a, b in zip(body[part], change[part], strict=False)]} if part in change else {})
    body |= change
    with pytest.raises(SpecError, match=message):
        form.form_of_recipe(state, json.dumps(body))


def test_a_clamp_at_0_is_shown_as_one_and_what_is_pasted_is_told(state, tmp_path):
    body = json.loads(two_saes(state, tmp_path / "r.json").read_text())
    body["pushes"] = [body["pushes"][1] | {"strength": 0.0}]
    _, (one,) = form.form_of_recipe(state, json.dumps(body))
    assert (one.mode, one.strength, one.on) == ("clamp", 0.0, True)
    for junk in ("junk <b>", b"junk <b>\xff" + b"x" * 100):
        with pytest.raises(SpecError, match="recipe = 'junk <b>.*', but it is no JSON"):
            form.form_of_recipe(state, junk)


def test_what_cannot_be_turned_does_not_join_the_list(state):
    name, index = state.names[0], state.index(state.names[0])
    one = form.added(state, [], name, int((index.max_N > 0).argmax()))
    with pytest.raises(SpecError, match="it is in the list; move its slider"):
        form.added(state, one, name, one[0].latent)
    with pytest.raises(SpecError, match="at most 16 at once"):
        form.added(state, [one[0].model_copy(update={"latent": 100 + i}) for i in range(16)], name, one[0].latent)
    with pytest.raises(SpecError, match="this SAE has latents 0 to 127"):
        form.added(state, [], name, 128)
    with pytest.raises(SpecError, match="this page shows"):
        form.added(state, [], "train/0", 1)
    for dead in (index.max_N == 0).nonzero()[0][:1].tolist():
        with pytest.raises(SpecError, match="it was never active"):
            form.added(state, [], name, dead)


def test_browse_and_steer_share_one_opened_model(state):
    first, second = (state.sae(name).subject.lm for name in state.names)
    assert first is second is state.models.lm(state.sae(state.names[0]).lm.artifact)


# in a browser


@pytest.mark.special
def test_three_actions_steer_and_the_recipe_gives_the_same_texts_everywhere(visit, store, tmp_path, capsys):
    page = visit()
    pick(page)
    assert PLANTED in page.inner_text("#turned")
    turn(page, 40)
    run(page)
    (default,), (steered,) = texts(page, "default"), texts(page, "steered")
    assert default and steered and default != steered
    assert "times as long as they were" in page.inner_text("#texts .steered [role=note]")
    open_recipe(page)
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


@pytest.mark.special
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


@pytest.mark.special
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


@pytest.mark.special
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


@pytest.mark.special
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


@pytest.mark.special
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


@pytest.mark.special
def test_closing_the_tab_stops_the_work(visit, endless, state):
    page = visit()
    pick(page)
    page.click("#run")
    page.wait_for_function("document.querySelector('[data-side=steered]')?.textContent.length > 3")
    before = endless.calls
    page.close()
    assert at_rest(endless) and endless.calls - before < 20
    assert state.model.acquire(timeout=2)
    state.model.release()


@pytest.mark.special
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


@pytest.mark.special
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


@pytest.mark.special
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
    open_recipe(page)
    page.wait_for_timeout(300)
    assert page.locator("#steer img, #steer script, #steer [onmouseover], #steer [onerror]").count() == 0
    shown = page.inner_text("#turned") + page.inner_text("#texts") + page.inner_text("#recipe-text")
    assert not re.search(r"[\x00-\x08\x0e-\x1f\u202a-\u202e\u2066-\u2069]", shown)
    assert "<img src=x onerror=" in shown
    assert json.loads(recipe_of(page))["prompts"] == [ATTACKS[0][:60], ATTACKS[3]]


@pytest.mark.special
def test_the_button_on_a_latents_page_leads_to_the_list(visit, state):
    page = visit(tab=False, query=f"?sae={state.names[1]}&latent={int((state.index(state.names[1]).max_N > 0).argmax())}")
    page.get_by_role("button", name="Steer with this latent").click()
    page.wait_for_selector("#turned [data-push]:visible")
    assert page.get_attribute("#turned [data-push]", "data-sae") == state.names[1]
    page.get_by_role("tab", name="Browse").click()
    page.get_by_role("button", name="Steer with this latent").click()
    page.wait_for_selector("#status-line [role=alert]:visible")
    assert "it is in the list" in page.inner_text("#status-line") and page.locator("#turned [data-push]").count() == 1


@pytest.mark.special
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
        found = state.models.open(SteeringRecipe(**json.loads(recipe_of(page)))).run()
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


@pytest.mark.special
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


@pytest.mark.special
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
