"""Corpora: sentences out of docstrings, Parquet and text; splits by document; mistakes told when a run is composed."""

from __future__ import annotations

import platform

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artifacts.store import Store
from tasks.corpora.docstrings import Docstrings, docstrings, sentences
from tasks.corpora.hf import HF
from tasks.corpora.parquet import Parquet
from tasks.corpora.text import Text
from tasks.corpus import CorpusSpec, corpus, documents, split
from tasks.corpus import sentences as sentence_table
from tasks.spec import SpecError
from tests.making import make


def parquet(path, **columns):
    pq.write_table(pa.table(columns), path)
    return str(path)


def test_a_docstring_is_cut_into_sentences_without_its_code():
    text = '''Return the value, e.g. for tests. It may be
    None!

    >>> f(1)
    2

    - a bullet point that says something useful
    x = [1, 2, {3: 4}]
    ==========
    '''
    assert list(sentences(text)) == [
        "Return the value, e.g. for tests.",
        "It may be None!",
        "a bullet point that says something useful",
    ]


def test_docstrings_are_read_and_never_run(tmp_path):
    module = tmp_path / "m.py"
    module.write_text('"""Module text."""\nraise SystemExit\nclass A:\n    "Class text."\n    def f(self):\n        "Method text."\n')
    assert list(docstrings(module)) == ["Module text.", "Class text.", "Method text."]
    module.write_text("def broken(:\n")
    assert list(docstrings(module)) == []


def test_the_standard_library_gives_some_eighteen_thousand_sentences_without_duplicates():
    found = [s for document in Docstrings().documents() for s in document.sentences]
    assert 14_000 < len(found) < 24_000
    assert 1_100_000 < sum(map(len, found)) < 2_000_000
    assert len({s.casefold() for s in found}) == len(found)
    assert Docstrings().pinned().python == platform.python_version()


def test_parquet_takes_neighbouring_rows_for_a_document_and_keys_follow_contents(tmp_path):
    path = parquet(tmp_path / "a.parquet", text=["a b", "c d", "", "e f", "g"], doc=[0, 0, 1, 1, 2])
    spec = Parquet(path=path).pinned()
    assert [d.sentences for d in spec.documents()] == [["a b", "c d"], ["e f"], ["g"]]
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes())
    moved = Parquet(path=str(tmp_path / "b.parquet")).pinned()
    assert CorpusSpec(corpus=moved).payload() == CorpusSpec(corpus=spec).payload()
    other = Parquet(path=parquet(tmp_path / "c.parquet", text=["a b", "c d", "", "e f", "h"], doc=[0, 0, 1, 1, 2])).pinned()
    assert other.payload() != spec.payload()


def test_owt_sentences_work_as_they_are(tmp_path):
    path = parquet(tmp_path / "owt.parquet", text=["One sentence.", "Another one."])
    assert [d.sentences for d in Parquet(path=path).pinned().documents()] == [["One sentence."], ["Another one."]]


@pytest.mark.parametrize(
    "make_spec, message",
    [
        (lambda t: Parquet(path=str(t / "none.parquet")), "corpus.path = .*none.parquet', but no file is there"),
        (lambda t: Parquet(), "corpus.path = None, but corpus 'parquet' reads files"),
        (
            lambda t: Parquet(path=parquet(t / "a.parquet", body=["x"])),
            "corpus.text_column = 'text', but a.parquet has columns body; use one of them",
        ),
        (lambda t: Parquet(path=parquet(t / "e.parquet", text=pa.array([], pa.string()))), "but it holds no rows"),
        (lambda t: Text(path=str(t)), "it is a folder"),
        (lambda t: HF(dataset="a/b", revision="main"), "corpus.revision = 'main', but a key needs a fixed commit"),
    ],
)
def test_what_cannot_be_read_is_told_before_any_work(tmp_path, make_spec, message):
    with pytest.raises(SpecError, match=message):
        make_spec(tmp_path).pinned()


def test_a_file_that_is_no_parquet_says_so(tmp_path):
    (tmp_path / "x.parquet").write_text("plain words")
    with pytest.raises(SpecError, match="but it is no Parquet file"):
        Parquet(path=str(tmp_path / "x.parquet")).pinned()


def test_the_artifact_numbers_sentences_and_splits_by_document(tmp_path):
    texts = [f"sentence {i} of document {i // 10} with some words" for i in range(600)]
    path = parquet(tmp_path / "a.parquet", text=texts, doc=[i // 10 for i in range(600)])
    store = Store.at(tmp_path / "s")
    opened = make(corpus(CorpusSpec(corpus=Parquet(path=path).pinned())), store)
    table = sentence_table(opened)
    assert table["text"].to_pylist() == texts
    assert table["sentence_id"].to_pylist() == list(range(600))
    owners = {}
    for document, where in zip(table["document_id"].to_pylist(), table["split"].to_pylist(), strict=True):
        assert owners.setdefault(document, where) == where
    about = documents(opened)
    total = opened.summary["n_chars"]
    shares = {s: sum(documents(opened, s)["n_chars"].to_pylist()) / total for s in ("train", "validation", "test")}
    assert about.num_rows == 60
    assert shares["validation"] == pytest.approx(0.05, abs=0.02) and shares["test"] == pytest.approx(0.10, abs=0.02)


def test_an_empty_corpus_stops_with_one_sentence(tmp_path):
    (tmp_path / "a.txt").write_text("   \n \n")
    with pytest.raises(SpecError, match="but it holds no text"):
        make(corpus(CorpusSpec(corpus=Text(path=str(tmp_path / "a.txt")).pinned())), Store.at(tmp_path / "s"))


def test_a_corpus_of_two_documents_cannot_be_split_and_says_what_to_do():
    with pytest.raises(SpecError, match="corpus has 2 documents, but train, validation and test each need one"):
        split([10, 10], 0.05, 0.1, 0)
    assert sorted(split([10, 10, 10], 0.05, 0.1, 0)) == ["test", "train", "validation"]


def test_max_sentences_cuts_the_last_document(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(f"line {i}" for i in range(50)))
    spec = Text(path=str(tmp_path / "a.txt"), unit="line", document="unit", max_sentences=7).pinned()
    assert make(corpus(CorpusSpec(corpus=spec)), Store.at(tmp_path / "s")).summary["n_sentences"] == 7
