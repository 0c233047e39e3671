"""The Steer tab: a small world behind it, and a browser before it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from artifacts.store import Store
from flows.cli import main
from flows.shelves import browsable
from flows.ui.state import State
from tasks.spec import Runtime
from tests.browsed import ATTACKS, PLANTED, attacked
from tests.browser import DESK
from tests.servers import free_port


@pytest.fixture(scope="package")
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


@pytest.fixture(scope="package")
def state(store) -> State:
    return state_of(store)


@pytest.fixture(scope="package")
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


@pytest.fixture(scope="package")
def url(state, model) -> Iterator[str]:
    from flows.ui.launch import Access, serve

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
