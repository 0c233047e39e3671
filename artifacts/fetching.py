"""Files that lie elsewhere and come to this host when somebody reads them.

Readers of artifacts know folders, not backends. A backend that leaves files of a folder for later says here who brings them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Bringer(Protocol):
    """Brings the files of one folder."""

    def missing(self, name: str) -> list[str]:
        """The files that are still elsewhere, of the one called ``name`` or of all below that folder."""

    def bring(self, name: str) -> None:
        """Make a file be there, whole. Raises what the backend raises, and ``FileNotFoundError``."""


_bringers: dict[Path, Bringer] = {}


def offer(folder: Path, bringer: Bringer) -> None:
    """Say who brings the files of a folder."""
    _bringers[folder] = bringer


def pending(path: Path) -> bool:
    """Whether a file, or one below a folder, is not on this host, but can be brought."""
    found = _of(path)
    return found is not None and bool(found[0].missing(found[1]))


def fetched(path: Path) -> Path:
    """The path of a file or folder, once all is there that anybody can bring."""
    found = _of(path)
    if found is not None:
        for name in found[0].missing(found[1]):
            found[0].bring(name)
    return path


def _of(path: Path) -> tuple[Bringer, str] | None:
    for folder in path.parents if _bringers else ():
        if folder in _bringers:
            return _bringers[folder], path.relative_to(folder).as_posix()
    return None
