"""What a visitor of the Steer tab does and sees."""

from __future__ import annotations

import base64
import time
from pathlib import Path

from flows.ui import form
from flows.ui.rendering import lines
from flows.ui.state import State


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


def show_recipe(page) -> None:
    if not page.locator("#recipe-paste").count():
        page.click("#recipe button >> nth=0")
        page.wait_for_selector("#recipe-paste")


def recipe_of(page) -> bytes:
    show_recipe(page)
    return base64.b64decode(page.get_attribute("#recipe-text a[download]", "href").split(",", 1)[1])


def load(page, path: Path) -> None:
    show_recipe(page)
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


def at_rest(model, seconds: float = 2.0) -> bool:
    """Whether the model comes to rest, long before its texts could be whole."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        before = model.calls
        time.sleep(0.4)
        if model.calls == before:
            return True
    return False
