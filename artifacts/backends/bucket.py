"""One prefix of an S3 bucket: requests with patience, and errors as sentences.

Credentials come from the environment (``AWS_*``) and from nowhere else.
"""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from artifacts.errors import StoreUnreachable, StoreUnwritable

T = TypeVar("T")

PATIENCE_SECONDS = 120.0
"""How long a server may be away before we give up."""

LONGEST_PAUSE = 4.0
SLOW_SECONDS = 2.0
"""A request that takes as long may have been trouble."""

PART_BYTES = 16 * 2**20
"""Of a multipart upload; S3 takes 10,000 parts, so files up to 160 GB."""

_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


class Held(NamedTuple):
    """An object as it was read."""

    data: bytes
    e_tag: str


class Meta(NamedTuple):
    """An object as it is listed."""

    path: str
    size: int
    changed: float
    """Seconds since 1970 on the server's clock, whole seconds at best."""


class Beaten(Exception):
    """The condition of a write did not hold, or held for another writer at the same moment."""


class Doubtful(Exception):
    """A write went out and no reply came: it may have been done."""


class Stopped(Exception):
    """This process is ending."""


class Bucket:
    """Objects below a prefix. Every method waits for a server that is away, and then raises ``StoreUnreachable``."""

    def __init__(
        self, name: str, prefix: str = "", endpoint: str | None = None, region: str | None = None,
        patience: float = PATIENCE_SECONDS,
    ) -> None:  # fmt: skip
        self.name, self.prefix, self.endpoint, self.patience = name, prefix.strip("/"), endpoint, patience
        self._silent = False
        self.answering_since = 0.0
        if endpoint is not None and not any(os.environ.get(name) for name in _CREDENTIALS):
            raise StoreUnwritable(self._sentence_of_credentials())
        self._once, self._again = (self._connected(region, retries) for retries in (0, 5))

    def _connected(self, region: str | None, retries: int) -> S3Store:
        where: dict[str, Any] = {}
        if self.endpoint is not None:
            where = {"endpoint": self.endpoint, "region": region or "us-east-1"}
        elif region is not None:
            where = {"region": region}
        return S3Store(
            self.name,
            prefix=self.prefix or None,
            client_options={
                "allow_http": (self.endpoint or "").startswith("http://"),
                "connect_timeout": "5s",
                "read_timeout": "30s",
                "timeout": "1h",  # of a whole transfer; one that hangs ends by the line above
            },
            retry_config={"max_retries": retries, "retry_timeout": timedelta(seconds=min(30, self.patience))},
            **where,
        )

    # small objects

    def get(self, path: str) -> Held | None:
        def once() -> Held:
            found = obstore.get(self._once, path)
            return Held(bytes(found.bytes()), found.meta["e_tag"] or "")

        try:
            return self._patiently(once)
        except FileNotFoundError:
            return None

    def put_if(self, path: str, data: bytes, e_tag: str | None) -> None:
        """Write, if the object still has that e-tag (None: is absent). Tried once. Raises ``Beaten``, ``Doubtful``."""
        try:
            mode: Any = "create" if e_tag is None else {"e_tag": e_tag}
            obstore.put(self._once, path, data, mode=mode, use_multipart=False)
        except (AlreadyExistsError, PreconditionError):  # 412, or 409 while another write is under way
            raise Beaten from None
        except (BaseError, FileNotFoundError) as error:
            if not _passing(error):
                raise self.explained(error) from None
            raise Doubtful(str(error)) from error

    def put(self, path: str, data: bytes | Path) -> None:
        self._patiently(lambda: obstore.put(self._again, path, data, chunk_size=PART_BYTES, max_concurrency=4))

    def metas(self, prefix: str = "") -> list[Meta]:
        """All objects below a folder, sorted by path."""

        def once() -> list[Meta]:
            pages: Iterator[Sequence[Any]] = obstore.list(self._once, prefix or None)
            return [Meta(o["path"], o["size"], o["last_modified"].timestamp()) for page in pages for o in page]

        return sorted(self._patiently(once))

    def size(self, path: str) -> int:
        try:
            return self._patiently(lambda: obstore.head(self._once, path))["size"]
        except FileNotFoundError:
            return 0

    def delete(self, paths: Sequence[str]) -> None:
        def once() -> None:
            try:
                obstore.delete(self._again, list(paths))
            except FileNotFoundError as error:  # some servers tell of what is not there
                if "NoSuchBucket" in str(error):
                    raise

        if paths:
            self._patiently(once)

    def look(self) -> None:
        """One request that reads; for its errors."""
        self._patiently(lambda: next(iter(obstore.list(self._once)), None))

    # large ones

    def download(self, path: str, draft: Path, stop: threading.Event) -> int:
        """Write an object to a new file; returns its bytes. Raises ``FileNotFoundError``, and ``Stopped``."""

        def once() -> int:
            found = obstore.get(self._again, path)
            with open(draft, "wb") as file:
                for piece in found.stream(min_chunk_size=4 * 2**20):
                    if stop.is_set():
                        raise Stopped
                    file.write(piece)
            return found.meta["size"]

        return self._patiently(once)

    # patience

    def pauses(self, why: Callable[[], BaseException | None]) -> Iterator[float]:
        """Growing pauses, to be slept; raises ``StoreUnreachable`` for ``why`` when patience is over."""
        begun, pause = time.monotonic(), 0.1
        while self._silent is False and time.monotonic() - begun < self.patience:
            self.answering_since = time.monotonic()
            yield pause * random.uniform(0.5, 1)
            pause = min(2 * pause, LONGEST_PAUSE)
        self._silent = True  # who cleans up after this need not wait as long once more
        raise self.explained(why())

    def _patiently(self, do: Callable[[], T]) -> T:
        last: list[BaseException] = []
        pauses, begun = self.pauses(lambda: last[-1]), time.monotonic()
        while True:
            try:
                found = do()
                if time.monotonic() - begun > SLOW_SECONDS:  # obstore may have had to try again
                    self.answering_since = time.monotonic()
                self._silent = False
                return found
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise self.explained(error) from None
                raise
            except BaseError as error:
                if not _passing(error):
                    raise self.explained(error) from None
                last.append(error)
            time.sleep(next(pauses))

    @contextmanager
    def impatient(self) -> Iterator[None]:
        """Wait for nothing: for questions that a person is waiting for."""
        before, self.patience = self.patience, 0.0
        try:
            yield
        finally:
            self.patience = before

    # sentences

    def _sentence_of_credentials(self) -> str:
        return (
            f"backend.bucket = {self.name!r}, but the environment has no credentials for it; "
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )

    def explained(self, error: BaseException | None) -> StoreUnwritable:
        """What a failed request means to a user."""
        text, bucket = str(error or ""), f"backend.bucket = {self.name!r}"
        at = "AWS" if self.endpoint is None else self.endpoint
        if "169.254.169.254" in text:  # where a machine would get its credentials, tried last
            return StoreUnwritable(self._sentence_of_credentials())
        if "NoSuchBucket" in text:
            return StoreUnwritable(
                f"{bucket}, but {at} has no such bucket; make it, or name another with backend.bucket=..."
            )
        if isinstance(error, (PermissionDeniedError, UnauthenticatedError)) or (_status(text) or 500) < 500:
            return StoreUnwritable(
                f"{bucket}, but {at} refuses the request ({_short(text)}); "
                "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, backend.region and what they may do"
            )
        typed = bucket if self.endpoint is None else f"backend.endpoint = {self.endpoint!r}"
        waited = f" for {self.patience:g} s" if self.patience else ""
        return StoreUnreachable(
            f"{typed}, but it has not answered{waited} ({_short(text)}); nothing that was committed is lost: "
            "start it or mend the address, then give the same command"
        )


def _passing(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later: no answer, 5xx, or too many requests."""
    if isinstance(error, (PermissionDeniedError, UnauthenticatedError, FileNotFoundError)):
        return False
    status = _status(str(error))
    return "169.254.169.254" not in str(error) and (status is None or status >= 500 or status in (408, 409, 429))


def _status(text: str) -> int | None:
    """The HTTP status that obstore's message tells of; a redirect is a wrong region."""
    first = text.partition("\n")[0]
    found = re.search(r"status code: (\d{3})", first)
    return int(found[1]) if found else 301 if "redirect" in first else None


def _short(text: str) -> str:
    """The part of obstore's message that says what went wrong."""
    if "error sending request" in text:
        return "no connection"
    return text.partition("\n")[0].partition(": <?xml")[0].rpartition(" - ")[2][:160].strip() or "no answer"
