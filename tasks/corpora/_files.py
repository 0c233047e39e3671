"""Files that a user names: a path or a glob, checked when a run is composed."""

from __future__ import annotations

import glob
from pathlib import Path

from tasks.spec import SpecError


def named_files(path: str | None, kind: str) -> list[Path]:
    """The files that ``corpus.path`` means, sorted. Raises ``SpecError`` when there are none."""
    if not path:
        raise SpecError(f"corpus.path = {path!r}, but corpus {kind!r} reads files; set corpus.path to a file or a glob")
    found = sorted(Path(p) for p in glob.glob(str(Path(path).expanduser()), recursive=True))
    files = [p for p in found if p.is_file()]
    if not files:
        folder = " (it is a folder; add /*.parquet or the like)" if found else ""
        raise SpecError(f"corpus.path = {path!r}, but no file is there{folder}; name a file, or a glob in quotes")
    return files
