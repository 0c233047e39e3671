"""What the Steer tab's page sends and shows: lists are checked, texts are cut at their tokens, runs are told to stop."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.ui.acts import act_of
from flows.ui.form import (
    MOST_CHARACTERS,
    MOST_LATENTS,
    MOST_PROMPTS,
    MOST_TURNS,
    Turned,
    of_kind,
    prompts_in,
    turned_in,
)
from flows.ui.rendering import rendered
from flows.ui.sharing import file_name
from flows.ui.writing import Stops, looks, pieces, step
from tasks.spec import SpecError
from tasks.steering.recipe import Message

words = st.text(st.sampled_from("ab \n\ufffdé"), max_size=4)


@given(st.lists(words, max_size=12), st.data())
def test_pieces_joined_are_the_text_whatever_the_words_of_its_tokens(tokens, data):
    text = data.draw(st.one_of(st.just("".join(tokens)), st.text(st.sampled_from("ab \né"), max_size=20)))
    found = pieces(text, tokens)
    assert "".join(piece for piece, _, _ in found) == text
    ends = [0, *(end for _, _, end in found)]
    assert all(before <= first <= end for (_, first, end), before in zip(found, ends, strict=False))
    if text == "".join(tokens) and all(tokens):
        assert found == [(token, i, i + 1) for i, token in enumerate(tokens)]


def test_bytes_of_one_character_make_a_piece_together():
    assert pieces("a é b", ["a", " ", "\ufffd", "\ufffd", " b"]) == [("a", 0, 1), (" ", 1, 2), ("é", 2, 4), (" b", 4, 5)]
    assert pieces("aé", ["a", "\ufffd", "\ufffd"]) == [("a", 0, 1), ("é", 1, 3)]
    assert pieces("a b", ["a", "<pad>", " b"]) == [("a", 0, 1), (" b", 2, 3)]
    assert pieces("", ["x"]) == [] and pieces("a", []) == [("a", 0, 0)]


def test_heat_has_ten_steps_and_none_where_a_latent_is_silent():
    assert [step(percent) for percent in (0, 1, 10, 11, 100, 260)] == [0, 1, 1, 2, 10, 10]


def sent(n: int = 1, **other) -> str:
    return json.dumps([{"sae": "train/0", "latent": i, "strength": 1.5, "mode": "add", "on": True} | other for i in range(n)])


def test_lists_are_read_as_the_page_sends_them():
    assert turned_in(sent(largest=2.5)) == [Turned(sae="train/0", latent=0, strength=1.5, largest=2.5)]
    assert turned_in("") == turned_in(None) == [] and prompts_in("") == []
    chat = [{"role": "user", "content": "hi"}]
    assert prompts_in(json.dumps(["a", chat])) == ["a", (Message(role="user", content="hi"),)]


@pytest.mark.parametrize(
    ("read", "what", "message"),
    [
        (turned_in, sent(MOST_LATENTS + 1), "this page turns at most 16 at once; remove some"),
        (turned_in, sent(strength=None), "strength in row 1 of the latents = '', but that is no number it can be; write one such as 0.5"),
        (turned_in, sent(mode="shout"), "row 1 of the latents = 'shout', but this page sends no such thing; load it again"),
        (turned_in, sent(latent=-1), "row 1 of the latents = '-1', but this page sends"),
        (turned_in, sent().replace("1.5", "1e999"), "strength in row 1 of the latents = 'inf', but that is no number it can be"),
        (turned_in, sent(strength="<b>\n"), r"strength in row 1 of the latents = '<b>\\n', but that is no number"),
        (turned_in, sent(more=1), "row 1 of the latents = '1', but this page sends no such thing"),
        (turned_in, "{", "latents = '{', but this page sends no such thing; load it again"),
        (turned_in, "[" * 100_000, "latents = "),
        (turned_in, " " * (1 << 21), "shorten them"),
        (prompts_in, json.dumps(["a"] * (MOST_PROMPTS + 1)), "goes on from at most 8 at once; remove some"),
        (prompts_in, json.dumps(["a" * (MOST_CHARACTERS + 1)]), "row 1 of the prompts = 'a.*, but this page takes at most 8,000"),
        (prompts_in, json.dumps(["a" * (MOST_CHARACTERS // 2), "b" * (MOST_CHARACTERS // 2 + 1)]), "at most 8,000 in all"),
        (prompts_in, json.dumps([[{"role": "user", "content": "a"}] * (MOST_TURNS + 1)]), "at most 32; begin another"),
        (prompts_in, json.dumps([[{"role": "god", "content": "a"}]]), "row 1 of the prompts = .*, but this page sends no such thing"),
        (prompts_in, json.dumps(["a", 3]), "row 2 of the prompts = '3', but this page sends no such thing"),
    ],
)
def test_what_is_too_much_or_wrong_is_told_in_one_short_sentence(read, what, message):
    with pytest.raises(SpecError, match=message) as told:
        read(what)
    assert "\n" not in str(told.value) and len(str(told.value)) < 250
    assert not re.search("[Ii]nput|constrained|valid", str(told.value)), "words of pydantic's"


def test_texts_become_conversations_and_come_back():
    user = Message(role="user", content="hi")
    assert of_kind(["hi"], "chat") == [(user,)] and of_kind([(user,)], "text") == ["hi"] and of_kind(["a"], "text") == ["a"]
    long = (Message(role="system", content="s"), user, Message(role="assistant", content="x"), Message(role="user", content="bye"))
    assert of_kind([long], "text") == ["bye"] and of_kind([long], "chat") == [long]
    assert of_kind([], "text") == [""] and of_kind([], "chat") == [(Message(role="user", content=""),)]


def test_a_recipes_file_has_a_name_that_a_shell_takes_as_it_is():
    assert file_name("a dog comes along") == "a-dog-comes-along.json"
    assert file_name("") == file_name("$(rm -rf /)'\"\n".replace("rm", "").replace("rf", "")) == "recipe.json"
    assert file_name("../" * 5 + "x" * 99) == "x" * 40 + ".json"


def test_a_visitor_has_one_run_and_stops_only_that():
    stops = Stops()
    ann, bob = stops.begin("ann"), stops.begin("bob")
    stops.stop("nobody")
    stops.stop("ann")
    assert ann.is_set() and not bob.is_set()
    again = stops.begin("bob")
    assert bob.is_set() and not again.is_set()
    stops.end("bob", bob)  # of the one before: that changes nothing
    stops.stop("bob")
    assert again.is_set()
    stops.end("bob", again)
    stops.stop("bob")
    assert not stops.begin("bob").is_set()


def test_a_run_is_stopped_before_its_turn_comes_and_the_next_one_is_not():
    stops = Stops()
    stops.ask("ann")
    assert stops.stop("ann") and not stops.stop("ann"), "it is told once"
    stops.ask("ann")
    assert stops.begin("ann") is None, "whose turn comes first is the one that was stopped"
    again = stops.begin("ann")
    assert not again.is_set()
    assert not stops.stop("ann") and again.is_set(), "a run at work has the last word itself"
    stops.end("ann", again)
    stops.ask("bob")
    stops.leave("bob")
    assert not stops.begin("bob").is_set()  # of another visit, should a name come again


def test_a_run_for_which_there_is_no_room_leaves_no_sign_for_the_next():
    stops = Stops()
    for _ in range(2):
        stops.ask("ann")
    assert stops.stop("ann")
    stops.refuse("ann")
    stops.ask("ann")
    assert stops.begin("ann") is None and not stops.begin("ann").is_set()


def test_what_breaks_is_the_last_look_and_says_so_in_one_sentence(caplog):
    def broken(error):
        def find(_artifact):
            raise error

        return SimpleNamespace(models=SimpleNamespace(store=SimpleNamespace(find=find)))

    recipe = SimpleNamespace(lm=SimpleNamespace(name="m", artifact="provide/" + "0" * 64), saes=())
    *_, last = looks(broken(RuntimeError("secret\nsecret")), recipe, Stops().begin("x"))
    assert last.trouble and "RuntimeError" in last.told and "secret" not in last.told and "secret" in caplog.text
    *_, last = looks(broken(SpecError("a = 1, but no; say 2")), recipe, Stops().begin("x"))
    assert last == ("a = 1, but no; say 2", True, None, True)


@pytest.mark.parametrize("data", [None, "x", [], {}, *({"act": "add", "value": value} for value in ("-1", "\u0663", "9" * 12))])
def test_a_click_that_no_page_of_ours_sends_is_none(data):
    assert act_of(SimpleNamespace(_data=data)) == ("", 0)
    assert act_of(SimpleNamespace(_data={"act": "add", "value": 7})) == ("add", 7)


def test_a_hostile_prompt_stays_what_it_is_in_its_field():
    from html.parser import HTMLParser

    attack = "</textarea><script>alert(1)</script>${x}`{{y}}` \x1b[31m\u202e \"' onfocus=alert(1)\n\n  end "

    class Reader(HTMLParser):
        tags: list[str] = []
        fields: list[str] = []

        def handle_starttag(self, tag, attrs):
            self.tags.append(tag)
            self.fields += [value for name, value in attrs if name == "data-set"]

    reader = Reader()
    reader.feed(rendered("asked.html.j2", rows=[[("", attack)]], full=False, time=1))
    assert reader.fields == [attack] and set(reader.tags) == {"div", "label", "textarea", "button"}


@pytest.mark.parametrize(
    ("typed", "unit", "found"),
    [("0.8", 1, 0.8), ("80%", 1, 0.8), (" 80 % ", 1, 0.8), ("0,8", 1, 0.8), ("", 1, None), (None, 1, None), ("5%", 0.01, 0.05),
     ("5", 0.01, 0.05)],
)  # fmt: skip
def test_a_number_is_what_was_typed_with_its_sign(typed, unit, found):
    number = pytest.importorskip("flows.ui.browse").number
    assert number(typed, "score at least", unit=unit) == (None if found is None else pytest.approx(found))


@pytest.mark.parametrize(
    ("typed", "unit", "message"),
    [
        ("nan", 1, "score at least = 'nan', but that is no number; write one such as 0.8, or nothing"),
        ("inf", 1, "score at least = 'inf', but it can be 0 to 1; write one of these, or nothing"),
        ("2", 1, "score at least = '2', but it can be 0 to 1"),
        ("-0.1", 1, "but it can be 0 to 1"),
        ("101", 0.01, "score at least = '101', but it can be 0 to 100"),
        ("many", 0.01, "score at least = 'many', but that is no number; write one such as 80, or nothing"),
    ],
)
def test_a_number_that_cannot_be_is_told(typed, unit, message):
    number = pytest.importorskip("flows.ui.browse").number
    with pytest.raises(SpecError, match=message):
        number(typed, "score at least", unit=unit)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ({"n_tokens": 0}, "tokens = 0, but this page writes 1 to 512"),
        ({"n_tokens": 513}, "tokens = 513, but this page writes 1 to 512"),
        ({"n_tokens": 2.5}, "tokens = 2.5, but this page writes 1 to 512, whole ones; write one of these"),
        ({"n_tokens": None}, "tokens = '', but that is no number; write one such as 60"),
        ({"temperature": None}, "temperature = '', but that is no number; write one such as 0.8"),
        ({"temperature": -1}, "temperature = -1, but it is 0 to 100; use 0 for the likeliest token"),
        ({"top_p": 0}, "top_p = 0, but it is a share of the probability"),
        ({"top_p": None}, "top_p = '', but that is no number"),
        ({"seed": "9" * 20}, "but a seed is -9223372036854775808 to 9223372036854775807; write one of these"),
        ({"seed": "1.5"}, "seed = '1.5', but a seed is a whole number"),
    ],
)
def test_a_setting_that_cannot_be_is_told(typed, message):
    steer = pytest.importorskip("flows.ui.steer")
    usual = {"n_tokens": 60, "temperature": 0.8, "top_p": 0.95, "seed": "0", "positions": "all", "name": ""}
    assert steer._settings(**usual) == usual | {"seed": 0}
    with pytest.raises(SpecError, match=message):
        steer._settings(**usual | typed)
