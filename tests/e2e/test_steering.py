"""``saint steer`` and recipes on a small world: terminal, JSON, files, another store, three lines of Python."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from artifacts.store import Store
from flows.api import load_recipe, open_sae
from flows.cli import main
from flows.console import clean
from flows.models import Models
from flows.steer import wish_in
from flows.steered import open_recipe
from flows.wishes import Wish, recipe_of
from tasks.inspection.known import NOTHING
from tasks.lms.hf import HF
from tasks.provide import ProvideSpec, provide
from tasks.spec import Runtime, SpecError
from tasks.steering.recipe import SteeringRecipe
from tests.making import make
from tests.small import overrides, write_model

PROMPTS = ["The cat saw", "My sister"]
HOSTILE = "\x1b[31m\x1b]0;own\x07 cat\u202e saw [bold]a\u2066 dog[/bold]\r<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Two SAEs of one model, of which the windows are there."""
    folder = tmp_path_factory.mktemp("steering")
    asked = [*overrides(folder), "train.n_tokens=8000", "capture.n_shards=1", "capture.hookpoints=[layers.0,layers.1]"]
    asked += ["explain.latents=0:20", "score.latents=0:1", "runtime.mode=inline", f"backend.root={folder / 'store'}"]
    assert main(["run", *asked]) == 0
    return folder


@pytest.fixture(scope="module")
def store(built) -> Store:
    return Store.at(built / "store")


@pytest.fixture(scope="module")
def saes(store) -> list[str]:
    """Their names, the lower hookpoint's first."""
    found = [store.find(a) for a in store.artifacts() if a.stage == "train"]
    return [str(m.artifact) for m in sorted(found, key=lambda m: m.summary["hookpoint"])]


@pytest.fixture
def saint(built, capsys):
    """A command given in the world: exit code, and what it says."""

    def give(*arguments: str) -> tuple[int, str, str]:
        code = main(["steer", *arguments, f"backend.root={built / 'store'}", "runtime.device=cpu"])
        return code, *capsys.readouterr()

    return give


def turned(saes, strength=30.0) -> list[str]:
    return ["--latent", f"3={strength}", "--latent", f"{saes[1]}:5={-strength}:clamp", "--latent", f"{saes[1]}:9={strength}:bias"]


def test_the_command_a_recipe_and_three_lines_of_python_say_the_same(saint, saes, built, tmp_path, monkeypatch):
    her = tmp_path / "her.json"
    flags = ["--tokens", "12", "--seed", "4", "--temperature", "0.7", "--top-p", "0.9"]
    code, out, err = saint(saes[0], *PROMPTS, *turned(saes), *flags, "--save", str(her), "--json")
    assert code == 0, err
    body = json.loads(out)
    code, again, err = saint("--recipe", str(her), "--json")
    assert code == 0 and json.loads(again) == body, err
    monkeypatch.setenv("SAINT_STORE", str(built / "store"))

    recipe = load_recipe(her, device="cpu")
    found = recipe.run()

    assert found.steered == [each["steered"]["text"] for each in body["prompts"]]
    assert found.default == [each["default"]["text"] for each in body["prompts"]] != found.steered
    assert found.json == body
    one, other = load_recipe(her, device="cpu").stream(), recipe.run(("steered",))
    last = list(one)[-1]
    assert last.steered == other.steered == found.steered and other.told[0].default is None
    # what it says is what is in the file
    held = SteeringRecipe.load(her)
    assert [push.mode for push in held.pushes] == ["add", "clamp", "bias"] and held.seed == 4
    assert held.pushes[0].label and held.pushes[0].largest > 0
    for each in body["prompts"]:
        for side in ("default", "steered"):
            tokens = each[side]["tokens"]
            assert 0 < len(tokens) <= 12 and all(len(t["activations"]) == 3 for t in tokens)
        assert all(t["growth"] == 1 for t in each["default"]["tokens"]) and each["steered"]["growth"] > 1.1


def test_strength_0_and_no_latent_are_the_model_itself(saint, saes):
    texts = []
    for more in ([], ["--latent", "3=0", "--latent", f"{saes[1]}:9=0:bias"]):
        body = json.loads(saint(saes[0], PROMPTS[0], *more, "--tokens", "10", "--json")[1])
        (each,) = body["prompts"]
        assert each["default"]["text"] == each["steered"]["text"] and each["warnings"] == []
        texts.append(each["default"]["text"])
    assert len(set(texts)) == 1 and texts[0]
    notes = [saint(saes[0], PROMPTS[0], *more, "--tokens", "3")[2] for more in ([], ["--latent", "3=9"], ["--only", "default"])]
    assert ["no latent is turned" in said for said in notes] == [True, False, False]


@pytest.mark.parametrize("mode", ["clamp", "ablate"])
def test_a_latent_is_not_held_by_a_strength_that_is_off(saint, saes, store, mode):
    said = f"3=0:{mode}, but a strength of 0 is off in every mode; use 3=ablate .* to take it out, or leave it out"
    with pytest.raises(SpecError, match=said):
        open_sae(saes[0], store, device="cpu").steer({3: 0.0}, "The cat", mode=mode)
    code, _, err = saint(saes[0], "The cat", "--latent", f"3=0:{mode}")
    assert code == 2 and "use 3=ablate" in err


def test_the_terminal_shows_both_texts_and_obeys_nothing(saint, saes, tmp_path):
    code, out, err = saint(saes[0], PROMPTS[0], HOSTILE, *turned(saes, 300), "--tokens", "8")
    assert code == 0, err
    assert out.count("default:") == 4 and f"{saes[0]} latent 3: add 300 x" in out and "warning: the pushed activations are" in out
    for sign in ("\x1b", "\x07", "\r", "\u202e", "\u2066"):
        assert sign not in out + err
    code, out, _ = saint(saes[0], PROMPTS[0], "--only", "steered", "--tokens", "3")
    assert code == 0 and "default:" not in out


def test_a_live_terminal_gets_two_columns_with_the_heat_of_tokens(store, saes, monkeypatch, capsys):
    import sys

    from rich.console import Console

    import flows.steering_text as text

    recipe = recipe_of(store, saes[:1], [Wish(i, 0.0) for i in range(128)], [PROMPTS[0], HOSTILE], n_tokens=8, temperature=0.0)
    opened = open_recipe(recipe, Models(store, Runtime(mode="inline", device="cpu")))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    colours = {"width": 100, "force_terminal": True, "color_system": "truecolor"}
    monkeypatch.setattr("rich.console.Console", lambda **options: Console(**options | colours))
    text.show(opened, ("default", "steered"))
    shown = capsys.readouterr().out
    assert "steered" in shown and "48;2;" in shown and "\x1b]0;own" not in shown and "\u202e" not in shown
    found = opened.run()
    assert all(clean(found.words[token]).strip() in shown for token in found.told[0].steered.token_ids)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no SAE is named"),
        (["hi there", "--latent", "17=1"], "the first word, 'hi there', names no SAE; as in saint steer train/3f2a"),
        (["{0}"], "there is no prompt"),
        (["{0}", "a", "--latent", "x"], "a latent is N=STRENGTH"),
        (["{0}", "a", "--latent", "3=4:shout"], "there is no mode 'shout'; use one of add, clamp, ablate, bias"),
        (["{0}", "a", "--latent", "3=1e"], "its strength is no number"),
        (["{0}", "a", "--latent", "999=1"], "latent = 999, but train/.* has latents 0 to 127"),
        (["{0}", "a", "--latent", "mine/00:9=1"], "mine/00"),
        (["{0}", "a", "--latent", "train/zz:9=1"], "--latent train/zz:9=1, but 'zz' begins no key: keys are of 0 to 9 and a to f"),
        (["{0}", "a", "--latent", "-3=2"], "--latent -3=2, but a latent is N=STRENGTH"),
        (["{0}", "a", "--latent", "3=1", "--latent", "3=ablate"], "latent = 3, but it is turned by add and by ablate"),
        (["{0}", "a", "--tokens", "abc"], "--tokens = 'abc', but it is no whole number; write one"),
        (["{0}", "a", "--top-p", "x"], "--top-p = 'x', but it is no number; write one"),
        (["{0}", "a", "--tokenz", "3"], "--tokenz, but saint steer has no such flag; saint steer --help lists them"),
        (["{0}", "a", "--only", "both"], "saint steer, but --only: invalid choice: 'both' .*; saint steer --help tells how"),
        (["{0}", "--lines", "--file", "/dev/null"], "--lines, but there is no line with a word in it; give another file"),
        (["{0}", "a", "--temperature", "-1"], "--temperature = -1, but it is 0 to 100; use 0"),
        (["{0}", "a", "--temperature", "inf"], "--temperature = inf, but it is 0 to 100; use 0"),
        (["{0}", "a", "--top-p", "1.5"], "--top-p = 1.5, but it is a share"),
        (["{0}", "a", "--tokens", "0"], "recipe.n_tokens = 0"),
        (["{0}", "a", "--chat"], "no chat template"),
        (["{0}", "a", "--system", "be brief"], "only a conversation has one; add --chat"),
        (["{0}", "a", "--latent", "1=1:clamp", "--vector", "v"], "mode clamp, but a plain vector adds the same to every token"),
        (["--recipe", "no.json"], "but there is no such file"),
        (["{0}", "a", "--save", ""], "--save = '', but that names nothing; name a file"),
        (["{0}", "a", "--save", "/nonexistent/x.json"], "--save = '/nonexistent/x.json', but there is no folder /nonexistent; make it"),
        (["{0}", "a", "--vector", "/nonexistent/x"], "--vector = '/nonexistent/x', but there is no folder /nonexistent; make it"),
        (["{0}", "a", "--patch", "q.safetensors"], "patch = 'q.safetensors', but it is Python that others import; name it like my_"),
        (["{0}", "a", "--patch", "my-patch.py"], "patch = 'my-patch.py', but it is Python"),
        (["{0}", "a", "--patch", "class.py"], "patch = 'class.py', but it is Python"),
        (["{0}", "a", "--save", "q.py", "--patch", "q.py"], "--patch = 'q.py', but q.py is written by another flag, too"),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(saint, saes, arguments, message):
    import re

    code, out, err = saint(*(a.format(*saes) for a in arguments))
    assert code == 2 and re.search(message, err) and err.count("\n") == 1 and out == ""


def test_latents_are_typed_as_people_type_them():
    assert wish_in("17=0.8") == Wish(17, 0.8) and wish_in("17=-.5:clamp") == Wish(17, -0.5, "clamp")
    assert wish_in("17=ablate") == Wish(17, 1.0, "ablate") and wish_in("17=2x3.5:bias") == Wish(17, 2.0, "bias", 3.5)
    assert wish_in("train/9b:30=-2:ablate") == Wish(30, -2.0, "ablate", None, "train/9b")


def test_flags_change_a_recipe(saint, saes, tmp_path):
    her = tmp_path / "her.json"
    saint(saes[0], PROMPTS[0], "--latent", "3=30", "--latent", "4=1", "--tokens", "5", "--save", str(her), "--quiet")
    mine = tmp_path / "mine.json"
    more = ["--latent", "3=ablate", "--latent", f"{saes[1]}:1=2", "--seed", "9"]
    code, out, err = saint("--recipe", str(her), "Another", *more, "--save", str(mine), "--quiet")
    assert code == 0 and out == "", err
    one, other = SteeringRecipe.load(her), SteeringRecipe.load(mine)
    assert [(p.latent, p.mode) for p in other.pushes] == [(4, "add"), (3, "ablate"), (1, "add")]
    assert (other.prompts, other.seed, other.n_tokens, len(other.saes)) == (("Another",), 9, 5, 2) and one.prompts == (PROMPTS[0],)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{0}", "Hello"], "{0}, but the recipe '.*her.json' says which SAE it is; leave it out"),
        (["--chat"], "--chat, but it is about prompts, and none is given; give one, or drop it"),
        (["--chat", "--system", "be brief"], "--chat, but it is about prompts"),
        (["--system", "be brief"], "--system, but only a conversation has one; add --chat"),
        (["--lines"], "--lines, but it is about prompts"),
    ],
)
def test_beside_a_recipe_nothing_is_dropped_or_misread(saint, saes, tmp_path, arguments, message):
    import re

    saint(saes[0], PROMPTS[0], "--latent", "3=1", "--save", str(tmp_path / "her.json"), "--quiet")
    code, out, err = saint("--recipe", str(tmp_path / "her.json"), *(a.format(*saes) for a in arguments))
    assert code == 2 and out == "" and re.search(message.format(*saes), err), err


def test_the_largest_activation_comes_of_what_was_encoded_where_nothing_was_mined(saint, saes, store, monkeypatch):
    from flows import wishes
    from flows.belongings import sae_named, said_of

    known = said_of(store, sae_named(store, saes[0])).known([3])[3].largest
    monkeypatch.setattr(wishes, "said_of", lambda *_: SimpleNamespace(known=lambda latents: dict.fromkeys(latents, NOTHING)))
    (push,) = recipe_of(store, saes[:1], [Wish(3, 2.0)], ["a"]).pushes
    assert push.largest == pytest.approx(known, rel=1e-6)
    monkeypatch.setattr(wishes, "manifests", lambda *_: [])
    code, _, err = saint(saes[0], "a", "--latent", "3=2")
    assert code == 2 and "its largest activation is not known: this store has no windows" in err and "as in 3=2x2.5" in err
    code, out, _ = saint(saes[0], "a", "--latent", "3=2x1.5", "--latent", "4=ablate", "--json", "--tokens", "2")
    assert code == 0 and [p["largest"] for p in json.loads(out)["recipe"]["pushes"]] == [1.5, 0.0]


# elsewhere


def test_in_another_store_it_says_what_is_missing_and_finds_what_is_brought_there(saint, saes, store, built, tmp_path):
    her = tmp_path / "her.json"
    saint(saes[0], PROMPTS[0], "--latent", "3=30", "--tokens", "8", "--save", str(her), "--quiet")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with pytest.raises(SpecError, match=f"recipe.saes names {saes[0]} at layers.0, but it is not in this store; copy train/../.* from"):
        load_recipe(her, elsewhere)

    def bring(stage: str) -> None:
        (one,) = [a for a in store.artifacts() if a.stage == stage and (stage == "lm" or str(a) == saes[0])]
        folder = f"{one.stage}/{one.key[:2]}/{one.key}"
        shutil.copytree(built / "store" / folder, elsewhere / folder)

    bring("train")
    with pytest.raises(SpecError, match="recipe.lm = 'model' .lm/.*, but it is not in this store; copy lm/../.* from"):
        load_recipe(her, elsewhere)
    bring("lm")
    here, there = load_recipe(her, store, device="cpu"), load_recipe(her, elsewhere, device="cpu")
    assert here.run().steered == there.run().steered
    # the same weights under another address are the same SAE
    body = json.loads(her.read_text())
    body["saes"][0]["artifact"] = body["pushes"][0]["sae"] = "adopt/" + "0" * 64
    assert load_recipe(body, store, device="cpu").run().steered == here.run().steered


def test_other_weights_or_another_model_are_refused(saes, store, tmp_path):
    recipe = recipe_of(store, saes[:1], [Wish(3, 2.0)], ["a"])
    body = recipe.model_dump(mode="json")
    for name, said, own in (("n_latents", 9999, "128"), ("hookpoint", "layers.9", "'layers.0'")):
        with pytest.raises(SpecError, match=f"recipe.saes.{name} = {said!r}, but {saes[0]}, which has these weights, has {own}; write"):
            load_recipe(body | {"saes": [body["saes"][0] | {name: said}]}, store)
    other = body | {"saes": [body["saes"][0] | {"digest": "0" * 64}]}
    with pytest.raises(SpecError, match="its weights here have digest .*, not 000000000000..., so that its latents"):
        load_recipe(other, store)
    other = make(provide(ProvideSpec(lm=HF(path=str(write_model(tmp_path / "model", seed=1))).pinned())), store).artifact
    with pytest.raises(SpecError, match=f"recipe.lm = 'other' .{other}., but {saes[0]} is an SAE of lm/.* here; a recipe is of one"):
        load_recipe(body | {"lm": {"artifact": f"{other.stage}/{other.key}", "name": "other"}}, store)


def test_equal_prompts_get_draws_of_their_own_and_many_users_share_one_model(saes, store):
    from concurrent.futures import ThreadPoolExecutor

    models = Models(store, Runtime(mode="inline", device="cpu"))
    recipe = recipe_of(store, saes, [Wish(3, 30.0), Wish(4, 9.0, "clamp", None, saes[1])], ["The cat"] * 3, n_tokens=8, seed=1)
    recipes = [recipe.model_copy(update={"seed": seed}) for seed in range(4)]
    alone = [open_recipe(each, models).run().json for each in recipes]
    assert len({each["default"]["text"] for each in alone[0]["prompts"]}) == 3
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda each: open_recipe(each, models).run().json, recipes)) == alone
    assert open_recipe(recipe, models).subject.lm is open_recipe(recipes[2], models).subject.lm


def test_a_steered_model_of_plain_transformers_in_a_with_block(saes, store):
    import torch

    sae = open_sae(saes[0], store, device="cpu")
    ids = torch.from_numpy(sae.subject.prompts(["The cat saw"])[0].token_id)[None]
    plain = sae.subject.lm.model(ids).logits
    text = sae.steer({3: 60.0}, "The cat saw", 5, temperature=0)
    with sae.steering({3: 60.0}) as model:
        said = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert sae.subject.lm.tokenizer.decode(said[0], skip_special_tokens=True) == "The cat saw" + text
    assert torch.equal(sae.subject.lm.model(ids).logits, plain)
    assert sae.steer({3: 1.0}, "The cat saw", 5, mode="ablate", top_p=0.9)


@pytest.mark.parametrize(
    ("turned", "options", "message"),
    [
        ({3: 1.0}, {"mode": "Clamp"}, "mode = 'Clamp', but there is none of that name; use one of add, clamp, ablate, bias"),
        ({}, {"mode": "Clamp"}, "mode = 'Clamp'"),
        ({3: 1.0}, {"unit": "max"}, "unit = 'max', but there is none of that name; use one of largest, activation"),
        ({3: 1.0}, {"positions": "Last"}, "positions = 'Last', but there is none of that name; use one of all, last"),
        ({"1": 1.0}, {}, "latent = '1', but a latent is a whole number; as in {17: 0.8}"),
        ({1.5: 1.0}, {}, "latent = 1.5, but a latent is a whole number"),
        ({1: "x"}, {}, "strength = 'x' for latent 1, but it is no finite number"),
        ({1: float("nan")}, {}, "strength = nan for latent 1, but it is no finite number"),
        ([17], {}, r"turned = \[17\], but it says of each latent how far"),
        ({128: 1.0}, {"unit": "activation"}, "latent = 128, but the SAE has latents 0 to 127"),
    ],
)
def test_what_cannot_be_turned_is_told_in_python_as_elsewhere(saes, store, turned, options, message):
    sae = open_sae(saes[0], store, device="cpu")
    with pytest.raises(SpecError, match=message):
        sae.steer(turned, "The cat", 3, **options)
    with pytest.raises(SpecError, match=message), sae.steering(turned, **options):
        raise AssertionError("the model was given")
    assert "_subject" not in vars(sae), "no model is opened for it"


@pytest.mark.parametrize("n_tokens", [0, -5, 2.5, "3"])
def test_a_text_of_no_token_is_refused(saes, store, n_tokens):
    with pytest.raises(SpecError, match=f"n_tokens = {n_tokens!r}, but it is a number of tokens; give 1 or more"):
        open_sae(saes[0], store, device="cpu").steer({}, "The cat", n_tokens)


def test_one_number_says_the_same_in_python_in_the_command_and_in_a_recipe(saint, saes, store, tmp_path, monkeypatch):
    import numpy as np
    import torch

    from flows import wishes

    sae, options = open_sae(saes[0], store, device="cpu"), {"temperature": 0.0}
    known = sae.said.known([3])[3].largest
    body = json.loads(saint(saes[0], "The cat", "--latent", "3=30", "--tokens", "6", "--temperature", "0", "--json")[1])
    text = sae.steer({3: 30.0}, "The cat", 6, **options)
    assert text == body["prompts"][0]["steered"]["text"] != sae.steer({}, "The cat", 6, **options)
    assert text == sae.steer({np.int64(3): torch.tensor(30.0 * known)}, "The cat", 6, unit="activation", **options)
    blind = open_sae(saes[0], store, device="cpu")
    blind.__dict__["_said"] = SimpleNamespace(known=lambda latents: dict.fromkeys(latents, NOTHING))
    assert blind.steer({3: 30.0}, "The cat", 6, **options) == text  # from what was encoded, as the command finds it
    monkeypatch.setattr(wishes, "manifests", lambda *_: [])
    with pytest.raises(SpecError, match="its largest activation is not known: .* as in 3=30x2.5, or in Python unit='activation'"):
        blind.steer({3: 30.0}, "The cat", 6)
    assert blind.steer({3: 0.0}, "The cat", 6, **options) == sae.steer({}, "The cat", 6, **options)


def test_vector_and_patch_are_written_beside_the_texts(saint, saes, tmp_path):
    files = ["--patch", str(tmp_path / "it.py"), "--vector", str(tmp_path / "v.safetensors")]
    code, _, err = saint(saes[0], "The cat", "--latent", "3=30", "--quiet", *files)
    assert code == 0 and sorted(p.name for p in tmp_path.iterdir()) == ["it.py", "it.safetensors", "v.safetensors"]
    assert err.count("written: ") == 3
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    for flag, name in (("--patch", "it.py"), ("--vector", "v.safetensors"), ("--save", "it.safetensors")):
        code, _, err = saint(saes[0], "The cat", "--latent", "3=1", "--quiet", flag, str(tmp_path / name))
        assert code == 2 and f"{flag} = " in err and "is there already, and nothing is written over; name a new file" in err
    (tmp_path / "it.py").unlink()  # its vector is still there
    code, _, err = saint(saes[0], "The cat", "--latent", "3=1", "--quiet", "--patch", str(tmp_path / "it.py"))
    assert code == 2 and "it.safetensors is there already" in err
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {n: b for n, b in before.items() if n != "it.py"}
