"""Places: where artifacts lie. ``backend.kind`` says which; none of it enters a key."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from artifacts.store import Store
from tasks.kinds import validated
from tasks.spec import SpecError

STORE = "SAINT_STORE"
"""Environment variable with the store's folder where nothing else names it."""


class Place(BaseModel):
    """A folder on a disk."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Literal["local"] = "local"

    root: str = "saint-store"
    """Folder of all artifacts; relative to where the command is given."""

    @property
    def where(self) -> str:
        """The place in one word, for people."""
        return self.root

    def store(self) -> Store:
        """The store there, which need not exist yet."""
        return Store.at(self.root)

    def exists(self) -> bool:
        """Whether there is a store."""
        return Path(self.root).expanduser().is_dir()

    def check(self) -> None:
        """Whether a store is there or could be made, without making it: a plan writes nothing to a place.

        Raises ``SpecError`` and ``StoreUnwritable``.
        """
        if Path(self.root).expanduser().exists():
            self.store().backend.check_writable()
            return
        parent = Path(self.root).expanduser().absolute().parent
        while not parent.exists():
            parent = parent.parent
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise SpecError(
                f"backend.root = {self.root!r}, but {parent} cannot be written; choose another folder with backend.root=..."
            )


class S3Place(BaseModel):
    """A bucket of an S3 that honours conditional writes. Credentials come from the environment (``AWS_*``)."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Literal["s3"] = "s3"
    bucket: str

    prefix: str = "saint"
    """Folder in the bucket; a store is a bucket and a prefix."""

    endpoint: str | None = None
    """Address of the server; null is AWS."""

    region: str | None = None
    """null: ``AWS_REGION``, or the only one that the server has."""

    cache: str = "~/.cache/saint"
    """Folder on this host, for copies and for work in progress; several processes may share it."""

    cache_bytes: int = Field(100_000_000_000, ge=0)
    """Copies that were used longest ago are removed above that; those in use never are."""

    @property
    def root(self) -> str:
        """The place in one word, for people."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    @property
    def where(self) -> str:
        """The place in one word, for people."""
        return self.root

    @field_validator("bucket")
    @classmethod
    def _named(cls, value: str) -> str:
        if not value or "/" in value:
            raise SpecError(
                f"backend.bucket = {value!r}, but that is no name of a bucket; its folder goes to backend.prefix"
            )
        return value

    @field_validator("endpoint")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise SpecError(
                f"backend.endpoint = {value!r}, but an address begins with https:// or http://; write it whole"
            )
        return value

    def store(self) -> Store:
        """The store there, which need not exist yet. Raises ``SpecError`` and ``StoreUnwritable``."""
        if find_spec("obstore") is None:
            raise SpecError("backend = 's3', but obstore is not installed; pip install 'saint-sae[s3]'")
        from artifacts.backends.objects import Objects

        return Store(Objects(**self.model_dump(exclude={"kind"})))

    def exists(self) -> bool:
        """Whether the bucket can be read; a store in it exists from its first artifact on. Raises ``StoreUnwritable``."""
        self.check()
        return True

    def check(self) -> None:
        """Whether the bucket can be read, which is all that can be seen without writing. Raises ``StoreUnwritable``."""
        self.store().backend.check_reachable()  # type: ignore[attr-defined]


PLACES = {"local": Place, "s3": S3Place}


def place(fields: Mapping[str, Any]) -> Place | S3Place:
    """The place that some plain fields name. Raises ``SpecError``."""
    kind = fields.get("kind", "local")
    if kind not in PLACES:
        raise SpecError(f"backend.kind = {kind!r}, but there are {' and '.join(PLACES)}; use one of them")
    return validated(PLACES[kind], fields, "backend")


def store_at(where: str | Path | None = None) -> Store:
    """The store in a folder, or at ``s3://bucket/prefix``; without either that of ``$SAINT_STORE``, then ``saint-store`` here.

    Raises ``SpecError`` where there is none.
    """
    named = str(where or os.environ.get(STORE) or "saint-store")
    bucket, _, prefix = named.removeprefix("s3://").partition("/")
    found: Place | S3Place = S3Place(bucket=bucket, prefix=prefix) if named.startswith("s3://") else Place(root=named)
    if not found.exists():
        raise SpecError(f"store = {named!r}, but there is no such folder; saint run makes a store, {STORE} or store= names another")
    return found.store()
