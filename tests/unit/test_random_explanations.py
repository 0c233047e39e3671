"""The baseline that says of each latent what was said of another."""

from __future__ import annotations

from pathlib import Path

from tasks.explainers.random import AnotherLatents
from tests.planted import WORDS, dead, latent_examples
from tests.unit.test_explanation_files import written


def said(folder: Path, *rows: str) -> str:
    return written(folder, "a.csv", "\n".join(["latent,label", *rows]))


def test_each_latent_gets_anothers_words_and_never_its_own(tmp_path):
    path = said(tmp_path, *(f"{i},{WORDS[i % 4]}" for i in range(40)))
    one = AnotherLatents(path=path)
    drawn = [one.read([], latent_examples(i)) for i in range(40)]
    for i, found in enumerate(drawn):
        assert found.status == "ok" and found.latent == i and found.label != WORDS[i % 4]
        assert found.evidence["of_latent"] != i and found.confidence is None
        assert found.label == WORDS[found.evidence["of_latent"] % 4]
    assert drawn == [AnotherLatents(path=path).read([], latent_examples(i)) for i in range(40)]
    assert drawn != [AnotherLatents(path=path, seed=1).read([], latent_examples(i)) for i in range(40)]
    assert len({found.evidence["of_latent"] for found in drawn}) > 15


def test_words_that_say_the_same_are_no_baseline(tmp_path):
    path = said(tmp_path, "0,Cats", "1,cats", "2, cats ")
    assert [AnotherLatents(path=path).read([], latent_examples(i)).status for i in range(4)] == ["no_other"] * 3 + ["ok"]
    rule = '"{""any"": [""word:x""]}"'
    path = written(tmp_path, "b.csv", f"latent,label,predicate\n0,x,{rule}\n1,an x,{rule}\n2,y,\n")
    assert {AnotherLatents(path=path, seed=s).read([], latent_examples(0)).label for s in range(20)} == {"y"}


def test_the_one_other_is_found_among_many_equal_ones(tmp_path):
    path = said(tmp_path, *(f"{i},cats" for i in range(500)), "500,dogs")
    assert all(AnotherLatents(path=path).read([], latent_examples(i)).label == "dogs" for i in range(20))
    assert AnotherLatents(path=path).read([], dead(500)).label == "cats"


def test_failed_explanations_are_nobodys_baseline(tmp_path):
    path = written(tmp_path, "a.csv", "latent,label,status\n0,cats,ok\n1,,refused\n2,,too_few_examples\n")
    found = [AnotherLatents(path=path).read([], latent_examples(i)) for i in range(3)]
    assert [(e.status, e.label) for e in found] == [("no_other", ""), ("ok", "cats"), ("ok", "cats")]
