"""The form of the Steer tab, without a browser: recipes go through it unchanged, and what it cannot hold is refused."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("gradio", reason="no gradio here")

from flows.ui import form
from tasks.spec import SpecError
from tasks.steering.recipe import SteeringRecipe
from tests.e2e.steer_page.visiting import two_saes

pytestmark = [pytest.mark.slow]


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
