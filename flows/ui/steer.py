"""The tab in which a model is steered: latents picked by label, turned with sliders, the texts with and without side by side.

Lists of latents and of prompts stand in the browser alone and come with each request (``form``); what is written comes back as
it is written (``writing``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import gradio as gr
from gradio.context import Context

from flows.ui import drawing, form
from flows.ui.acts import act_of
from flows.ui.rendering import rendered, text
from flows.ui.sharing import shared
from flows.ui.state import State
from flows.ui.writing import Stops, looks, sentence, shown
from tasks.spec import SpecError
from tasks.steering.recipe import Message, Prompt
from tasks.steering.subject import check_sampling

_MOST_AT_ONCE = 4
"""Visitors whose texts are written at the same time; others wait in the queue."""

_BEGINNING = "Once upon a time"


def tab(state: State, tabs: gr.Tabs, browsed: tuple[gr.Dropdown, gr.HTML]) -> None:
    """Build the tab, in the page that is being built. ``browsed``: SAE and latent's page of the other tab."""
    first, stops = state.names[0], Stops()
    with gr.Row(equal_height=False, elem_id="steer"):
        with gr.Column(scale=5, min_width=320):
            choices = [(state.title(name), name) for name in state.names]
            sae = gr.Dropdown(choices, value=first, label="Latents of", elem_id="steer-sae", visible=len(choices) > 1, filterable=False)
            words = gr.Textbox(
                label="Find a latent to turn", placeholder="words of its label, or its number", elem_id="steer-search", max_lines=1
            )
            found = gr.HTML(elem_id="steer-found", apply_default_css=False, js_on_load=text("browse.js"))
            turned = gr.HTML(drawing.listed(state, []), elem_id="turned", apply_default_css=False, js_on_load=text("steer.js"))
            kind = gr.Radio([("Completion", "text"), ("Chat", "chat")], value="text", label="What the model does", elem_id="kind")
            asked = gr.HTML(drawing.prompts([_BEGINNING]), elem_id="asked", apply_default_css=False, js_on_load=text("steer.js"))
            with gr.Accordion("Length, temperature, seed", open=False, elem_id="settings"):
                # no sliders, which round, and bounds nowhere: what is typed is written, or refused
                n_tokens = gr.Number(60, label=f"Tokens at most, 1 to {form.MOST_TOKENS}", elem_id="tokens", step=1)
                with gr.Row():
                    temperature = gr.Number(0.8, label="Temperature", elem_id="temperature", step=0.1, min_width=90)
                    top_p = gr.Number(0.95, label="Top-p", elem_id="top-p", step=0.05, min_width=90)
                    seed = gr.Textbox("0", label="Seed", elem_id="seed", max_lines=1, max_length=20, min_width=90)
                where = [("every token", "all"), ("from the prompt's last token on", "last")]
                positions = gr.Radio(where, value="all", label="Tokens that are turned", elem_id="positions")
        with gr.Column(scale=7, min_width=320):
            with gr.Row(elem_id="go"):
                steer = gr.Button("Steer", variant="primary", elem_id="run", min_width=120)
                stop = gr.Button("Stop", elem_id="stop", interactive=False, min_width=90)
            status = gr.HTML(drawing.status(""), elem_id="status-line", apply_default_css=False, js_on_load=None)
            nothing = rendered("texts.html.j2", told=(), watched=(), goes_on=False)
            texts = gr.HTML(nothing, elem_id="texts", apply_default_css=False, js_on_load=text("steer.js"))
            with gr.Accordion("Recipe: share these texts, or load others", open=False, elem_id="recipe"):
                recipe = gr.HTML(elem_id="recipe-text", apply_default_css=False, js_on_load=text("steer.js"))
                name = gr.Textbox(label="Name of the recipe", max_length=200, max_lines=1, elem_id="recipe-name")
                pasted = gr.Textbox(label="Load a recipe", placeholder="paste one", lines=2, max_lines=6, elem_id="recipe-paste")
                with gr.Row():
                    load = gr.Button("Load what is pasted", size="sm", elem_id="recipe-load")
                    upload = gr.UploadButton("Load a file", file_types=[".json"], type="binary", size="sm", elem_id="recipe-file")
    said: gr.State = gr.State(None)
    """What was said last, by prompt, that a conversation may go on with."""
    lists, settings = [turned, asked], [n_tokens, temperature, top_p, seed, positions, name]
    gathered, quick = text("gathered.js"), {"show_progress": "hidden"}
    on, off = gr.update(interactive=True), gr.update(interactive=False)
    before = (gr.update(elem_classes=["before"]),) * 2
    """Texts and recipe, until there are those of the run that was asked for."""

    def find(words: str, name: str) -> str:
        try:
            return drawing.found(state, name, words or "")
        except Exception as error:
            return rendered("told.html.j2", told=sentence(error))

    def pick(event: gr.EventData, sent: str, _: str, name: str) -> tuple[Any, Any]:
        """A click on a latent that was found."""
        act, latent = act_of(event)
        return _changed(state, sent, name, latent) if act == "add" else (gr.skip(), gr.skip())

    def offered(event: gr.EventData, sent: str, _: str, name: str) -> tuple[Any, Any, Any]:
        """The button on a latent's page in the other tab."""
        act, latent = act_of(event)
        return (*_changed(state, sent, name, latent), gr.update(selected="steer")) if act == "steer" else (gr.skip(),) * 3

    def turn(event: gr.EventData, sent: str, _: str) -> tuple[Any, Any]:
        act, place = act_of(event)
        if act != "remove":
            return gr.skip(), gr.skip()
        return _told(lambda: drawing.listed(state, [one for i, one in enumerate(form.turned_in(sent)) if i != place]))

    def ask(event: gr.EventData, _: str, sent: str, kind: form.Kind) -> tuple[Any, Any]:
        return _told(lambda: drawing.prompts(_edited(*act_of(event), form.prompts_in(sent), kind)))

    def converse(_: str, sent: str, name: str, kind: form.Kind) -> tuple[Any, Any, Any]:
        try:
            if kind == "chat":
                _check_chat(state, name)
            return drawing.prompts(form.of_kind(form.prompts_in(sent), kind)), drawing.status(""), gr.skip()
        except Exception as error:
            return gr.skip(), drawing.status(sentence(error), True), "text"

    def go_on(event: gr.EventData, said: Any) -> tuple[Any, Any]:
        """The conversation, with one of the answers in it."""
        act, place = act_of(event)
        if act != "goon" or not said or not 0 <= place // 2 < len(said):
            return gr.skip(), gr.skip()
        prompts = [one["prompt"] for one in said]
        answer = Message(role="assistant", content=said[place // 2][("default", "steered")[place % 2]].strip())
        prompts[place // 2] = (*prompts[place // 2], answer, Message(role="user", content=""))
        return _told(lambda: drawing.prompts(prompts))

    def announce(request: gr.Request) -> tuple[Any, Any, Any]:
        stops.ask(str(request.session_hash))
        return drawing.status("waiting for its turn"), *before, off, on

    def run(request: gr.Request, turned: str, asked: str, shown_sae: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Status, texts, recipe, what was said, and both buttons; texts and recipe are always those of one run."""
        session, last = str(request.session_hash), None
        sign = stops.begin(session)
        if sign is None:  # what there is to say of it was said
            return
        try:
            whole = form.recipe_of_form(state, form.turned_in(turned), form.prompts_in(asked), shown_sae, _settings(*values))
            labels = {(push.sae, push.latent): push.label for push in whole.pushes}
            chat = not isinstance(whole.prompts[0], str)
            with closing(looks(state, whole, sign)) as seeing:
                for look in seeing:
                    drawn, own = gr.skip(), (gr.skip(), gr.skip())
                    if look.steered is not None:
                        if last is None:
                            own = gr.update(value=shared(whole), elem_classes=[]), None
                        last = look.steered
                        told = rendered("texts.html.j2", **shown(last, [labels[each] for each in last.watched], chat and look.over))
                        drawn = gr.update(value=told, elem_classes=[])
                    yield drawing.status(look.told, look.trouble), drawn, *own, gr.skip(), gr.skip()
        except Exception as error:
            yield drawing.status(sentence(error), True), *(gr.skip(),) * 5
        finally:
            stops.end(session, sign)
        yield gr.skip(), gr.skip(), gr.skip(), _said(last) if last else gr.skip(), on, off

    def halt(request: gr.Request) -> tuple[Any, Any, Any]:
        # a run at work makes way for the next itself, and has the last word: an answer from here could come after it
        waited = stops.stop(str(request.session_hash))
        return (drawing.status("stopped before its turn came"), on, off) if waited else (gr.skip(),) * 3

    def full(request: gr.Request) -> tuple[Any, Any, Any]:
        stops.refuse(str(request.session_hash))
        return drawing.status("too many wait for the model; try again in a while", True), on, off

    def leave(request: gr.Request) -> None:
        stops.leave(str(request.session_hash))

    def take(content: Any) -> tuple[Any, ...]:
        """A recipe, into the form."""
        try:
            held, turned = form.form_of_recipe(state, content or "")
        except Exception as error:
            return drawing.status(sentence(error), True), *(gr.skip(),) * 10
        chat = "text" if isinstance(held.prompts[0], str) else "chat"
        status = drawing.status("recipe loaded; Steer gives its texts")
        values = (held.n_tokens, held.temperature, held.top_p, str(held.seed), held.positions, held.name)
        return status, drawing.listed(state, turned), drawing.prompts(held.prompts), chat, *values, gr.update(value="")

    gr.on([words.change, sae.change], find, [words, sae], found, trigger_mode="always_last", **quick)
    found.select(pick, [*lists, sae], [turned, status], js=gathered, **quick)
    browsed[1].select(offered, [*lists, browsed[0]], [turned, status, tabs], js=gathered, **quick)
    turned.select(turn, lists, [turned, status], js=gathered, **quick)
    asked.select(ask, [*lists, kind], [asked, status], js=gathered, **quick)
    kind.input(converse, [*lists, sae, kind], [asked, status, kind], js=gathered, **quick)
    texts.select(go_on, said, [asked, status], **quick)
    going = steer.click(announce, None, [status, texts, recipe, steer, stop], queue=False, **quick).then(
        run, [*lists, sae, *settings], [status, texts, recipe, said, steer, stop], js=gathered,
        # a click just after the end of a run may find the browser not done with it; the button sees to it that there is one
        concurrency_limit=_MOST_AT_ONCE, concurrency_id="steer", trigger_mode="multiple", **quick,
    )  # fmt: skip
    going.failure(full, None, [status, steer, stop], queue=False, **quick)
    stop.click(None, None, status, js=f"() => {json.dumps(drawing.status('stopping'))}", **quick)
    stop.click(halt, None, [status, steer, stop], queue=False, **quick)
    form_of = [status, turned, asked, kind, *settings, pasted]
    load.click(take, pasted, form_of, **quick)
    upload.upload(take, upload, form_of, **quick)
    assert Context.root_block is not None, "a tab is built within a page"
    Context.root_block.load(find, [words, sae], found)
    Context.root_block.unload(leave)


def _told(made: Any) -> tuple[Any, Any]:
    """A list drawn anew, and no trouble; or the trouble."""
    try:
        return made(), drawing.status("")
    except Exception as error:
        return gr.skip(), drawing.status(sentence(error), True)


def _changed(state: State, sent: str, name: str, latent: int) -> tuple[Any, Any]:
    return _told(lambda: drawing.listed(state, form.added(state, form.turned_in(sent), name, latent)))


def _settings(n_tokens: Any, temperature: Any, top_p: Any, seed: str, positions: Any, name: Any) -> dict[str, Any]:
    seed = (seed or "").strip() or "0"
    if not re.fullmatch(r"-?[0-9]{1,20}", seed):
        raise SpecError(f"seed = {seed[:30]!r}, but a seed is a whole number; write one")
    if not -(2**63) <= int(seed) < 2**63:
        raise SpecError(f"seed = {seed!r}, but a seed is {-(2**63)} to {2**63 - 1}; write one of these")
    for what, typed, usual in (("tokens", n_tokens, 60), ("temperature", temperature, 0.8), ("top_p", top_p, 0.95)):
        if typed is None:
            raise SpecError(f"{what} = '', but that is no number; write one such as {usual}")
    if n_tokens not in range(1, form.MOST_TOKENS + 1):
        raise SpecError(f"tokens = {n_tokens}, but this page writes 1 to {form.MOST_TOKENS}, whole ones; write one of these")
    check_sampling(temperature, top_p)
    return {
        "n_tokens": int(n_tokens), "temperature": temperature, "top_p": top_p, "seed": int(seed), "positions": positions,
        "name": name or "",
    }  # fmt: skip


def _edited(act: str, place: int, prompts: list[Prompt], kind: form.Kind) -> list[Prompt]:
    """The prompts after a click on one of their buttons."""
    if act == "more" and len(prompts) < form.MOST_PROMPTS:
        return [*prompts, form.blank(kind)]
    if act == "less":
        return [one for i, one in enumerate(prompts) if i != place] or [form.blank(kind)]
    if act == "system" and place < len(prompts) and not isinstance(prompts[place], str):
        prompts[place] = (Message(role="system", content=""), *prompts[place])
    return prompts


def _check_chat(state: State, name: str) -> None:
    """Raise ``SpecError`` where the language model knows no conversations."""
    lm = state.models.lm(state.sae(name).lm.artifact, state.dtype)
    if getattr(lm.tokenizer, "chat_template", None) is None:
        raise SpecError(f"{lm.name}, but its tokenizer has no chat template, so that it knows no conversations; give it a text to complete")


def _said(found: Any) -> list[dict[str, Any]]:
    return [{"prompt": one.prompt, "default": one.default.text, "steered": one.steered.text} for one in found.told]
