"""Explanations in files: of an earlier run, of SAINT's first version, of Neuronpedia, or written by hand.

===================  ==================================================================================================
``.parquet``         columns latent, label; an explain artifact's also status, confidence, predicate, evidence, and of
                     which SAE they are
``.csv``, ``.tsv``   a header with latent and label, and columns as above
``.jsonl``           an object with such fields on each line
``.json``            an array of such objects, or an object of labels by latent; SAINT's ``aggregated_*.json`` and
                     ``responses_*.json``
===================  ==================================================================================================

Latents may also be called ``index`` or ``feature``, and labels ``description`` or ``explanation``, as in Neuronpedia's
exports. All but Parquet may be gzipped.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from tasks.explainers.base import Explanation, fraction, one_line
from tasks.fingerprint import fingerprint
from tasks.lazy import pq
from tasks.spec import SpecError

ORIGIN = b"saint"
"""Name in a Parquet file's metadata under which ``explain`` writes of which SAE its explanations are."""

_LATENT, _LABEL = ("latent", "index", "feature"), ("label", "description", "explanation")
_STATUS = re.compile(r"[a-z][a-z_]{0,39}")


@dataclass(frozen=True)
class Loaded:
    """The explanations of a file, and of what they are."""

    explanations: Mapping[int, Explanation]
    sae: str | None = None
    """Address of the artifact with the SAE, where the file says it."""

    n_latents: int | None = None
    """Of that SAE."""

    @cached_property
    def ok(self) -> tuple[Explanation, ...]:
        """Those that say something, in the order of their latents."""
        return tuple(found for _, found in sorted(self.explanations.items()) if found.status == "ok")


def explanation_file(path: str | None) -> Path:
    """The file that ``explainer.path`` means: itself, or in an explain artifact's folder. Raises ``SpecError``."""
    if not path:
        raise SpecError(
            f"explainer.path = {path!r}, but explanations come from a file; "
            "set explainer.path to one, or to the folder of an explain artifact"
        )
    found = Path(path).expanduser()
    if found.is_file():
        return found
    if not found.is_dir():
        raise SpecError(f"explainer.path = {path!r}, but nothing is there; name a file, or the folder of an explain artifact")
    data = found
    if (manifest := found / "manifest.json").is_file():
        try:
            data = found / "attempts" / Path(json.loads(manifest.read_bytes())["attempt"]).name / "data"
        except (ValueError, KeyError, TypeError):
            raise SpecError(f"explainer.path = {path!r}, but its manifest.json is none; name the file itself") from None
    if not (data / "explanations.parquet").is_file():
        raise SpecError(f"explainer.path = {path!r}, but the folder holds no explanations.parquet; name a file with some")
    return data / "explanations.parquet"


def loaded(path: str | None, expected: str | None = None) -> Loaded:
    """The explanations of a file, cleaned. Raises ``SpecError``, also when its fingerprint is not the one ``expected``."""
    file = explanation_file(path)
    about = file.stat()
    if expected is not None and (now := _fingerprint(file, about.st_size, about.st_mtime_ns)) != expected:
        raise SpecError(
            f"explainer.path = {path!r}, but its contents changed since the run was composed "
            f"(fingerprint {expected[:12]}, now {now[:12]}); give the command again"
        )
    return _loaded(file, about.st_size, about.st_mtime_ns)


@lru_cache(16)
def _fingerprint(file: Path, size: int, changed: int) -> str:
    return fingerprint(file)


@lru_cache(4)
def _loaded(file: Path, size: int, changed: int) -> Loaded:
    sae = n_latents = None
    try:
        if file.suffix == ".parquet":
            entries, sae, n_latents = _parquet(file)
        else:
            entries = list(_of_text(file))
    except (ValueError, TypeError, KeyError, OSError, EOFError, RecursionError, csv.Error, zlib.error) as error:
        why = one_line(str(error), 300)
        raise SpecError(f"explainer.path = {str(file)!r}, but {why}; mend the file, or name another") from None
    found: dict[int, Explanation] = {}
    for entry in entries:
        old = found.setdefault(entry.latent, entry)
        if (old.status, old.label) != (entry.status, entry.label):
            raise SpecError(
                f"explainer.path = {str(file)!r}, but it explains latent {entry.latent} twice, in different words; "
                "leave one explanation per latent"
            )
    if not found:
        raise SpecError(f"explainer.path = {str(file)!r}, but it holds no explanations; name a file with some")
    return Loaded(found, sae, n_latents)


def _parquet(file: Path) -> tuple[list[Explanation], str | None, int | None]:
    parquet = pq.ParquetFile(file)
    said = (parquet.schema_arrow.metadata or {}).get(ORIGIN)
    origin = json.loads(said) if said else {}
    sae, n_latents = (origin.get(name) if isinstance(origin, dict) else ... for name in ("sae", "n_latents"))
    if not (isinstance(sae, str | None) and isinstance(n_latents, int | None)):
        raise ValueError("its metadata do not say of which SAE it is in the way that SAINT writes it")
    known = {*_LATENT, *_LABEL, "status", "confidence", "predicate", "evidence"}
    rows = parquet.read(columns=[n for n in parquet.schema_arrow.names if n in known]).to_pylist()
    return [_explanation(row, f"row {i}", own=bool(origin)) for i, row in enumerate(rows)], sae, n_latents


def _of_text(file: Path) -> Iterator[Explanation]:
    data = file.read_bytes()
    text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
    kind = next((s for s in reversed(file.suffixes) if s != ".gz"), "")
    if kind in (".csv", ".tsv"):
        rows = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if kind == ".tsv" else ",")
        yield from _explanations(rows, "row")
    elif kind in (".jsonl", ".ndjson"):
        yield from _explanations((json.loads(line) for line in text.split("\n") if line.strip()), "line")
    elif kind == ".json":
        yield from _of_json(json.loads(text), file)
    else:
        raise ValueError(f"{kind or 'a name without an ending'} is not read; it may be .parquet, .csv, .tsv, .jsonl or .json")


def _of_json(found: Any, file: Path) -> Iterator[Explanation]:
    if isinstance(found, list):
        yield from _explanations(found, "entry")
        return
    if not isinstance(found, dict):
        raise ValueError("its JSON is neither an array nor an object")
    first = next(iter(found.values()), None)
    if isinstance(first, dict):
        from tasks.explainers._saint_replies import SaintReplies

        if "common_semantic" in first:
            aggregate = SaintReplies().aggregate(file).items()
            rows = [{"latent": n, "label": said, "confidence": sure} for n, (said, sure) in aggregate]
            yield from _explanations(rows, "entry")
        else:
            yield from SaintReplies().read(file)
    else:
        yield from _explanations(({"latent": name, "label": label} for name, label in found.items()), "entry")


def _explanations(rows: Iterable[Any], what: str) -> Iterator[Explanation]:
    for i, row in enumerate(rows, 1):
        yield _explanation(row, f"{what} {i}")


def _explanation(row: Any, where: str, own: bool = False) -> Explanation:
    """``own``: from a file that ``explain`` wrote, whose evidence has a shape that others rely on."""
    if not isinstance(row, Mapping):
        raise ValueError(f"{where} is no object with latent and label")
    names = [next((n for n in some if n in row), None) for some in (_LATENT, _LABEL)]
    if None in names:
        raise ValueError(f"{where} has {', '.join(map(str, row)) or 'no fields'}, and no {'label' if names[0] else 'latent'}")
    latent, label = _number(row[names[0]], where), row[names[1]]
    if label is not None and not isinstance(label, str):
        raise ValueError(f"{where} has label {label!r}, which is no text")
    said = one_line(label or "", 1000)
    status = row.get("status") or ("ok" if said else "not_in_file")
    if not isinstance(status, str) or not _STATUS.fullmatch(status):
        raise ValueError(f"{where} has status {status!r}, which is no word such as ok or refused")
    if status != "ok" or not said:
        return Explanation(latent, status if status != "ok" else "not_in_file")
    predicate = _predicate(row.get("predicate"), where)
    evidence = json.loads(row.get("evidence") or "{}") if own else {}
    return Explanation(latent, "ok", said, _confidence(row.get("confidence")), predicate, evidence)


def _number(value: Any, where: str) -> int:
    """A latent, written as a number of any sort."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}(\.0*)?", value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value // 1 or not 0 <= value < 2**31:
        raise ValueError(f"{where} has latent {value!r}, and latents are numbers from 0 up")
    return int(value)


def _confidence(value: Any) -> float | None:
    try:
        return fraction(float(value) if isinstance(value, str) else value)
    except ValueError:
        return None


def _predicate(value: Any, where: str) -> dict[str, Any] | None:
    found = json.loads(value) if isinstance(value, str) and value else value or None
    terms = found.get("any") if isinstance(found, dict) and set(found) == {"any"} else None
    if found is not None and not (isinstance(terms, list) and all(isinstance(t, str) and ":" in t for t in terms)):
        raise ValueError(f"{where} has a predicate that is no rule of terms, as in {{\"any\": [\"word:file\"]}}")
    return found
