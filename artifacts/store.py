"""The store: content-addressed artifacts that exist whole or not at all.

Layout below the root::

    <stage>/<kk>/<key>/manifest.json                    created if absent, last: the artifact exists from here on
    <stage>/<kk>/<key>/attempts/<attempt>/data/...      the files of the artifact
    <stage>/<kk>/<key>/attempts/<attempt>/scratch/...   checkpoints, gone at commit (in a bucket: <name>.kept/...,
                                                        which is one once <name>.kept.json names its files)
    leases/<stage>-<key>.json                           who is making it now
    journal/...                                         paid requests and their answers (artifacts.journal)
    runs/...                                            what each run did (flows)

A crash leaves an attempt without a manifest, which the next attempt may take checkpoints from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifacts.attempt import Attempt
from artifacts.backends.base import Backend
from artifacts.backends.local import Local
from artifacts.errors import ArtifactCorrupt, ArtifactNotFound
from artifacts.faults import Fault, checks_itself, damaged_chunks, fault_of
from artifacts.fetching import pending
from artifacts.keys import Artifact, Key
from artifacts.lease import Lease, dead
from artifacts.manifest import Manifest


@dataclass(frozen=True)
class Opened:
    """An artifact that exists, open for reading."""

    manifest: Manifest
    path: Path
    """Local folder with its files."""

    @property
    def artifact(self) -> Artifact:
        return self.manifest.artifact

    @property
    def summary(self) -> dict[str, Any]:
        return self.manifest.summary


class Store:
    """Artifacts by address, over a backend."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._checked: set[tuple[Artifact, str]] = set()

    @staticmethod
    def at(root: str | Path) -> Store:
        """The store in a local folder, which need not exist yet."""
        return Store(Local(root))

    @staticmethod
    def home(artifact: Artifact) -> str:
        """The folder of an artifact, relative to the root."""
        return f"{artifact.stage}/{artifact.key[:2]}/{artifact.key}"

    def find(self, artifact: Artifact) -> Manifest | None:
        """The manifest, or None when the artifact does not exist. Raises ``ArtifactCorrupt`` for a damaged one."""
        data = self.backend.read(f"{self.home(artifact)}/manifest.json")
        return None if data is None else Manifest.from_bytes(data, artifact)

    def open(self, artifact: Artifact) -> Opened:
        """The artifact for reading, its bytes checked against the manifest.

        Zarr chunk files are not read through here: their own checksums are verified as chunks are read.
        Raises ``ArtifactNotFound`` and ``ArtifactCorrupt``.
        """
        manifest = self.find(artifact)
        if manifest is None:
            raise ArtifactNotFound(f"{artifact} does not exist, but it is needed; run the stage that makes it")
        sizes = {file.path: file.bytes for file in manifest.files}
        later = {path for path in sizes if checks_itself(path)}
        folder = self.backend.folder(self._data(manifest), sizes, later)
        if (artifact, manifest.attempt) not in self._checked:
            if self._first_fault(manifest, folder):  # perhaps only in a copy that lay here: fetch anew
                folder = self.backend.folder(self._data(manifest))
                if why := self._first_fault(manifest, folder):
                    raise ArtifactCorrupt(why)
            self._checked.add((artifact, manifest.attempt))
        return Opened(manifest, folder)

    def _first_fault(self, manifest: Manifest, folder: Path) -> str | None:
        for file in manifest.files:
            if not pending(folder / file.path):
                why = fault_of(manifest.artifact, folder, file, contents=not checks_itself(file.path))
                if why:
                    return why
        return None

    def _data(self, manifest: Manifest) -> str:
        return f"{self.home(manifest.artifact)}/attempts/{manifest.attempt}/data"

    def begin(self, artifact: Artifact, recipe: Mapping[str, Any], ttl: float = 60.0) -> Attempt | None:
        """Start making an artifact. None when it exists by now. Raises ``ArtifactBusy``.

        ``recipe`` is ``Recipe.json``: stage, version, spec, inputs.
        """
        lease = Lease.acquire(self.backend, artifact, ttl)
        try:
            if self.find(artifact) is not None:
                lease.release()
                return None
            return Attempt(self, artifact, recipe, lease)
        except BaseException:
            lease.release()
            raise

    @contextmanager
    def writing(self, artifact: Artifact, recipe: Mapping[str, Any], ttl: float = 60.0) -> Iterator[Attempt]:
        """An attempt that is committed at the end of the block, and abandoned if the block raises.

        Raises ``ArtifactBusy``, and ``FileExistsError`` when the artifact exists already.
        """
        attempt = self.begin(artifact, recipe, ttl)
        if attempt is None:
            raise FileExistsError(f"{artifact} exists already; open it instead")
        try:
            yield attempt
            attempt.commit({})
        except BaseException:
            attempt.abandon()
            raise

    def artifacts(self) -> Iterator[Artifact]:
        """Every artifact that exists."""
        for path in self.backend.paths():
            parts = path.split("/")
            if len(parts) == 4 and parts[3] == "manifest.json" and len(parts[2]) == 64:
                yield Artifact(parts[0], Key(parts[2]))

    def verify(self, artifact: Artifact) -> list[Fault]:
        """Everything that is wrong with an artifact, every byte read. Empty when nothing is."""
        try:
            manifest = self.find(artifact)
        except ArtifactCorrupt as error:
            return [Fault(artifact, "manifest.json", None, str(error))]
        if manifest is None:
            return [Fault(artifact, "manifest.json", None, f"{artifact} does not exist; run the stage that makes it")]
        folder = self.backend.folder(self._data(manifest))
        faults = []
        for file in manifest.files:
            why = fault_of(artifact, folder, file, contents=True)
            if why:
                chunks = damaged_chunks(folder, file) or [None]
                for chunk in chunks:
                    named = why if chunk is None else why.replace(f": {file.path}", f": {file.path}, chunk {chunk},", 1)
                    faults.append(Fault(artifact, file.path, chunk, named))
        known = {file.path for file in manifest.files}
        for extra in sorted(p for p in folder.rglob("*") if p.is_file()):
            name = extra.relative_to(folder).as_posix()
            if name not in known:
                why = f"{artifact}: {name} is not in the manifest, but lies in its folder; remove it"
                faults.append(Fault(artifact, name, None, why))
        return faults

    def delete(self, artifact: Artifact) -> None:
        """Remove an artifact. The manifest goes first, so that it never half exists."""
        self.backend.delete(f"{self.home(artifact)}/manifest.json")
        self.backend.delete(self.home(artifact))
        self._checked = {entry for entry in self._checked if entry[0] != artifact}

    def sweep(self, artifact: Artifact, manifest: Manifest, attempt: str | None = None) -> None:
        """Remove what the attempts at an artifact left, but for the files that its manifest names.

        ``attempt`` may have left what only this host has.
        """
        top = f"{self.home(artifact)}/attempts"
        left = {path[len(top) + 1 :].split("/")[0] for path in self.backend.paths(top)}
        for id in {*left, manifest.attempt, *([attempt] if attempt else [])}:
            self.backend.delete(f"{top}/{id}/scratch" if id == manifest.attempt else f"{top}/{id}")

    def tidy(self) -> None:
        """Remove the leases of the dead, and what those left who died between their commit and its last sweep."""
        for path, raw in dead(self.backend):
            stage, key = path.rsplit("/", 1)[1].removesuffix(".json").rsplit("-", 1)
            artifact = Artifact(stage, Key(key))
            manifest = self.find(artifact)
            if manifest is not None:
                self.sweep(artifact, manifest)
            self.backend.swap(path, raw, None)
