"""Garbage: what crashed attempts left behind. Nothing that a manifest names is ever touched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from artifacts.errors import ArtifactCorrupt
from artifacts.keys import Artifact, Key
from artifacts.lease import holder
from artifacts.store import Store


@dataclass(frozen=True)
class Orphan:
    """An attempt that nobody is working on and no manifest names."""

    artifact: Artifact
    attempt: str
    bytes: int


def orphans(store: Store) -> Iterator[Orphan]:
    """Every orphan of a store. A checkpoint is one until somebody goes on from it, so deleting costs only its work."""
    sizes: dict[tuple[Artifact, str], int] = {}
    for path, size in store.backend.sizes():
        parts = path.split("/")
        if len(parts) > 5 and parts[3] == "attempts":
            at = (Artifact(parts[0], Key(parts[2])), parts[4])
            sizes[at] = sizes.get(at, 0) + size
    for (artifact, attempt), size in sizes.items():
        try:
            manifest = store.find(artifact)
        except ArtifactCorrupt:
            continue  # whose files they are is not known any more: verify tells, a person decides
        if (manifest is None or manifest.attempt != attempt) and holder(store.backend, artifact) is None:
            yield Orphan(artifact, attempt, size)


def remove_orphans(store: Store) -> int:
    """Delete all orphans and the leases of the dead; returns bytes freed."""
    store.tidy()
    store.backend.tidy()
    freed = 0
    for orphan in list(orphans(store)):
        store.backend.delete(f"{store.home(orphan.artifact)}/attempts/{orphan.attempt}")
        freed += orphan.bytes
    return freed
