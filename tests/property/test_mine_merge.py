"""Mining: the surveys of any cut into shards merge to what one pass over everything finds."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.mine import MineSpec
from tasks.mining.kept import by_strength, hashed
from tasks.mining.merge import Merged
from tasks.mining.survey import Survey

N_LATENTS, K = 12, 3


class Rows(SimpleNamespace):
    """What a survey needs of a shard, in memory."""

    @property
    def n_rows(self) -> int:
        return len(self.token_id)


def documents(seed: int, n: int = 14):
    """Documents of a few contexts, with the K latents of every row."""
    draw = np.random.Generator(np.random.Philox(seed))
    found, sentence = [], 0
    for document in range(n):
        contexts = [int(draw.integers(2, 9)) for _ in range(int(draw.integers(1, 4)))]
        rows = sum(contexts)
        cuts = np.sort(draw.choice(np.arange(1, rows), min(rows - 1, int(draw.integers(0, 3))), replace=False))
        ids = sentence + np.searchsorted(cuts, np.arange(rows), side="right")
        sentence = int(ids[-1]) + 1
        index = np.stack([draw.permutation(N_LATENTS)[:K] for _ in range(rows)])
        # few distinct values, so that ties are common; a fifth of the entries are not active
        value = draw.choice([0.0, 0.5, 1.0, 2.0, 2.0], (rows, K)).astype(np.float32)
        found.append(SimpleNamespace(
            token_id=draw.integers(0, 6, rows).astype(np.int32), document_id=np.full(rows, document, np.int32),
            sentence_id=ids.astype(np.int32), lengths=contexts, index=index, value=value,
        ))  # fmt: skip
    return found


def survey(parts, spec, split: str, block_rows: int):
    rows = Rows(
        **{n: np.concatenate([getattr(p, n) for p in parts]) for n in ("token_id", "document_id", "sentence_id")},
        context_offsets=np.cumsum([0, *(c for p in parts for c in p.lengths)]),
    )
    index, value = (np.concatenate([getattr(p, n) for p in parts]) for n in ("index", "value"))
    made = Survey(spec.model_copy(update={"block_rows": block_rows}), N_LATENTS, rows, split)
    for start, stop in made.blocks():
        made.take(start, stop, index[start:stop], value[start:stop])
    return made.arrays()


def comparable(merged: Merged, spec: MineSpec):
    """Everything that a mine artifact holds of a split, in a fixed order."""
    windows = merged.windows
    names = [n for n in windows if n != "hash"]
    order = np.lexsort((windows["place"], windows["document_id"], windows["latent"]))
    negatives = merged.negatives(spec)
    pool = {n: v[negatives["window"]] for n, v in merged.pool.items() if n != "peak"}
    found = {
        "n_fires": merged.n_fires, "largest": merged.largest, "histogram": merged.histogram,
        "total": merged.total, "tokens": merged.token_counts,
        **{f"w.{n}": windows[n][order] for n in names},
        **{f"n.{n}": negatives[n] for n in ("latent", "near", "rank", "peak")},
        **{f"p.{n}": pool[n] for n in ("document_id", "place", "tokens")},
    }  # fmt: skip
    for ranking, columns in merged.sentences.items():
        order = np.lexsort((columns["rank"], columns["latent"]))
        found |= {f"s.{ranking}.{n}": v[order] for n, v in columns.items()}
    return found


@settings(max_examples=80, deadline=None)
@example(seed=131071, cuts=set(), block_rows=8)  # a block that begins with tokens on which nothing fires
@given(st.integers(0, 10**6), st.sets(st.integers(1, 13), max_size=4), st.sampled_from([8, 20, 1000]))
def test_any_cut_into_shards_merges_to_one_pass(seed, cuts, block_rows):
    spec = MineSpec(window_tokens=6, n_top=3, n_quantile=5, n_quantiles=2, n_sentences=2, n_pool=9, n_random=4, n_near_miss=3,
                    block_rows=256)  # fmt: skip
    all_documents = documents(seed)
    edges = [0, *sorted(cuts), len(all_documents)]
    shards = [all_documents[a:b] for a, b in pairwise(edges)]
    for split in ("train", "test"):
        whole = Merged([survey(all_documents, spec.survey(), split, 1000)], spec.survey(), N_LATENTS, split)
        parts = Merged([survey(s, spec.survey(), split, block_rows) for s in shards], spec.survey(), N_LATENTS, split)
        one, many = comparable(whole, spec), comparable(parts, spec)
        assert one.keys() == many.keys()
        for name in one:
            np.testing.assert_allclose(many[name], one[name], rtol=1e-6, err_msg=f"{split} {name}")


def test_a_survey_finds_what_a_plain_loop_finds():
    spec = MineSpec(window_tokens=6, n_top=4, n_quantile=100, n_sentences=3, n_pool=5, block_rows=256)
    parts = documents(3)
    merged = Merged([survey(parts, spec.survey(), "train", 16)], spec.survey(), N_LATENTS, "train")
    peaks: dict[int, list] = {n: [] for n in range(N_LATENTS)}
    fires = np.zeros(N_LATENTS)
    sentence_max: dict[tuple[int, int], float] = {}
    for document, part in enumerate(parts):
        start = 0
        for length in part.lengths:
            best: dict[int, tuple] = {}
            for row in range(start, start + length):
                for latent, value in zip(part.index[row].tolist(), part.value[row].tolist(), strict=True):
                    if value > 0:
                        fires[latent] += 1
                        best[latent] = min(best.get(latent, (0.0, 0)), (-value, row))
                        at = (latent, int(part.sentence_id[row]))
                        sentence_max[at] = max(sentence_max.get(at, 0.0), value)
            for latent, (value, row) in best.items():
                peaks[latent].append((value, document, row))
            start += length
    assert merged.n_fires.tolist() == fires.tolist()
    windows = merged.windows
    for latent in range(N_LATENTS):
        mine = windows["latent"] == latent
        order = np.argsort(windows["rank"][mine])
        found = [tuple(windows[n][mine][order][:4].tolist()) for n in ("value", "document_id", "place")]
        want = sorted(peaks[latent])[:4]
        assert found == [tuple(-w[0] for w in want), tuple(w[1] for w in want), tuple(w[2] for w in want)]
        ranked = sorted(((-v, s) for (n, s), v in sentence_max.items() if n == latent))[:3]
        sentences = merged.sentences["max"]
        mine = sentences["latent"] == latent
        order = np.argsort(sentences["rank"][mine])
        assert sentences["sentence_id"][mine][order].tolist() == [s for _, s in ranked]


def test_negatives_are_silent_never_twice_and_near_misses_share_a_main_token():
    spec = MineSpec(window_tokens=6, n_top=4, n_quantile=20, n_pool=60, n_random=5, n_near_miss=5, block_rows=256)
    parts = documents(5, n=30)
    merged = Merged([survey(parts, spec.survey(), "train", 64)], spec.survey(), N_LATENTS, "train")
    found = merged.negatives(spec)
    assert found["near"].any() and (~found["near"]).any()
    fires = {(p.document_id[0], row, int(n)) for p in parts for row in range(len(p.index))
             for n, v in zip(p.index[row], p.value[row], strict=True) if v > 0}  # fmt: skip
    main = merged._main_tokens()
    seen = set()
    for i, latent in enumerate(found["latent"].tolist()):
        window = found["window"][i]
        assert (latent, window) not in seen
        seen.add((latent, window))
        begin = merged.pool["place"][window] - merged.pool["peak"][window]
        size = int((merged.pool["tokens"][window] >= 0).sum())
        document = merged.pool["document_id"][window]
        assert not any((document, begin + j, latent) in fires for j in range(size))
        if found["near"][i]:
            assert merged.pool["tokens"][window][found["peak"][i]] in main[latent]


def test_ties_go_by_document_and_place():
    columns = {"latent": np.zeros(4, np.int64), "value": np.array([1.0, 2.0, 1.0, 1.0]),
               "document_id": np.array([5, 9, 2, 2]), "place": np.array([0, 0, 7, 3])}  # fmt: skip
    assert by_strength(columns).tolist() == [3, 0, 2, 1]


def test_the_hash_is_this_function_and_no_other():
    assert hashed(1, np.arange(3), np.array([7, 7, 7])).tolist() == [4826131762478391152, 6784550840178957612, 8177772262613422526]
    assert len({*hashed(0, np.arange(1000), np.zeros(1000, np.int64)).tolist()}) == 1000
