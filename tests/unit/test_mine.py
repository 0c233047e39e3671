"""Encoding and mining as stages, on a small world: the cache is what the SAE says, and the tables are what the cache says."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from artifacts.activations import Activations
from artifacts.store import Store
from flows.config import load
from flows.recipes import recipes
from tasks.mine import examples
from tasks.mining.cache import Encoded, LatentCache
from tasks.mining.reading import ByLatent
from tasks.mining.tables import Growing, windows_schema
from tasks.trained import TrainedSAE
from tests.making import make
from tests.small import overrides

MORE = ["capture.n_shards=2", "train.n_tokens=5000", "mine.n_pool=200", "mine.negatives=[{kind: random, n: 12}, near_miss]"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mine")
    found = load([*overrides(folder), f"backend.root={folder / 'store'}", *MORE])
    named = recipes(found).named["layers.1"]
    make(named["mine"], found.store)
    return found.store, named


def opened(world, name: str):
    store, named = world
    return store.open(named[name].artifact)


def encoded(world) -> list:
    store, named = world
    return [store.open(r.artifact) for r in named["mine"].inputs["encoded"]]


def test_a_cache_holds_just_what_the_sae_says_of_each_row(world):
    store, named = world
    sae = TrainedSAE.open(opened(world, "train"))
    for recipe, one in zip(named["mine"].inputs["encoded"], encoded(world), strict=True):
        cache = LatentCache([Encoded.open(one)])
        rows = Activations.open(store.open(recipe.inputs["shard"].artifact).path)
        latents = sae.encode(rows.activations())
        dense = torch.zeros(rows.n_rows, sae.n_latents).scatter(1, latents.index_BK, latents.value_BK).numpy()
        assert cache.n_rows == one.summary["n_rows"] == rows.n_rows
        assert one.summary["n_activations"] == (dense > 0).sum() > 0
        for latent in range(sae.n_latents):
            at, values = cache.of(latent)
            assert at.tolist() == np.flatnonzero(dense[:, latent]).tolist()
            # a batch of another size may sum in another order: float32 rounding and no more
            np.testing.assert_allclose(values, dense[at, latent], rtol=1e-5)
        np.testing.assert_allclose(cache.statistic("total"), dense.sum(0, dtype=np.float64), rtol=1e-5)
        np.testing.assert_allclose(cache.statistic("largest"), dense.max(0), rtol=1e-5)
        assert cache.token_id.tolist() == rows.token_id.tolist() and cache.sentence_id.tolist() == rows.sentence_id.tolist()
        assert cache.context_offsets.tolist() == rows.context_offsets.tolist()


def test_mining_needs_the_caches_and_not_the_activations(world, tmp_path):
    import shutil

    store, named = world
    shutil.copytree(store.backend.root, tmp_path / "store")
    copy = Store(type(store.backend)(tmp_path / "store"))
    for name in ("capture", "mine"):
        shutil.rmtree(tmp_path / "store" / name)
    again = make(named["mine"], copy)
    assert not (tmp_path / "store" / "capture").exists()
    for table in ("windows", "sentences", "latents", "promoted", "token_counts"):
        one, other = (pq.read_table(o.path / f"{table}.parquet") for o in (opened(world, "mine"), again))
        assert one.equals(other) or str(one.to_pylist()) == str(other.to_pylist()), table


def test_no_document_and_no_window_is_in_both_splits(world):
    table = pq.read_table(opened(world, "mine").path / "windows.parquet").to_pylist()
    of = {split: [row for row in table if row["split"] == split] for split in ("train", "test")}
    assert of["train"] and of["test"]
    assert not {r["document_id"] for r in of["train"]} & {r["document_id"] for r in of["test"]}
    per_latent = Counter((r["latent"], r["document_id"], r["window_id"].split("/")[2]) for r in table)
    assert max(per_latent.values()) == 1


def test_latents_of_the_table_add_up_to_the_cache(world):
    mined = opened(world, "mine")
    table = pq.read_table(mined.path / "latents.parquet").to_pydict()
    cache = LatentCache([Encoded.open(one) for one in encoded(world) if one.summary["split"] == "train"])
    assert table["n_fires"] == cache.n_fires.tolist() and sum(table["n_fires"]) > 0
    assert [sum(h) for h in table["histogram"]] == table["n_fires"]
    summary = mined.summary
    assert summary["n_alive"] == sum(n > 0 for n in table["n_fires"]) < summary["n_latents"]
    assert summary["fraction_alive"] == summary["n_alive"] / summary["n_latents"]
    assert summary["n_single_token"] == sum(table["single_token_weak"]) >= sum(table["single_token_strong"]) > 0
    assert summary["n_without_windows"]["train"] == {"silent": summary["n_latents"] - summary["n_alive"]}
    counts = pq.read_table(mined.path / "token_counts.parquet")["count"].to_numpy()
    assert counts.sum() == summary["n_tokens"] == cache.n_rows


def test_examples_are_the_tables_by_latent(world):
    mined = opened(world, "mine")
    texts = json.loads((mined.path / "tokens.json").read_text())
    table = pq.read_table(mined.path / "windows.parquet").to_pylist()
    promoted = pq.read_table(mined.path / "promoted.parquet").to_pylist()
    found = list(examples(mined))
    assert [e.latent for e in found] == list(range(mined.summary["n_latents"]))
    assert sum(len(e.windows) for e in found) == mined.summary["n_windows"] == len(table)
    at = 0
    for one in found:
        for window in one.windows:
            row = table[at]
            assert row["latent"] == one.latent
            assert window.tokens == tuple(texts[t] for t in row["tokens"]) and window.values == tuple(row["values"])
            for name in ("window_id", "split", "group", "quantile", "document_id", "peak", "starts_context"):
                assert getattr(window, name) == row[name]
            assert (window.neighbour, window.similarity) == (-1, None)
            assert window.activating == (window.quantile >= 0)
            if window.activating:
                assert window.values[window.peak] == max(window.values) == pytest.approx(row["strength"])
            at += 1
        assert one.promoted[0][0] == promoted[one.latent]["promoted"][0]["token"]
    assert [e.latent for e in examples(mined, [9, 3, 9])] == [3, 9]
    groups = Counter((w.activating, w.group) for e in found for w in e.windows)
    assert set(groups) == {(True, "top"), (True, "quantile"), (False, "random"), (False, "near_miss")}
    assert {g: n for (a, g), n in groups.items() if a} == mined.summary["n_activating"]
    assert {g: n for (a, g), n in groups.items() if not a} == mined.summary["n_silent"]


def test_a_latent_is_read_without_the_others_wherever_row_groups_end(tmp_path):
    with Growing(tmp_path / "w.parquet", windows_schema()) as table:
        for latent, n in [(0, 3), (2, 1), (3, 4), (7, 2)]:
            table.add(columns(latent, n))
            if latent != 2:
                table.flush()
    for path, rewrite in ((tmp_path / "w.parquet", None), (tmp_path / "cut.parquet", 2), (tmp_path / "one.parquet", 100)):
        if rewrite:
            pq.write_table(pq.read_table(tmp_path / "w.parquet"), path, row_group_size=rewrite)
        with ByLatent(path) as found:
            sizes = [found.of(latent).num_rows for latent in range(9)]
            assert sizes == [3, 0, 1, 4, 0, 0, 0, 2, 0]
            assert found.of(3)["tokens"].to_pylist() == [[3], [3, 3], [3, 3, 3], [3, 3, 3, 3]]
    with Growing(tmp_path / "none.parquet", windows_schema()):
        pass
    with ByLatent(tmp_path / "none.parquet") as found:
        assert found.of(0).num_rows == 0 and isinstance(found.of(0), pa.Table)


def columns(latent: int, n: int) -> dict:
    sizes = np.arange(1, n + 1)
    whole = {name: np.zeros(n, np.int32) for name in windows_schema().names}
    return {
        **whole, "latent": np.full(n, latent), "size": sizes, "tokens": np.full(sizes.sum(), latent),
        "values": np.zeros(sizes.sum(), np.float32), "starts_context": np.zeros(n, bool),
        **{name: ["x"] * n for name in ("window_id", "split", "group")},
    }  # fmt: skip
