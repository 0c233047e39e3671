"""The example notebook: it runs from top to bottom in an empty folder, and its cells show what the text beside them says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from flows.api import open_sae
from tests.warm import ROOT

NOTEBOOK = ROOT / "docs/look_and_steer.ipynb"
SEA = re.compile(r"captain|fisherman|pirate|sailor|ship|boat|whale|storm|shell|waves|beach|harbour|island")
PROMPT = "The cook lost the bread near the oven. The"


def test_it_is_kept_without_outputs():
    cells = [cell for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 5 and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("notebook")


@pytest.fixture(scope="module")
def shown(folder) -> dict[str, dict[str, str]]:
    """What each cell of code shows: MIME type to text, and ``stream`` for what it prints."""
    nbformat = pytest.importorskip("nbformat", reason="no nbformat here")
    nbclient = pytest.importorskip("nbclient", reason="no nbclient here")
    pytest.importorskip("ipykernel", reason="no ipykernel here")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(ROOT))
        patched.setenv("HF_HUB_OFFLINE", "1")
        patched.delenv("SAINT_STORE", raising=False)
        nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    found: dict[str, dict[str, str]] = {}
    for cell in notebook.cells:
        told = found.setdefault(cell.id, {})
        for output in cell.get("outputs", ()):
            for kind, text in output["data"].items() if "data" in output else [(output.get("name", "error"), output.get("text", ""))]:
                told[kind] = told.get(kind, "") + text
    return found


@pytest.fixture(scope="module")
def sae(shown, folder):
    return open_sae(store=folder / "saint-store", device="cpu")


@pytest.mark.slow
def test_an_artifact_is_opened_and_its_tensors_and_labels_are_there(shown, sae):
    assert shown["open"]["text/plain"] == repr(sae)
    assert f"'W_dec_ND': (({sae.n_latents}, 48), torch.float32)" in shown["tensors"]["text/plain"]
    table = shown["explanations"]["text/plain"]
    assert shown["explanations"]["text/html"].count("<tr") == 9 and "detection" in table and "“" in table


@pytest.mark.slow
def test_latents_of_a_text_are_drawn_and_its_page_asks_nobody(shown):
    assert len(shown["encode"]["image/png"]) > 5000 and len(shown["strength"]["image/png"]) > 3000
    page = shown["inspect"]["text/html"]
    assert page.startswith("<iframe") and "captain" in page and not re.search(r"(?:src|href)=[\"']?https?:", page)


@pytest.mark.slow
def test_steered_text_turns_to_the_sea_and_at_0_is_the_models_own(shown, sae):
    texts = dict(re.findall(rf"^([\d.]+) +{re.escape(PROMPT)}(.*)$", shown["steer"]["stdout"], re.M))
    assert texts.keys() == {"0", "1", "1.5"}
    assert texts["0"] == sae.steer({}, PROMPT, 32, temperature=0.5).rstrip("\n")
    assert len(SEA.findall(texts["0"])) < len(SEA.findall(texts["1.5"])), texts
    assert len(set(texts.values())) == 3


@pytest.mark.slow
def test_the_model_of_transformers_is_steered_in_the_block_and_itself_outside(shown, sae):
    free, steered = (line[9:] for line in shown["steering"]["stdout"].splitlines())
    assert free == PROMPT + sae.steer({}, PROMPT, 24, temperature=0) != steered
    assert len(SEA.findall(free)) < len(SEA.findall(steered))
