"""Manifests: an artifact exists if and only if its manifest does."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from artifacts.errors import ArtifactCorrupt
from artifacts.keys import Artifact, Key, canonical_json, digest_of, key_of


@dataclass(frozen=True)
class File:
    """One file of an artifact."""

    path: str
    """Relative to the artifact's folder, with ``/``."""

    bytes: int
    digest: str
    """SHA-256 of the contents, in hex."""


@dataclass(frozen=True)
class Manifest:
    """What an artifact is made of and from. Created once, last, and never changed."""

    artifact: Artifact
    version: int
    """Of the stage that made it."""

    spec: dict[str, Any]
    inputs: dict[str, Any]
    """Input name to ``stage/key``, or to a list of them."""

    attempt: str
    """The attempt whose folder holds the files."""

    files: tuple[File, ...]
    summary: dict[str, Any] = field(default_factory=dict)
    """Small figures of the stage, for people and for the plan."""

    made_by: dict[str, Any] = field(default_factory=dict)
    """Host, versions, seconds, when: never hashed into the key."""

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.bytes for file in self.files)

    def to_bytes(self) -> bytes:
        """JSON with a digest of itself, so that a flipped byte in it is found like any other."""
        body = asdict(self)
        body["files"] = [asdict(file) for file in self.files]
        text = json.loads(json.dumps(body))
        return json.dumps({**text, "digest": digest_of(canonical_json(text))}, indent=1, sort_keys=True).encode()

    @staticmethod
    def from_bytes(data: bytes, artifact: Artifact) -> Manifest:
        """Read a manifest. Raises ``ArtifactCorrupt`` when it is not what was written for this artifact."""
        try:
            body = json.loads(data)
            said = body.pop("digest")
            found = digest_of(canonical_json(body))
            if said != found:
                raise ArtifactCorrupt(corrupt(artifact, "manifest.json", found, said))
            manifest = Manifest(
                artifact=Artifact(body["artifact"]["stage"], Key(body["artifact"]["key"])),
                version=body["version"],
                spec=body["spec"],
                inputs=body["inputs"],
                attempt=body["attempt"],
                files=tuple(File(**file) for file in body["files"]),
                summary=body["summary"],
                made_by=body["made_by"],
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactCorrupt(
                f"{artifact}: manifest.json cannot be read ({error}), but a manifest is plain JSON; "
                "delete the artifact and run again, or restore it from a copy"
            ) from None
        if manifest.artifact != artifact or manifest.recomputed_key() != artifact.key:
            raise ArtifactCorrupt(
                f"{artifact}: manifest.json is of {manifest.artifact}, but it lies where {artifact} belongs; "
                "delete the artifact and run again"
            )
        return manifest

    def recomputed_key(self) -> Key:
        """The key that this manifest's recipe hashes to."""
        return key_of(self.artifact.stage, self.version, self.spec, self.inputs)


def corrupt(artifact: Artifact | str, path: str, found: str, said: str) -> str:
    """The sentence about bytes that changed."""
    return (
        f"{artifact}: {path} has digest {found[:12]}..., but the manifest says {said[:12]}...; "
        "delete the artifact and run again, or restore it from a copy"
    )


def digest_file(path: Path) -> str:
    """SHA-256 of a file's contents, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_files(folder: Path) -> tuple[File, ...]:
    """Every file below a folder with its size and digest, in path order."""
    found = []
    for top, _, names in os.walk(folder):
        for name in names:
            path = Path(top, name)
            found.append(File(path.relative_to(folder).as_posix(), path.stat().st_size, digest_file(path)))
    return tuple(sorted(found, key=lambda file: file.path))
