"""``saint survey`` and ``saint probe`` on a small world: what a store has of two SAEs, and of one that came from elsewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from artifacts.store import Store
from flows.cli import main
from flows.lineage import Held, recipe_of
from tasks.spec import Spec
from tasks.stage import Job, Summary, stage
from tests.browser import DESK, TELEPHONE, width_of
from tests.making import make
from tests.small import overrides


class CopiedSpec(Spec):
    folder: str
    noise: float = 0.0
    keep: int = 128
    """Latents that are there, too."""


@stage("adopt", version=1)
def adopted(job: Job[CopiedSpec]) -> Summary:
    """The SAE of a folder: its latents turned round, a little noise on their rows, and some of them gone."""
    tensors = load_file(Path(job.spec.folder) / "sae.safetensors")
    draw = torch.Generator().manual_seed(0)
    for name in ("W_enc_ND", "b_enc_N", "W_dec_ND"):
        tensors[name] = tensors[name].flip(0)[-job.spec.keep :].contiguous()
        tensors[name] += job.spec.noise * torch.randn(tensors[name].shape, generator=draw)
    save_file(tensors, job.out / "sae.safetensors", metadata={"format": "saint-sae 1"})
    body = json.loads((Path(job.spec.folder) / "sae.json").read_text())
    (job.out / "sae.json").write_text(json.dumps({**body, "n_latents": job.spec.keep}))
    return {"n_latents": job.spec.keep, "d_in": body["d_in"], "hookpoint": body["hookpoint"]}


class World:
    """Two SAEs of one hookpoint, explained, and a noised copy of the first without its last 28 latents."""

    def __init__(self, folder: Path) -> None:
        small = [*overrides(folder), "train.n_tokens=20000", "client=none"]
        self.place = [f"backend.root={folder / 'store'}", "runtime.mode=inline"]
        for more in ([], ["train.seed=3"]):
            assert main(["explain", *small, *more, *self.place]) == 0
        self.store = Store.at(folder / "store")
        self.first, self.second = sorted((a for a in self.store.artifacts() if a.stage == "train"), key=self._seed)
        copy = adopted(CopiedSpec(folder=str(self.store.open(self.first).path), noise=0.01, keep=100))
        self.copy = make(copy, self.store).artifact

    def _seed(self, artifact) -> int:
        return self.store.find(artifact).spec["seed"]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return World(tmp_path_factory.mktemp("surveying"))


@pytest.fixture
def saint(world, capsys):
    def run(*arguments: str) -> str:
        code = main([*arguments, *world.place])
        said = capsys.readouterr()
        assert code == 0, said.err
        return said.out

    return run


@pytest.fixture
def refused(world, capsys):
    def run(*arguments: str) -> str:
        assert main([*arguments, *world.place]) == 2
        said = capsys.readouterr().err.strip()
        assert "\n" not in said
        return said.removeprefix("error: ")

    return run


def test_one_sae_is_surveyed_once_and_found_the_next_time(world, saint):
    said = saint("survey", str(world.first))
    assert "made in" in said and "128 latents" in said and "mean cosine with the nearest latent" in said
    assert re.search(r"firing: L0 4\.0, \d+ dead, \d+ rare .*over 6,1\d\d tokens \(mine/", said)
    again = saint("survey", str(world.first))
    assert "made in" not in again and again.splitlines()[-1] == said.splitlines()[-1]


def test_the_table_holds_what_the_weights_say(world, saint):
    found = json.loads(saint("survey", str(world.first), "--json", "n_nearest=3"))
    W = load_file(world.store.open(world.first).path / "sae.safetensors")["W_dec_ND"]
    table = torch.nn.functional.cosine_similarity(W[:, None], W[None], dim=-1).fill_diagonal_(-2)
    rows = pq.read_table(Path(found["path"]) / "latents.parquet")
    np.testing.assert_allclose(np.stack(rows["decoder_cosine"].to_numpy()), table.topk(3).values, atol=1e-5)
    assert found["directions"]["decoder"]["mean_max"] == pytest.approx(float(table.amax(1).mean()), abs=1e-5)
    assert sum(found["directions"]["decoder"]["histogram"]) == 128 * 127 // 2
    best = found["pairs"][0]
    assert best["cosine"] == pytest.approx(float(table.max()), abs=1e-5) and best["first"] < best["second"]
    assert len({(row["first"], row["second"]) for row in found["pairs"]}) == len(found["pairs"]) == 50
    (mined,) = [a for a in world.store.artifacts() if str(a) == found["firing"]["of"]]
    fires = pq.read_table(world.store.open(mined).path / "latents.parquet")["n_fires"].to_numpy()
    assert rows["n_fires"].to_numpy().tolist() == fires.tolist() and found["firing"]["n_dead"] == int((fires == 0).sum())
    assert any(label for row in found["pairs"] for label in row["labels"]) and any(rows["label"].to_pylist())


def test_a_noised_copy_is_found_latent_by_latent_and_what_it_lacks_is_named(world, saint):
    found = json.loads(saint("survey", str(world.first), f"with={world.copy}", "--json"))
    matching = found["matching"]
    assert matching["second"]["mmcs"] > 0.99 and matching["mcc"] > 0.99 and matching["n_pairs"] == 100 and matching["exact"]
    assert matching["first"]["mmcs"] < 0.95 and matching["first"]["above"]["0.9"] == pytest.approx(100 / 128)
    assert found["other"]["artifact"].startswith("adopt/") and found["other"]["firing"] is None and matching["activation"] is None
    rows = pq.read_table(Path(found["path"]) / "latents.parquet").to_pylist()
    assert [row["partner"] for row in rows] == [*range(99, -1, -1), *[-1] * 28], "it was turned round, and the last are gone"
    assert {row["first"] for row in matching["lost"]} <= set(range(100, 128)), "what the other has nothing like"


def test_two_trained_saes_are_matched_by_activation_too(world, saint):
    found = json.loads(saint("survey", str(world.first), f"with={world.second}", "--json"))
    active = found["matching"]["activation"]
    assert active["n_tokens"] > 6000 and 0 < active["of_nearest"] < active["mean_max"] < 1
    assert found["matching"]["mcc"] < 0.7 < json.loads(saint("survey", str(world.first), f"with={world.copy}", "--json"))["matching"]["mcc"]
    text = saint("survey", str(world.first), f"with={world.second}")
    assert "MMCS" in text and "by activation, over" in text and "each other's nearest" in text
    page = (Path(found["path"]) / "survey.html").read_text("utf-8")
    assert "correlation by cosine" in page and "What the other has nothing like" in page


def test_an_imported_sae_without_anything_else_is_surveyed_by_its_weights(world, saint):
    said = saint("survey", str(world.copy))
    assert "100 latents" in said and "firing: not known" in said


def test_the_page_asks_nothing_of_the_network(world, saint):
    found = json.loads(saint("survey", str(world.first), f"with={world.second}", "--json"))
    page = (Path(found["path"]) / "survey.html").read_text("utf-8")
    assert "default-src 'none'" in page and not re.search(r"(?:src|href)=[\"'](?!#|data:)", page) and "url(http" not in page
    assert page.count("<svg") >= 7 and len(page) < 1_000_000


def test_letters_are_probed_on_the_captures_that_the_sae_was_trained_on(world, saint):
    found = json.loads(saint("probe", str(world.first), "hold_out=documents", "--json"))
    letters = {row["letter"]: row for row in found["letters"]}
    assert {"s", "t", "b"} <= set(letters) and found["n_letters"] >= 10
    assert letters["t"]["probe_f1"] > 0.9, "a token tells its letter"
    for row in letters.values():
        assert row["n_main"] >= 1 and 0 <= row["full_rate"] <= 1 and row["mean_fraction"] <= 1
        assert all(row["sparse_f1"][i + 1] - row["sparse_f1"][i] > 0.03 for i in range(row["n_main"] - 1))
    said = saint("probe", str(world.first), "hold_out=documents")
    assert "made in" not in said and "absorbed in full" in said and "main latents" in said
    page = (Path(found["path"]) / "probe.html").read_text("utf-8")
    assert "default-src 'none'" in page and 'aria-label="absorption by letter"' in page


def test_held_out_words_are_other_words(world, saint):
    """A probe that knows words and no letters fails on words it never saw: this little model spells nothing."""
    found = json.loads(saint("probe", str(world.first), "--json", "min_tokens=5"))
    assert found["hold_out"] == "tokens" and all(row["probe_f1"] < 0.9 for row in found["letters"])


def test_both_can_be_made_again_from_their_manifests(world, saint):
    saint("survey", str(world.first))
    saint("probe", str(world.first), "hold_out=documents")
    made = [a for a in world.store.artifacts() if a.stage in ("survey", "probe")]
    of_trained = [a for a in made if "adopt/" not in json.dumps(world.store.find(a).inputs)]
    assert {a.stage for a in of_trained} == {"survey", "probe"}
    for artifact in of_trained:
        recipe = recipe_of(world.store, artifact)
        assert not isinstance(recipe, Held) and recipe.artifact == artifact


def test_mistakes_are_told_before_any_work(world, refused):
    assert "takes one SAE, but 0 are named" in refused("survey")
    assert "that is train/" in refused("survey", str(world.first), f"with={world.first}")
    (mined, *_) = [a for a in world.store.artifacts() if a.stage == "mine"]
    assert "is no SAE" in refused("survey", str(mined))
    assert refused("survey", str(world.first), "n_nearest=0").startswith("survey.n_nearest = 0, but")
    assert "but saint survey takes with, n_nearest" in refused("survey", str(world.first), "sae.k=3")
    assert "knows no activations" in refused("probe", str(world.copy)) or "which language model" in refused("probe", str(world.copy))


@pytest.mark.special
@pytest.mark.parametrize("width", [DESK, TELEPHONE])
def test_in_a_real_browser_nothing_overflows(world, saint, visit, width):
    survey = json.loads(saint("survey", str(world.first), f"with={world.second}", "--json"))
    probe = json.loads(saint("probe", str(world.first), "hold_out=documents", "--json"))
    for page in (Path(survey["path"]) / "survey.html", Path(probe["path"]) / "probe.html"):
        assert width_of(visit(page.as_uri(), width=width)) == width
