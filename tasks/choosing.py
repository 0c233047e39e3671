"""Which latents: all of them, a range, a list, those named in a file, or the most interesting."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.lazy import pq
from tasks.mining.interest import most_interesting
from tasks.spec import SpecError

if TYPE_CHECKING:
    from artifacts.store import Opened

_ENDINGS = (".txt", ".csv", ".json", ".parquet")


def parsed_latents(latents: Any, where: str = "explain.latents") -> str | tuple[int, ...]:
    """A choice of latents in its one spelling: ``all``, ``first:past``, ``top:n``, or ascending numbers.

    ``file:PATH``, or a path that ends in .txt, .csv, .json or .parquet, is read here and becomes numbers. Raises
    ``SpecError``.
    """
    if isinstance(latents, int) and not isinstance(latents, bool):
        latents = [latents]
    if isinstance(latents, str):
        text = latents.replace(" ", "")
        if text == "all" or (re.fullmatch(r"\d*:\d*", text) and text != ":"):
            return text
        if found := re.fullmatch(r"top:0*([1-9][0-9]*)", text):
            return f"top:{found[1]}"
        if named_in_file(latents):
            return _in_file(latents.removeprefix("file:"), latents, where)
        raise SpecError(
            f"{where} = {latents!r}, but a choice of latents is all, a range such as 0:100 (the last is left out), "
            "a list such as [3,17], top:100 for the most interesting, or file:PATH; write one of these"
        )
    numbers = list(latents) if isinstance(latents, (list, tuple)) else [None]
    if not numbers or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in numbers):
        raise SpecError(f"{where} = {latents!r}, but a list of latents holds numbers from 0 up; write it as in [3,17]")
    return tuple(sorted(set(numbers)))


def named_in_file(latents: Any) -> bool:
    """Whether a choice names a file with latents."""
    return isinstance(latents, str) and (latents.startswith("file:") or latents.endswith(_ENDINGS))


def selected(latents: str | Sequence[int], n_latents: int, where: str = "explain.latents") -> range | list[int]:
    """The latents of a range or list, ascending; ``chosen`` does any choice. Raises ``SpecError`` for what the SAE lacks."""
    if latents == "all":
        return range(n_latents)
    if isinstance(latents, str):
        first, past = latents.split(":")
        found = range(int(first or 0), int(past or n_latents))
        if not found or found.stop > n_latents:
            raise SpecError(
                f"{where} = {latents!r}, but the SAE has latents 0 to {n_latents - 1}; use a range within 0:{n_latents}"
            )
        return found
    if latents and max(latents) >= n_latents:
        raise SpecError(
            f"{where} = {_few(latents)}, but the SAE has latents 0 to {n_latents - 1}; leave out {max(latents)}"
        )
    return list(latents)


def chosen(latents: str | Sequence[int], mined: Opened, where: str = "explain.latents") -> range | list[int]:
    """The latents of any choice, ascending. ``mined``: a mine artifact, which says which are interesting.

    Raises ``SpecError``, also when there is nothing interesting.
    """
    file = mined.path / "latents.parquet"
    n_top = _top(latents)
    if n_top is None:
        return selected(latents, pq.read_metadata(file).num_rows, where)
    found = most_interesting(pq.read_table(file), n_top)
    if not found:
        raise SpecError(
            f"{where} = {latents!r}, but no latent of {mined.artifact} fires often enough, and on few enough tokens, to be "
            "called interesting; use a range such as 0:100"
        )
    return found


def counted(latents: str | Sequence[int], n_latents: int, where: str = "explain.latents") -> int:
    """How many latents a choice comes to, ``top:n`` at most. Raises ``SpecError`` for what the SAE lacks."""
    n_top = _top(latents)
    return len(selected(latents, n_latents, where)) if n_top is None else min(n_top, n_latents)


def _top(latents: str | Sequence[int]) -> int | None:
    return int(latents[4:]) if isinstance(latents, str) and latents.startswith("top:") else None


def _in_file(path: str, typed: str, where: str) -> tuple[int, ...]:
    file = Path(path).expanduser()
    if not file.is_file():
        raise SpecError(f"{where} = {typed!r}, but no such file is there; name one that lists latents")
    try:
        values = _READERS.get(file.suffix, _of_text)(file)
    except (ValueError, TypeError, OSError, RecursionError, csv.Error) as error:
        why = " ".join(str(error).split())
        raise SpecError(f"{where} = {typed!r}, but the file cannot be read ({why[:200]}); list latents in it") from None
    numbers = []
    for value in values:
        text = str(value).strip()
        if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,9}(\.0*)?", text):
            raise SpecError(f"{where} = {typed!r}, but {text[:40]!r} in it is no latent; list numbers from 0 up")
        numbers.append(int(float(text)))
    if not numbers:
        raise SpecError(f"{where} = {typed!r}, but it lists no latents; name a file with some")
    return tuple(sorted(set(numbers)))


def _of_text(file: Path) -> Sequence[Any]:
    """Numbers apart by white space or commas; from ``#`` to the end of a line is a remark."""
    return re.sub(r"#.*", "", file.read_text("utf-8-sig")).replace(",", " ").split()


def _of_csv(file: Path) -> Sequence[Any]:
    """The column ``latent``, or the first one; a header is a first line that is no number there."""
    with file.open(encoding="utf-8-sig", newline="") as lines:
        rows = [row for row in csv.reader(lines) if row]
    header = rows[0] if rows and not rows[0][0].strip().isdigit() else []
    at = header.index("latent") if "latent" in header else 0
    return [row[at] if at < len(row) else "" for row in rows[bool(header) :]]


def _of_json(file: Path) -> Sequence[Any]:
    """An array of numbers, or of objects with ``latent``; or an object with such an array as ``latents``."""
    found = json.loads(file.read_bytes())
    found = found.get("latents") if isinstance(found, dict) else found
    if not isinstance(found, list):
        raise ValueError("it holds no array of latents")
    return [entry.get("latent") if isinstance(entry, dict) else entry for entry in found]


def _of_parquet(file: Path) -> Sequence[Any]:
    """The column ``latent``, as all tables of ours have it."""
    if "latent" not in (names := pq.read_schema(file).names):
        raise ValueError(f"it has columns {', '.join(names)}, and no latent")
    return pq.read_table(file, columns=["latent"])["latent"].to_pylist()


_READERS = {".csv": _of_csv, ".json": _of_json, ".parquet": _of_parquet}


def _few(latents: Sequence[int]) -> str:
    """A list as it is typed, without the middle of a long one."""
    return str(list(latents)) if len(latents) <= 12 else f"[{', '.join(map(str, latents[:3]))}, ..., {latents[-1]}]"
