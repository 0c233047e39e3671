"""What a place for bytes must do, so that the store, leases and manifests work on it.

Paths are relative, with ``/``, and never leave the store. Two promises carry everything else: ``create`` makes
a small object exactly once, whoever else tries, and ``swap`` changes one only if it still says what the caller
last read. On a local disk these are a hard link and a short flock; on an object store, conditional PUTs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path


class Backend(ABC):
    """A place for bytes."""

    @abstractmethod
    def create(self, path: str, data: bytes) -> bool:
        """Make a small object durably, unless it exists. True if this call made it; contents appear whole or not."""

    @abstractmethod
    def swap(self, path: str, expected: bytes | None, data: bytes | None) -> bool:
        """Replace a small object if it still holds ``expected`` (None: is absent). ``data`` None deletes it."""

    @abstractmethod
    def write(self, path: str, data: bytes) -> None:
        """Make a small object, or replace it whatever it holds. Contents appear whole."""

    @abstractmethod
    def read(self, path: str) -> bytes | None:
        """The bytes of a small object, or None when there is none."""

    @abstractmethod
    def paths(self, prefix: str = "") -> Iterator[str]:
        """All object paths under a folder, in order."""

    @abstractmethod
    def size(self, path: str) -> int:
        """Bytes of an object; 0 when there is none."""

    @abstractmethod
    def delete(self, prefix: str) -> None:
        """Remove an object, or all objects under a folder. Absent ones are no error."""

    @abstractmethod
    def work(self, prefix: str) -> Path:
        """A local folder, made if absent, in which to write what ``publish`` will put under ``prefix``."""

    @abstractmethod
    def publish(self, prefix: str) -> None:
        """Make everything in ``work(prefix)`` durable and readable by others before returning."""

    @abstractmethod
    def folder(self, prefix: str) -> Path:
        """A local folder that holds the published files under ``prefix``."""

    @abstractmethod
    def check_writable(self) -> None:
        """Raise ``StoreUnwritable`` when nothing can be written here."""
