"""The files that latents go out in: written batch by batch, the same bytes whenever the same is written."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.progress import Progress
from tasks.sharing import saedashboard
from tasks.sharing.gathered import gathered
from tasks.sharing.neuronpedia import Place, Row

if TYPE_CHECKING:
    from tasks.browsing.index import Index

_LEVEL = 5
"""Of gzip: half the time of the usual 9, for some per cent more bytes."""

_FOREIGN = re.compile(r"[^\x00-\x7f]+")


def write_neuronpedia(
    index: Index, place: Place, about: dict[str, Row], latents: Sequence[int], folder: Path, n_batch: int, progress: Progress
) -> dict[str, int]:
    """Write ``<model>/<source>`` below a folder; returns how many rows of each table. ``about``: the single rows, by file.

    Raises ``SpecError`` for a latent that Neuronpedia would not take.
    """
    top = folder / place.model / place.source
    top.mkdir(parents=True)
    for name, row in about.items():
        (top / f"{name}.jsonl").write_text(_line(row))
    mine = str(index.shelf.mine.artifact)
    n = {"latents": 0, "activations": 0, "explanations": 0, "scores": 0}
    with progress.bar("export", len(latents), "latents") as bar:
        for i, batch in enumerate(gathered(index, latents, n_batch)):
            tables: dict[str, Iterator[Row]] = {
                "features": (place.feature(it) for it in batch),
                "activations": (place.activation(it, shown, mine) for it in batch for shown in it.shown),
                "explanations": (place.explanation(it, word) for it in batch for word in it.words),
                "explanation-scores": (place.scored(it) for it in batch if it.words),
            }
            for table, rows in tables.items():
                _write_gzip(top / table / f"batch-{i}.jsonl.gz", rows)
            n["latents"] += len(batch)
            n["activations"] += sum(len(it.shown) for it in batch)
            n["explanations"] += sum(len(it.words) for it in batch)
            n["scores"] += sum(len(word.scores) for it in batch for word in it.words)
            bar.advance(len(batch))
    return n


def write_saedashboard(
    index: Index, latents: Sequence[int], folder: Path, n_batch: int, progress: Progress
) -> dict[str, int]:
    """Write ``sae_vis_data-N.json`` into a folder; returns how many latents and sequences."""
    folder.mkdir(parents=True)
    ids = saedashboard.Ids(index)
    n = {"latents": 0, "sequences": 0}
    with progress.bar("export", len(latents), "latents") as bar:
        for i, batch in enumerate(gathered(index, latents, n_batch)):
            data = saedashboard.vis_data(batch, ids)
            (folder / f"sae_vis_data-{i}.json").write_text(json.dumps(data, allow_nan=False))
            n["latents"] += len(batch)
            n["sequences"] += sum(len(it.shown) for it in batch)
            bar.advance(len(batch))
    return n


def _write_gzip(path: Path, rows: Iterable[Row]) -> None:
    """Lines, if there are any: the importer looks for the columns in the first. No name and no time in the header."""
    lines = "".join(map(_line, rows))
    if lines:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress(lines.encode(), _LEVEL, mtime=0))


def _line(row: Row) -> str:
    """All but ASCII escaped: some readers take other signs than ours for the end of a line."""
    text = row.model_dump_json()  # a third of the time of json.dumps
    return (text if text.isascii() else _FOREIGN.sub(lambda found: json.dumps(found[0])[1:-1], text)) + "\n"


def files_of(folder: Path) -> list[dict[str, Any]]:
    """Path and size of each file below a folder, sorted."""
    found = sorted(p for p in folder.rglob("*") if p.is_file())
    return [{"path": p.relative_to(folder).as_posix(), "bytes": p.stat().st_size} for p in found]
