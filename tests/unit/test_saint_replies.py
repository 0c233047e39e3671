from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from tasks.explainers._saint_replies import Parsed, SaintReplies, parse
from tasks.spec import SpecError

DATA = Path(__file__).parents[2] / "../shared/data/claude-replies"


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data/claude-replies, which is not part of the project")
def test_of_3729_real_replies_all_but_three_say_exactly_what_saint_read_in_them():
    reader = SaintReplies()
    stored = reader.aggregate(DATA / "aggregated_last.json.gz")
    found = list(reader.read(DATA / "responses_last.json.gz"))
    said = {e.latent: (e.label, e.confidence) for e in found if e.status == "ok"}
    assert Counter(e.status for e in found) == {"ok": 3726, "unparsable": 3}
    assert said == {latent: (entry.common_semantic, entry.certainty) for latent, entry in stored.items()}
    assert {e.latent for e in found if e.status == "unparsable"} == {60983, 47028, 13401}
    assert all(e.label == "" and e.confidence is None for e in found if e.status == "unparsable")


@pytest.mark.parametrize(
    "text",
    [
        '{"common_semantic": "x", "certainty": 1}',
        'Prose {with braces} and {"certainty": 0.2}.\n{"common_semantic": "x", "certainty": 1.0}',
        '```json\n{"common_semantic": "x", "certainty": 1.0}\n```\nI hope that {this} helps.',
        '{"common_semantic": "y", "certainty": 0.5} no: {"common_semantic": "x", "certainty": 1.0}',
    ],
)
def test_an_answer_is_found_wherever_it_stands_and_the_last_one_counts(text):
    assert parse(text) == Parsed("x", 1.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I apologize, but no.",
        "{" * 3000,
        '{"common_semantic": "x"}',
        '{"common_semantic": "x", "certainty": true}',
        '{"common_semantic": "x", "certainty": 1.5}',
        '{"common_semantic": "x", "certainty": NaN}',
        '{"common_semantic": " ", "certainty": 0.5}',
        '{"common_semantic": ["x"], "certainty": 0.5}',
        '{"common_semantic": "x", "certainty": 0.5',
    ],
)
def test_what_is_no_answer_is_unparsable_and_never_an_exception(text):
    assert parse(text) is None


def test_replies_keep_their_price_and_odd_characters_do_not_reach_the_label(tmp_path):
    reply = {"content": '{"common_semantic": "a\\u001b[31mb\\nc", "certainty": 0.5}', "model": "m", "input_tokens": 3}
    path = tmp_path / "responses.json"
    path.write_text(json.dumps({"batch": {"7": reply, "8": {"content": None}}}))
    good, bad = SaintReplies().read(path)
    assert (good.latent, good.label, good.evidence["input_tokens"]) == (7, "a[31mb c", 3)
    assert (bad.latent, bad.status) == (8, "unparsable")


@pytest.mark.parametrize(
    "data", [b"no json", b"[1]", b'{"batch": {"seven": {}}}', gzip.compress(b"{}", mtime=0)[:-4], b"\x1f\x8b"]
)
def test_another_kind_of_file_is_refused_in_one_sentence(tmp_path, data):
    path = tmp_path / "x.json"
    path.write_bytes(data)
    with pytest.raises(SpecError, match=r"path = .*, but .*; use a file"):
        list(SaintReplies().read(path))
