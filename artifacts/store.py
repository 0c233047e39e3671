"""The store: content-addressed artifacts that exist whole or not at all.

Layout below the root::

    <stage>/<kk>/<key>/manifest.json                    created if absent, last: the artifact exists from here on
    <stage>/<kk>/<key>/attempts/<attempt>/data/...      the files of the artifact
    <stage>/<kk>/<key>/attempts/<attempt>/scratch/...   checkpoints, gone at commit
    leases/<stage>-<key>.json                           who is making it now
    journal/...                                         paid requests and their answers (artifacts.journal)
    runs/...                                            what each run did (flows)

A crash leaves an attempt without a manifest, which the next attempt may take checkpoints from.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifacts.backends.base import Backend
from artifacts.backends.local import Local
from artifacts.errors import ArtifactCorrupt, ArtifactNotFound
from artifacts.keys import Artifact, Key
from artifacts.lease import Lease, dead
from artifacts.manifest import File, Manifest, corrupt, digest_file, list_files


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


class Attempt:
    """One try at making an artifact: a folder to fill, then ``commit``."""

    def __init__(self, store: Store, artifact: Artifact, recipe: Mapping[str, Any], lease: Lease) -> None:
        self._store, self.artifact, self._recipe, self._lease = store, artifact, recipe, lease
        self.id = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:8]}"
        self._home = f"{store.home(artifact)}/attempts/{self.id}"
        self.path = store.backend.work(f"{self._home}/data")
        """Everything in this folder becomes the artifact."""
        self.scratch = store.backend.work(f"{self._home}/scratch")
        """For checkpoints; outlives a crash, ends with the commit."""
        self._started = time.monotonic()

    def check(self) -> None:
        """Raise ``LeaseLost`` when another process has taken over this artifact."""
        self._lease.check()

    def recover(self, name: str) -> Path | None:
        """The newest file or folder of that name which a dead attempt left in its scratch, copied into ours.

        Copied, not moved: an attempt thought dead may only be stopped, and must not write into our files.
        """
        attempts = self.scratch.parent.parent
        left = [
            found
            for other in attempts.iterdir()
            if other.name != self.id and (found := other / "scratch" / name).exists()
        ]
        if not left:
            return None
        newest = max(left, key=lambda found: found.stat().st_mtime_ns)
        target = self.scratch / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if newest.is_dir():
            shutil.copytree(newest, target, dirs_exist_ok=True)
        else:
            shutil.copy2(newest, target)
        return target

    def commit(self, summary: Mapping[str, Any], made_by: Mapping[str, Any] | None = None) -> Manifest:
        """Make the artifact exist. If another was first, adopt theirs. Raises ``LeaseLost``."""
        store = self._store
        files = list_files(self.path)
        store.backend.publish(f"{self._home}/data")
        self._lease.check()
        manifest = Manifest(
            artifact=self.artifact,
            version=self._recipe["version"],
            spec=self._recipe["spec"],
            inputs=self._recipe["inputs"],
            attempt=self.id,
            files=files,
            summary=dict(summary),
            made_by={
                **(made_by or {}),
                "seconds": round(time.monotonic() - self._started, 3),
                "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "fence": self._lease.fence,
            },
        )
        store.backend.create(f"{store.home(self.artifact)}/manifest.json", manifest.to_bytes())
        winner = store.find(self.artifact)
        assert winner is not None
        store.sweep(self.artifact, winner)
        self._lease.release()
        return winner

    def abandon(self) -> None:
        """Give up: the lease is free, checkpoints stay for the next attempt."""
        if not any(self.scratch.iterdir()):
            self._store.backend.delete(self._home)
        self._lease.release()


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
        opened = Opened(manifest, self.backend.folder(self._data(manifest)))
        if (artifact, manifest.attempt) not in self._checked:
            for file in manifest.files:
                why = _fault(artifact, opened.path, file, contents=not checks_itself(file.path))
                if why:
                    raise ArtifactCorrupt(why)
            self._checked.add((artifact, manifest.attempt))
        return opened

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
            why = _fault(artifact, folder, file, contents=True)
            if why:
                chunks = _damaged_chunks(folder, file) or [None]
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

    def sweep(self, artifact: Artifact, manifest: Manifest) -> None:
        """Remove what the attempts at an artifact left, but for the files that its manifest names."""
        top = f"{self.home(artifact)}/attempts"
        for attempt in {path[len(top) + 1 :].split("/")[0] for path in self.backend.paths(top)}:
            keep = attempt == manifest.attempt
            self.backend.delete(f"{top}/{attempt}/scratch" if keep else f"{top}/{attempt}")
        scratch = self.backend.work(f"{top}/{manifest.attempt}") / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)

    def tidy(self) -> None:
        """Remove the leases of the dead, and what those left who died between their commit and its last sweep."""
        for path, raw in dead(self.backend):
            stage, key = path.rsplit("/", 1)[1].removesuffix(".json").rsplit("-", 1)
            artifact = Artifact(stage, Key(key))
            manifest = self.find(artifact)
            if manifest is not None:
                self.sweep(artifact, manifest)
            self.backend.swap(path, raw, None)


def _fault(artifact: Artifact, folder: Path, file: File, *, contents: bool) -> str | None:
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


def _damaged_chunks(folder: Path, file: File) -> list[str]:
    """Names of the Zarr chunks in a file whose checksums fail."""
    if not checks_itself(file.path):
        return []
    from artifacts.activations import damaged

    top = folder / (file.path.split(".zarr/")[0] + ".zarr")
    return [chunk for path, chunk, _ in damaged(top) if (top / path) == folder / file.path or file.path.endswith(path)]
