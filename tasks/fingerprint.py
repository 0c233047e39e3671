"""Fingerprints of files outside the store, so that a key follows their contents and not their names or dates.

A file of up to 64 MiB is hashed whole. A larger one is hashed in its size, its first and last MiB and 256 blocks of
64 KiB spread evenly over it: weights that were trained on differ everywhere, so this tells models apart without
reading 100 GB for a plan. It is no proof against a forger.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

WHOLE_BYTES = 64 << 20
_EDGE = 1 << 20
_BLOCK = 64 << 10
_BLOCKS = 256


def fingerprint(path: str | Path, suffixes: Iterable[str] | None = None) -> str:
    """SHA-256 over a file, or over all files of a folder with their names (only those with ``suffixes``, if given)."""
    path = Path(path)
    if path.is_file():
        return _file(path).hex()
    wanted = tuple(suffixes) if suffixes is not None else ("",)
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.name.endswith(wanted) and not _hidden(p, path))
    return fingerprint_files(files, path)


def fingerprint_files(files: Iterable[Path], top: Path | None = None) -> str:
    """SHA-256 over some files in order, with their names below ``top`` where it is given, else of contents alone."""
    total = hashlib.sha256()
    for file in files:
        name = file.relative_to(top).as_posix() if top else ""
        total.update(len(name).to_bytes(8, "big") + name.encode() + _file(file))
    return total.hexdigest()


def _hidden(path: Path, top: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(top).parts)


def _file(path: Path) -> bytes:
    size = path.stat().st_size
    found = hashlib.sha256(size.to_bytes(8, "big"))
    with open(path, "rb") as file:
        if size <= WHOLE_BYTES:
            while data := file.read(_EDGE):
                found.update(data)
        else:
            starts = [(0, _EDGE), (size - _EDGE, _EDGE)]
            starts += [((size - _BLOCK) * i // (_BLOCKS - 1), _BLOCK) for i in range(_BLOCKS)]
            for start, length in starts:
                file.seek(start)
                found.update(file.read(length))
    return found.digest()
