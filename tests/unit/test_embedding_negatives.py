"""Non-activating windows by meaning: the nearest there are in the pool, in none of which the latent fires."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from tasks.negatives.embedding import Embedding, texts
from tasks.spec import SpecError
from tests.grounds import CONTEXT, cache_of, ground_of
from tests.local_models import BagOfWords, embed, write_embedder
from tests.planted import FILLER, WORDS

N_CONTEXTS = 90
NONE = np.zeros(0, np.int64)
VOCABULARY = [f" {word}" for word in (*WORDS, *FILLER)]


@pytest.fixture
def ground():
    """Each context has one word that bears meaning, at row 30. Latent i fires on word i, but not in every third context
    with it; latent 20 never fires, latent 21 everywhere."""
    draw = np.random.default_rng(0)
    token_id = draw.integers(len(WORDS), len(VOCABULARY), N_CONTEXTS * CONTEXT)
    fires: list[dict[int, float]] = [{} for _ in range(22)]
    for context in range(N_CONTEXTS):
        row, word = context * CONTEXT + 30, context % len(WORDS)
        token_id[row] = word
        if context // len(WORDS) % 3:
            fires[word][row] = 1.0 + context
    fires[21] = {row: 1.0 for row in range(0, N_CONTEXTS * CONTEXT, 4)}
    return ground_of(cache_of(fires, token_id, 2), texts=VOCABULARY)


def drawn(ground, latent, taken=NONE, **fields):
    kind = Embedding(**fields)
    model = ground.once(kind.embedder, BagOfWords)
    return kind.draw(latent, ground, taken), model


@embed
def test_the_nearest_silent_windows_come_first_and_the_pool_is_embedded_once(ground):
    for latent in (0, 4):
        found, model = drawn(ground, latent, n=10)
        words = [VOCABULARY[ground.cache.token_id[row]].strip() for row in found.row]
        silent = sum(c % 12 == latent and not c // 12 % 3 for c in range(N_CONTEXTS))
        assert words[:silent] == [WORDS[latent]] * silent and WORDS[latent] not in words[silent:]
        assert ground.silent_in(latent, ground.stretches(found.row)).all() and set(found.row) <= set(ground.pool)
        assert len(set(found.row.tolist())) == 10 and set(found.neighbour.tolist()) == {-1}
        assert found.similarity[:silent].min() > 0.9 > found.similarity[silent:].max()
        assert [c.dtype.name for c in found] == ["int64", "int32", "float32"]
    assert [len(seen) for seen in model.seen] == [N_CONTEXTS, 5, 5]  # the pool, then each latent's own windows


@embed
def test_they_are_those_of_the_dense_table(ground):
    found, model = drawn(ground, 3, n=12, n_queries=1)
    own = max(ground.cache.of(3)[0])  # the strongest
    pool = ground.pool[ground.silent_in(3, ground.stretches(ground.pool))]
    cos = model.passages(texts(ground, pool)) @ model.passages(texts(ground, np.array([own])))[0]
    np.testing.assert_allclose(found.similarity, np.sort(cos)[::-1][:12], atol=1e-6)


@embed
def test_windows_of_the_latent_take_turns(ground):
    """Else all would be like its one strongest window."""
    fires = [{30: 9.0, CONTEXT + 30: 8.0}]
    token_id = ground.cache.token_id.copy()
    found, _ = drawn(ground_of(cache_of(fires, token_id), texts=VOCABULARY), 0, n=6, n_queries=2)
    words = [VOCABULARY[token_id[row]].strip() for row in found.row]
    assert words == [WORDS[0], WORDS[1]] * 3


@embed
def test_windows_that_overlap_with_taken_ones_or_the_latents_own_are_left_out(ground):
    free, _ = drawn(ground, 5, n=8)
    again, _ = drawn(ground, 5, free.row[:3] - 2, n=8)
    assert not set(again.row.tolist()) & set(free.row[:3].tolist()) and len(again.row) == 8
    shifted = ground_of(cache_of([{61: 1.0}], ground.cache.token_id), texts=VOCABULARY)  # the pool's window ends at row 38
    assert shifted.silent_in(0, shifted.stretches(np.array([30]))).all()
    assert 30 not in drawn(shifted, 0, n=89)[0].row and len(drawn(shifted, 0, n=999)[0].row) == N_CONTEXTS - 1


@embed
def test_there_may_be_fewer_or_none(ground):
    assert len(drawn(ground, 20)[0].row) == len(drawn(ground, 21)[0].row) == len(drawn(ground, 0, n=0)[0].row) == 0
    everything, _ = drawn(ground, 1, n=1000)
    assert len(everything.row) == int(ground.silent_in(1, ground.stretches(ground.pool)).sum())
    ground.pool = ground.pool[:0]
    assert len(drawn(ground, 0)[0].row) == 0


@embed
@pytest.mark.slow
def test_a_real_embedder_finds_a_windows_own_text_nearest(ground, tmp_path):
    kind = Embedding(path=str(write_embedder(tmp_path)), n=5, n_queries=1).pinned()
    token_id = ground.cache.token_id.copy()
    own = int(ground.cache.of(0)[0][-1]) // CONTEXT * CONTEXT
    twin = 50 * CONTEXT
    token_id[twin : twin + CONTEXT] = token_id[own : own + CONTEXT]
    fires = [dict(zip(*(a.tolist() for a in ground.cache.of(0)), strict=True))]
    fires[0].pop(twin + 30, None)
    found = kind.draw(0, ground_of(cache_of(fires, token_id), texts=VOCABULARY), NONE)
    assert found.row[0] == twin + 30 and found.similarity[0] == pytest.approx(1, abs=1e-4)
    assert (np.diff(found.similarity) <= 0).all() and len(found.row) == 5


@pytest.mark.parametrize("package, module", [("sentence-transformers", "sentence_transformers"), ("faiss-cpu", "faiss")])
def test_what_is_not_installed_is_told_of_before_any_work(package, module, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else found(name) or True)
    with pytest.raises(SpecError, match=f"mine.negatives = 'embedding', but the package {package} is not installed; pip install"):
        Embedding().pinned()
