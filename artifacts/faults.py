"""What can be wrong with the files of an artifact."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from artifacts.keys import Artifact
from artifacts.manifest import File, corrupt, digest_file


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with an artifact."""

    artifact: Artifact
    path: str
    chunk: str | None
    """The Zarr chunk, where the file holds several."""

    why: str

    def __str__(self) -> str:
        return self.why


def checks_itself(path: str) -> bool:
    """Whether a file is a Zarr chunk file, whose checksums are verified when its chunks are read."""
    return ".zarr/" in path and "/c/" in path


def fault_of(artifact: Artifact, folder: Path, file: File, *, contents: bool) -> str | None:
    """What is wrong with a file, or None. Without ``contents`` only its presence and size are looked at."""
    path = folder / file.path
    mend = "delete the artifact and run again, or restore it from a copy"
    if not path.is_file():
        return f"{artifact}: {file.path} is missing, but the manifest lists it; {mend}"
    size = path.stat().st_size
    if size != file.bytes:
        return f"{artifact}: {file.path} has {size} bytes, but the manifest says {file.bytes}; {mend}"
    if contents and (found := digest_file(path)) != file.digest:
        return corrupt(artifact, file.path, found, file.digest)
    return None


def damaged_chunks(folder: Path, file: File) -> list[str]:
    """Names of the Zarr chunks in a file whose checksums fail."""
    if not checks_itself(file.path):
        return []
    from artifacts.activations import damaged

    top = folder / (file.path.split(".zarr/")[0] + ".zarr")
    return [chunk for path, chunk, _ in damaged(top) if (top / path) == folder / file.path or file.path.endswith(path)]
