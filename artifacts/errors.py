"""Errors of the store, split by what the caller may do about them.

One grammar everywhere: ``<what was typed, or the artifact> = <value>, but <fact>; <what to do>``.
"""

from __future__ import annotations


class ArtifactError(RuntimeError):
    """Something is wrong with the store or with what lies in it."""


class ArtifactNotFound(ArtifactError):
    """The artifact has no manifest, so it does not exist: make it."""


class ArtifactCorrupt(ArtifactError):
    """Bytes on disk disagree with the manifest: delete the artifact and make it again."""


class ArtifactBusy(ArtifactError):
    """Another live process holds the lease: wait, or take other work."""


class LeaseLost(ArtifactError):
    """Our lease was taken over while we stood still: do not commit, do not retry blindly."""


class StoreUnwritable(ArtifactError):
    """The store cannot be written (permissions, full disk): nothing that was committed is lost."""


class StoreUnreachable(StoreUnwritable, ConnectionError):
    """The place that holds the store has not answered for long: when it does, give the same command."""
