"""Mining: any cut of the text into shards gives what one pass over everything gives, and that is what a plain loop finds."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.mine import MineSpec, check_apart
from tasks.mining.hashing import hashed
from tasks.negatives.near_miss import NearMiss
from tasks.negatives.random import RandomNegatives
from tasks.samplers.mix import Mix
from tasks.samplers.quantiles import Quantiles
from tasks.windows.centred import Centred
from tasks.windows.tiled import Tiled
from tests.caches import dense, documents, encoded, joined, split_of

N_LATENTS = 12


def spec_of(windows, **fields) -> MineSpec:
    return MineSpec(
        windows=windows, train_sampler=Mix(n=6, n_quantiles=3), test_sampler=Quantiles(n=5, n_quantiles=2), n_sentences=2,
        n_pool=12, negatives=(RandomNegatives(n=4), NearMiss(n=3, n_rows=9)), **fields,
    )  # fmt: skip


def by_group(columns: dict) -> list[dict]:
    """Columns of the activating windows, and of each kind of negatives."""
    kinds = ["" if q >= 0 else g for g, q in zip(columns["group"], columns["quantile"], strict=True)]
    size, found = np.asarray(columns["size"]), []
    for kind in dict.fromkeys(kinds):
        mine = np.array([k == kind for k in kinds])
        flat = np.repeat(mine, size)
        found.append({n: np.asarray(v)[flat if n in ("tokens", "values") else mine] for n, v in columns.items()})
    return found


def everything(split) -> list[tuple]:
    """All that a mining writes of a split, in a fixed order."""
    found = []
    for latent in range(N_LATENTS):
        at = split.of(latent)
        tables = [*split.sentences(at), *([] if split.lacks(at) else [split.windows(at)])]
        found.append((latent, split.lacks(at), [{n: np.asarray(v).tolist() for n, v in t.items()} for t in tables]))
    return found


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sets(st.integers(1, 13), max_size=4),
    st.sampled_from([Centred(window_tokens=6), Centred(window_tokens=4, per_context=3), Tiled(window_tokens=4, min_tokens=2)]),
)
def test_any_cut_into_shards_gives_one_pass(seed, cuts, windows):
    parts, spec = documents(seed), spec_of(windows)
    edges = [0, *sorted(cuts), len(parts)]
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        shards = [encoded(parts[a:b], top / str(a), "train") for a, b in pairwise(edges)]
        for name in ("train", "test"):
            whole = split_of([encoded(parts, top / "whole", name)], spec, name=name)
            cut = split_of(shards, spec, top / f"joined-{name}", name)
            assert repr(everything(cut)) == repr(everything(whole))
            assert cut.ground.pool.tolist() == whole.ground.pool.tolist()
            assert cut.token_counts().tolist() == np.bincount(joined(parts, "token_id")).tolist()


def test_windows_and_sentences_are_those_that_a_plain_loop_finds(tmp_path):
    parts = documents(3)
    spec = MineSpec(windows=Centred(window_tokens=6), train_sampler=Quantiles(n=1000), n_sentences=3, n_pool=5)
    split = split_of([encoded(parts, tmp_path, "train")], spec)
    x = dense(parts)
    token, sentence = joined(parts, "token_id"), joined(parts, "sentence_id")
    edges = np.cumsum([0, *(c for p in parts for c in p.lengths)]).tolist()
    for latent in range(N_LATENTS):
        peaks = []
        for a, b in pairwise(edges):
            best = max(range(a, b), key=lambda r: (x[r, latent], -r))
            if x[best, latent] > 0:
                peaks.append((-x[best, latent], best, a, b))
        active, *_ = by_group(split.windows(split.of(latent)))
        assert active["strength"].tolist() == [-v for v, *_ in sorted(peaks)]
        at = 0
        for i, (_, row, a, b) in enumerate(sorted(peaks)):
            begin = max(a, min(row - 4, b - 6))
            end = min(begin + 6, b)
            assert active["tokens"][at : at + end - begin].tolist() == token[begin:end].tolist()
            assert active["values"][at : at + end - begin].tolist() == x[begin:end, latent].tolist()
            assert (active["peak"][i], active["size"][i]) == (row - begin, end - begin)
            assert active["starts_context"][i] == (begin == a)
            assert active["quantile"][i] == i * 10 // len(peaks)
            at += end - begin
        assert at == len(active["tokens"])
        for columns in split.sentences(split.of(latent)):
            value = {"mean": lambda v: v.mean(), "max": max, "last": lambda v: v[-1]}[columns["ranking"][0]]
            ranked = [(-value(x[sentence == s, latent].astype(np.float64)), s) for s in np.unique(sentence)]
            want = sorted(r for r in ranked if r[0] < 0)[:3]
            assert columns["sentence_id"].tolist() == [s for _, s in want]
            np.testing.assert_allclose(columns["value"], [-v for v, _ in want], rtol=1e-6)


@pytest.mark.parametrize("windows", [Centred(window_tokens=6), Tiled(window_tokens=4)], ids=lambda w: w.kind)
def test_negatives_are_silent_apart_and_near_misses_peak_at_a_main_token(tmp_path, windows):
    parts = documents(5, n=60)
    spec = spec_of(windows)
    split = split_of([encoded(parts, tmp_path, "train")], spec)
    x, token, document = dense(parts), joined(parts, "token_id"), joined(parts, "document_id")
    first = np.searchsorted(document, np.arange(60))
    n_near = 0
    for latent in range(N_LATENTS):
        active, *silent = by_group(split.windows(split.of(latent)))
        peaks = active["tokens"][np.cumsum(active["size"]) - active["size"] + active["peak"]]
        seen: set[int] = set()
        for columns in silent:
            assert not columns["values"].any() and (columns["quantile"] == -1).all()
            for name, size, peak in zip(columns["window_id"], columns["size"], columns["peak"], strict=True):
                _, d, place = name.split("/")
                begin = first[int(d)] + int(place) - peak
                window = set(range(begin, begin + size))
                assert not x[sorted(window), latent].any() and not window & seen
                seen |= window
                if columns["group"][0] == "near_miss":
                    n_near += 1
                    assert token[begin + peak] in peaks
    assert n_near > N_LATENTS


def test_silent_windows_have_the_shapes_of_active_ones_as_far_as_there_are(tmp_path):
    """Latent 0 fires on the second token of some long contexts, so its peak stands at place 1; the pool has all places."""
    parts = documents(7, n=300)
    for part in parts:
        part.value[:] = 0
        starts = np.cumsum([0, *part.lengths[:-1]])
        long = [s for s, n in zip(starts, part.lengths, strict=True) if n >= 6]
        part.index[[s + 1 for s in long[:1]], 0] = 0  # the first of a document's only: in the others it stays silent
        part.value[[s + 1 for s in long[:1]], 0] = 1.0
        part.index[:, 1:] = [1, 2]
        part.index[part.index[:, 0] != 0, 0] = 3
    spec = MineSpec(windows=Centred(window_tokens=6), negatives=(RandomNegatives(n=30),), n_pool=2000)
    split = split_of([encoded(parts, tmp_path, "train")], spec)
    active, silent = by_group(split.windows(split.of(0)))
    assert set(zip(active["size"].tolist(), active["peak"].tolist(), strict=True)) == {(6, 1)}
    assert len(silent["peak"]) == 30
    rows = split.ground.pool[split.ground.silent_in(0, split.ground.stretches(split.ground.pool))]
    begin, end = split.ground.around(rows)
    distance = np.sort(np.abs(end - begin - 6) + np.abs(rows - begin - 1))
    found = np.sort(np.abs(silent["size"] - 6) + np.abs(silent["peak"] - 1))
    assert distance[0] == 0 < distance[29] < distance[-1]  # some have just that shape, and not all of them
    assert found.tolist() == distance[:30].tolist()


def test_a_kind_that_draws_where_the_latent_fires_or_twice_is_found_out(tmp_path):
    from tasks.negatives.base import unlike_any

    class Wrong(RandomNegatives):
        def draw(self, latent, ground, taken):
            return unlike_any(ground.peaks(latent)[:1])

    class Twice(RandomNegatives):
        def draw(self, latent, ground, taken):
            row = super().draw(latent, ground, taken).row[:1]
            return unlike_any(np.concatenate([row, row]))

    for kind, why in ((Wrong(), "fires in a window of negatives random"), (Twice(), "windows of latent 0 overlap")):
        spec = MineSpec(windows=Centred(window_tokens=6), negatives=(kind,))
        split = split_of([encoded(documents(1), tmp_path, "train")], spec)
        with pytest.raises(ValueError, match=why):
            split.windows(split.of(0))


def test_a_document_in_both_splits_is_an_error(tmp_path):
    spec = spec_of(Centred(window_tokens=6))
    one, other = documents(1), documents(2, first=13)
    train, test = (
        split_of([encoded(p, tmp_path / n, n)], spec, name=n) for p, n in ((one, "train"), (other, "test"))
    )
    with pytest.raises(ValueError, match="document 13 is in the train and in the test split"):
        check_apart(train, test)


def test_a_latent_with_too_few_windows_gets_none_and_says_why(tmp_path):
    spec = spec_of(Centred(window_tokens=6), min_examples=8)
    parts = documents(1)
    for part in parts[:-3]:
        part.value[part.index == 0] = 0
    for part in parts:
        part.value[part.index == 1] = 0
    split = split_of([encoded(parts, tmp_path, "train")], spec)
    assert [split.lacks(split.of(latent)) for latent in (0, 1, 2)] == ["too_few_windows", "silent", None]


def test_the_hash_is_this_function_and_no_other():
    assert hashed(1, np.arange(3), np.array([7, 7, 7])).tolist() == [4826131762478391152, 6784550840178957612, 8177772262613422526]
    assert len({*hashed(0, np.arange(1000), np.zeros(1000, np.int64)).tolist()}) == 1000
