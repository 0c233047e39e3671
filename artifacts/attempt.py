"""Attempts: making one artifact, in folders of one's own, under a lease."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.errors import ArtifactError, LeaseLost
from artifacts.keys import Artifact
from artifacts.lease import Lease
from artifacts.manifest import Manifest, list_files

if TYPE_CHECKING:
    from artifacts.store import Store


class Attempt:
    """One try at making an artifact: a folder to fill, then ``commit``."""

    def __init__(self, store: Store, artifact: Artifact, recipe: Mapping[str, Any], lease: Lease) -> None:
        self._store, self.artifact, self._recipe, self._lease = store, artifact, recipe, lease
        self.id = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:8]}"
        self._attempts = f"{store.home(artifact)}/attempts"
        self._home = f"{self._attempts}/{self.id}"
        self.path = store.backend.work(f"{self._home}/data")
        """Everything in this folder becomes the artifact."""
        self.scratch = store.backend.work(f"{self._home}/scratch")
        """For checkpoints; outlives a crash, ends with the commit."""
        self._started = time.monotonic()
        self._save_after = 0.0

    def check(self) -> None:
        """Raise ``LeaseLost`` when another process has taken over this artifact."""
        self._lease.check()

    def check_wanted(self) -> None:
        """Raise ``LeaseLost`` when another process has taken over this artifact, or has made it.

        One that was stopped between its last look at the lease and its commit makes it while we hold the lease.
        """
        self.check()
        manifest = self._store.find(self.artifact)
        if manifest is not None and manifest.attempt != self.id:
            raise LeaseLost(f"{self.artifact}: this process was making it, but another did meanwhile; what it made is adopted")

    def recover(self, name: str) -> Path | None:
        """The newest file or folder of that name which a dead attempt left in its scratch, copied into ours."""
        target = self.scratch / name
        return target if self._store.backend.recover(self._attempts, name, target) else None

    def save(self, name: str) -> None:
        """Let a checkpoint in ``scratch`` outlive this host. Skipped where that would take a tenth of the time."""
        begun = time.monotonic()
        if begun >= self._save_after:
            self._store.backend.keep(f"{self._home}/scratch", name)
            done = time.monotonic()
            self._save_after = done + 9 * (done - begun)

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
        store.sweep(self.artifact, winner, self.id)
        self._lease.release()
        return winner

    def abandon(self) -> None:
        """Give up: the lease is free, checkpoints stay for the next attempt, if there is to be one.

        Whom it was taken over from may have written on after the other committed and swept: nobody else would find that.
        What was committed, and then interrupted, stays.
        """
        try:
            manifest = self._store.find(self.artifact)
            if manifest is None:
                if not self.scratch.exists() or not any(self.scratch.iterdir()):
                    self._store.backend.delete(self._home)
            elif manifest.attempt == self.id:
                self._store.sweep(self.artifact, manifest, self.id)
            else:  # no more than our own: by now a third may be making it anew
                self._store.backend.delete(self._home)
        except (OSError, ArtifactError):
            pass  # what stays is garbage to gc; why we gave up is what is to be told
        finally:
            self._lease.release()
