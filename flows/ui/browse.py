"""The tab in which a latent is found and understood. All that a visitor does is in the request, or in the visitor's own session."""

from __future__ import annotations

import math
import re
from typing import Any

import gradio as gr
from gradio.context import Context

from flows.ui.acts import act_of, link
from flows.ui.rendering import rendered, text
from flows.ui.state import State
from tasks.browsing.firing import firing
from tasks.browsing.grounds import grounds
from tasks.browsing.index import Index
from tasks.browsing.latent import latent_page
from tasks.browsing.query import SORTS, Query
from tasks.spec import SpecError

_ROWS = 25
"""Latents of a page of results."""

_MOST_CHARACTERS = 2000
"""Of a text whose latents are looked up."""

Fired = dict[str, Any]
"""What a text set off: ``text``, and by latent its share, peak, and the token it is largest on."""


def tab(state: State) -> tuple[gr.Dropdown, gr.HTML]:
    """Build the tab, in the page that is being built; returns where its SAE is chosen, and its latent's page."""
    first = state.names[0]
    with gr.Row(equal_height=False, elem_id="browse"):
        with gr.Column(scale=5, min_width=320):
            choices = [(state.title(name), name) for name in state.names]
            sae = gr.Dropdown(
                choices, value=first, label="SAE", elem_id="sae", visible=len(choices) > 1, filterable=len(choices) > 8
            )
            words = gr.Textbox(label="Search labels", placeholder="words, or a latent's number", elem_id="search", max_lines=1)
            with gr.Row(elem_classes="asking"):
                said = gr.Textbox(
                    label="Which latents fire on this text?", placeholder="type a text, then Enter", elem_id="text",
                    max_lines=4, lines=1, max_length=_MOST_CHARACTERS, scale=5, submit_btn="Find",
                )  # fmt: skip
            with gr.Accordion("Sort and filter", open=False, elem_id="filters"):
                with gr.Row():
                    sort = gr.Dropdown([(about, name) for name, about in SORTS.items() if name != "here"], value="best", label="Sort by")
                    scorer = gr.Dropdown([], value=None, label="Score of", elem_id="scorer")
                statuses = gr.Dropdown([], value=[], multiselect=True, label="Status (none is every)", elem_id="status")
                with gr.Row():
                    # text, since an empty gr.Number comes back as 0
                    least = gr.Textbox(label="Score at least", placeholder="any", min_width=90)
                    seldom = gr.Textbox(label="Fires on at least, %", placeholder="any", min_width=90)
                    often = gr.Textbox(label="Fires on at most, %", placeholder="any", min_width=90)
                reverse = gr.Checkbox(False, label="The other way round")
            results = gr.HTML(elem_id="results", apply_default_css=False, js_on_load=text("browse.js"))
        with gr.Column(scale=7, min_width=320):
            latent = gr.HTML(elem_id="latent", apply_default_css=False, js_on_load=text("browse.js"))
            ground = gr.HTML(elem_id="grounds", apply_default_css=False, js_on_load=None)
    fired: gr.State = gr.State(None)
    at = gr.State(0)
    asked = [sae, words, sort, reverse, statuses, scorer, least, seldom, often, fired]

    def look(at: int, *asked: Any) -> str:
        try:
            query, index, fired = _query(state, *asked)
            return _results(index, query, asked[0], at, fired)
        except SpecError as error:
            return rendered("told.html.j2", told=str(error))

    def anew(*asked: Any) -> tuple[str, int]:
        return look(0, *asked), 0

    def show(name: str, which: int, scorer: str | None = None, chosen: bool = True) -> str:
        try:
            return _latent(state.index(name), name, which, scorer, chosen)
        except SpecError as error:
            return rendered("told.html.j2", told=str(error))

    def acted(event: gr.EventData, at: int, *values: Any) -> tuple[Any, Any, Any, Any]:
        """A click on a result, or on the pager: results, latent, grounds, page of results."""
        act, value = act_of(event)
        if act == "page":
            return look(value, *values), gr.skip(), gr.skip(), value
        if act == "latent":
            return gr.skip(), show(values[0], value, values[5]), "", gr.skip()
        return gr.skip(), gr.skip(), gr.skip(), gr.skip()

    def within(event: gr.EventData, name: str, scorer: str | None) -> tuple[Any, Any]:
        """A click on a latent's page: another latent, or what its explanations rest on."""
        act, value = act_of(event)
        try:
            if act == "latent":
                return show(name, value, scorer), ""
            if act == "grounds":
                return gr.skip(), rendered("grounds.html.j2", **grounds(state.index(name), value))
        except SpecError as error:
            return gr.skip(), rendered("told.html.j2", told=str(error))
        return gr.skip(), gr.skip()

    def fires(name: str, said: str) -> Any:
        try:
            return _fired(state, name, said)
        except SpecError as error:
            return {"text": said, "found": {}, "trouble": str(error)}

    def chosen(name: str) -> tuple[Any, Any, Any]:
        """Another SAE: what may be chosen of it."""
        return *_choices(state.index(name)), None

    def opened(request: gr.Request) -> tuple[Any, ...]:
        """The page as its address says: ?sae=...&latent=...&q=..."""
        asked = dict(request.query_params)
        name, words, wanted = asked.get("sae", first), asked.get("q", "")[:200], asked.get("latent", "")
        try:
            index, trouble = state.index(name), None
        except SpecError as error:
            name, index, trouble = first, state.index(first), str(error)
        try:
            listed, found = index.find(Query(words)).latents_F.tolist(), _results(index, Query(words), name, 0, None)
        except SpecError as error:
            listed, found = [], rendered("told.html.j2", told=str(error))
        if trouble:
            page = rendered("told.html.j2", told=trouble)
        elif re.fullmatch(r"-?[0-9]{1,20}", wanted):
            page = show(name, int(wanted))
        elif wanted:
            told = f"latent = {wanted[:40]!r}, but a latent is a whole number; write one of 0 to {index.n - 1}"
            page = rendered("told.html.j2", told=told)
        else:
            page = show(name, listed[0], chosen=False) if listed else ""
        return name, words, found, page, *_choices(index)

    quick = {"show_progress": "hidden", "trigger_mode": "always_last"}
    # of the words every change: what is pasted is no input to Gradio
    typed = (words.change, least.change, seldom.change, often.change)
    for changed in (*typed, sort.input, reverse.input, statuses.input, scorer.input, fired.change):
        changed(anew, asked, [results, at], **quick)
    said.submit(fires, [sae, said], fired, concurrency_limit=1, concurrency_id="model")
    sae.input(chosen, sae, [statuses, scorer, fired]).then(anew, asked, [results, at], **quick)
    results.select(acted, [at, *asked], [results, latent, ground, at], **quick)
    latent.select(within, [sae, scorer], [latent, ground], **quick)
    assert Context.root_block is not None, "a tab is built within a page"
    Context.root_block.load(opened, None, [sae, words, results, latent, statuses, scorer])
    return sae, latent


def _query(
    state: State, name: str, words: str, sort: Any, reverse: bool, statuses: list[str], scorer: str | None, least: str,
    seldom: str, often: str, fired: Fired | None,
) -> tuple[Query, Index, Fired | None]:  # fmt: skip
    index = state.index(name)
    if fired and fired.get("trouble"):
        raise SpecError(fired["trouble"])
    among = None if fired is None else {one: found["share"] for one, found in fired["found"].items()}
    scale = index.scale(scorer)
    query = Query(
        (words or "")[:500], sort, bool(reverse), tuple(statuses or ()), scorer,
        number(least, "score at least", *(scale.low, scale.high) if scale else ()),
        number(seldom, "fires on at least", unit=0.01), number(often, "fires on at most", unit=0.01), among,
    )  # fmt: skip
    return query, index, fired


def number(typed: str, what: str, low: float = 0.0, high: float = 1.0, unit: float = 1.0) -> float | None:
    """A number from ``low`` to ``high`` as it is typed, in per cent with the sign, else in multiples of ``unit``; None for none.

    Raises ``SpecError``.
    """
    whole = (typed or "").strip().replace(",", ".")
    plain = whole.removesuffix("%")
    if not plain:
        return None
    try:
        found = float(plain) * (unit if plain == whole else 0.01)
    except ValueError:
        found = math.nan
    if math.isnan(found):
        raise SpecError(f"{what} = {typed[:40]!r}, but that is no number; write one such as {0.8 / unit:g}, or nothing")
    if not low <= found <= high:
        raise SpecError(f"{what} = {typed[:40]!r}, but it can be {low / unit:g} to {high / unit:g}; write one of these, or nothing")
    return found


def _choices(index: Index) -> tuple[Any, Any]:
    """Statuses and scorers of an SAE, as what may be chosen."""
    counts = [(f"{status} ({n:,})", status) for status, n in index.counts().items()]
    if index.scales:
        counts = [(f"{status} ({n:,})", status) for status, n in index.counts(next(iter(index.scales))).items()]
    scorers = list(index.scales)
    return gr.update(choices=counts, value=[]), gr.update(choices=scorers, value=scorers[0] if scorers else None, visible=bool(scorers))


def _fired(state: State, name: str, said: str) -> Fired | None:
    """The latents that fire on a text. One model, so one at a time."""
    said = (said or "")[:_MOST_CHARACTERS]
    if not said.strip():
        return None
    index = state.index(name)
    with state.model:
        encoded = state.sae(name).encode(said)
    found = firing(encoded.index_TK.numpy(), encoded.value_TK.numpy(), index.max_N)
    rows = {latent: {**one._asdict(), "token": encoded.tokens[one.position]} for latent, one in found.items()}
    return {"text": said, "found": rows, "trouble": None}


def _results(index: Index, query: Query, name: str, at: int, fired: Fired | None) -> str:
    found = index.find(query)
    n_pages = -(-found.n // _ROWS)
    at = max(0, min(at, n_pages - 1))
    rows = index.rows(found.latents_F[at * _ROWS : (at + 1) * _ROWS].tolist(), query.scorer)
    here = fired["found"] if fired else {}
    for row in rows:
        row |= {"here": here.get(row["latent"]), "link": link(name, row["latent"])}
    scale = index.scale(query.scorer)
    return rendered(
        "results.html.j2", rows=rows, n=found.n, n_latents=index.n, at=at, n_pages=n_pages, first=at * _ROWS, every_word=found.every_word,
        words=query.text.strip(), order=_order(query, index), fired=fired, scorer=scale and f"{scale.name}, {scale.metric}",
    )  # fmt: skip


def _order(query: Query, index: Index) -> str:
    """The order of the results, as a person says it."""
    by = query.sort
    if by == "best":
        by = "best" if query.text.strip() else "here" if query.among is not None else "score" if index.scales else "latent"
    first = {
        "best": "the best match", "here": "the most unusual for the latent", "score": "the surest score",
        "latent": "the lowest number", "density": "the most frequent", "surprise": "the least frequent",
        "max": "the strongest", "interest": "the most interesting",
    }[by]  # fmt: skip
    return f"{first} {'last' if query.reverse else 'first'}"


def _latent(index: Index, name: str, latent: int, scorer: str | None, chosen: bool) -> str:
    body = latent_page(index, latent, scorer)
    near = [{**one, "link": link(name, one["latent"])} for one in body["near"] or ()]
    return rendered(
        "latent.html.j2", **{**body, "near": near}, no_near=body["near"] is None, sae=name, link=link(name, latent), chosen=chosen,
        has_corpus=index.shelf.corpus is not None,
    )  # fmt: skip
