"""The report in pieces: what does not fit into one file lies beside it, and nothing is lost on the way."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.browse import shelf_of
from benchmarks.report import inputs_of, ran
from tasks import report as stage
from tasks.explainers.base import LatentExamples, Window
from tasks.report import ReportSpec, report
from tasks.reporting.cards import by_quantile, misses
from tasks.reporting.pieces import inside, packed, unpacked, write
from tests.reported import data_of, raw_of

N = 300
HOSTILE = "</script><img src=x onerror=alert(1)><!--\u202e\u2028\x1b[31m\ud800"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Iterator[dict[str, Any]]:
    """What the report is made of. Its plots, which are not looked at here, are drawn once."""
    folder = tmp_path_factory.mktemp("shelf")
    with pytest.MonkeyPatch.context() as patched:
        shells: list[Any] = []
        drawn = stage._page
        patched.setattr(stage, "_page", lambda *given: (shells or shells.append(drawn(*given)) or shells)[0])
        yield inputs_of(shelf_of(folder, N, 16), folder)


def made(inputs: dict[str, Any], folder: Path, room: int | None = None, **spec: Any) -> tuple[str, dict[str, Any]]:
    """A page, and the summary of its stage. ``room``: bytes that the page may take."""
    with pytest.MonkeyPatch.context() as patched:
        if room is not None:
            patched.setattr(stage, "LARGEST", room)
        summary = ran(report, ReportSpec(**spec), inputs, folder)
    return (folder / "report.html").read_text("utf-8"), summary


def plain(data: dict[str, Any]) -> dict[str, Any]:
    return {name: data[name] for name in ("latents", "cards", "first", "best", "worst")}


def test_what_does_not_fit_lies_beside_the_page_and_is_the_same(inputs, tmp_path):
    whole, one = made(inputs, tmp_path / "one")
    assert one["bytes_beside"] == 0 and not (tmp_path / "one" / "latents").exists()
    assert "frame-src" not in whole, "a page that needs no file asks for no right to one"
    largest = 600_000
    parted, several = made(inputs, tmp_path / "several", largest)
    assert several["bytes"] <= largest < one["bytes"] and several["bytes_beside"] > 0
    files = sorted(file.name for file in (tmp_path / "several" / "latents").iterdir())
    assert files == ["00000.html", "00001.html", "00002.html"]
    assert plain(data_of(parted, tmp_path / "several" / "latents")) == plain(data_of(whole))


def test_even_columns_may_lie_beside_the_page_and_are_whole(inputs, tmp_path):
    whole, _ = made(inputs, tmp_path / "one")
    parted, _ = made(inputs, tmp_path / "several", 1)
    assert set(raw_of(parted)["columns"].values()) == {None}
    folder = tmp_path / "several" / "latents"
    assert {"label.html", "score-0.html", "status.html"} <= {file.name for file in folder.iterdir()}
    assert plain(data_of(parted, folder)) == plain(data_of(whole))


def test_all_latents_have_a_card_unless_fewer_are_asked_for(inputs, tmp_path):
    every = data_of(made(inputs, tmp_path / "all")[0])
    assert list(every["cards"]) == list(range(N)) and len(every["latents"]) == N
    some = data_of(made(inputs, tmp_path / "some", n_cards=24)[0])
    assert len(some["cards"]) == 24 and some["kept"] == list(some["cards"]) and len(some["latents"]) == N
    assert {*some["best"], *some["worst"]} <= set(some["kept"])
    assert all(some["cards"][latent] == every["cards"][latent] for latent in some["kept"])


def test_dead_and_refused_latents_are_there_as_what_they_are(inputs, tmp_path):
    data = data_of(made(inputs, tmp_path)[0])
    statuses = {row["status"] for row in data["latents"]}
    assert {"ok", "dead", "refused"} <= statuses
    dead = next(row["latent"] for row in data["latents"] if row["status"] == "dead")
    card = data["cards"][dead]
    assert card["fires"] == 0 and card["quantiles"] == [] and card["bins"] == [] and len(card["nearest"]) == 5


def test_a_piece_forbids_itself_all_but_its_own_line(tmp_path):
    write(packed([HOSTILE]), tmp_path, "00000")
    text = (tmp_path / "00000.html").read_text("utf-8")
    assert re.search(r"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-[^']+'", text) and "frame-src" not in text
    assert text.count("<script") == text.count("</script") == 2 and "<img" not in text
    assert unpacked(raw_of(text))[0].startswith("</script><img src=x onerror")


@pytest.mark.parametrize("n", [1, 10_000])
def test_whatever_is_packed_comes_back(n):
    value = {"text": "äß\u2028</script>" * n, "numbers": [1, 0.5, None]}
    assert unpacked(packed(value)) == value
    assert isinstance(packed(value), str) == (n > 1), "only what is long is compressed"


def test_pieces_are_inside_while_they_fit_and_all_outside_when_one_does_not(tmp_path):
    packs = [[i] * 10 for i in range(5)]
    assert inside(iter(packs), 105, tmp_path) == packs and not list(tmp_path.iterdir())
    assert inside(iter(packs), 104, tmp_path) is None
    found = [raw_of(file.read_text("utf-8")) for file in sorted(tmp_path.iterdir())]
    assert found == packs


def window(quantile: int, value: float, group: str = "quantile", split: str = "train") -> Window:
    return Window(f"{split}/{group}/{value}", split, group, quantile, 0, ("a", "b"), (0.0, value), 1)


def test_each_quantile_shows_its_own_windows_spread_over_its_range():
    strong = [window(0, 9 - i / 10) for i in range(5)]
    weak = [window(3, 4 - i / 10) for i in range(6)]
    found = LatentExamples(0, 11, 0.1, 9.0, (*weak, *strong, window(1, 8, split="test")))
    first, second = by_quantile(found, 2, 3)
    assert (first.number, first.n, first.high, first.low) == (0, 4, 9.0, 8.6) and first.windows == strong[:2]
    assert (second.number, second.windows) == (3, [weak[0], weak[2], weak[4]])


def test_random_windows_stand_for_near_misses_only_where_there_are_none():
    random, near = window(-1, 0.0, "random"), window(-1, 0.0, "near_miss")
    assert misses(LatentExamples(0, 1, 0.1, 1.0, (random, near)), 5) == [near]
    assert misses(LatentExamples(0, 1, 0.1, 1.0, (random,)), 5) == [random]
