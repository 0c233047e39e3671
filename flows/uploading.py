"""A folder to the Hugging Face hub, in one commit: whole or not at all, and nothing where nothing changed."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.publishing import MARK
from tasks.spec import SpecError

_THEIRS = {".gitattributes"}
"""What the hub puts into a new repository by itself."""


class HubFailed(OSError):
    """The hub cannot be reached, or fails; the same command goes on later."""


@dataclass(frozen=True)
class Pushed:
    """What became of a push."""

    url: str
    commit: str
    changed: bool
    """Whether there is a new commit."""

    created: bool
    private: bool


def require_token() -> str:
    """The token that people logged in with, or ``$HF_TOKEN``. Raises ``SpecError`` where there is none."""
    from huggingface_hub import get_token

    token = get_token()
    if not token:
        raise SpecError(
            "saint push writes to the Hugging Face hub, but there is no token; set HF_TOKEN to one that may write, or run hf auth login "
            "(saint push --dry-run --folder DIR needs none)"
        )
    return token


class Repository:
    """A repository of the hub, looked at before anything is made or sent."""

    def __init__(self, name: str, sae: str, public: bool = False, replace: bool = False) -> None:
        """``sae`` is the address of the SAE that is to go there. Asks the hub.

        Raises ``SpecError`` where it cannot go there, and ``HubFailed``.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.utils import RepositoryNotFoundError

        self.name, self.public, self._token = name, public, require_token()
        self._api = HfApi(token=self._token)
        with _said(name, self._token):
            try:
                self._info: Any = self._api.repo_info(name)
            except RepositoryNotFoundError as error:
                if error.response.status_code == 401 and not _known(self._api):  # the hub says so of a bad token, too
                    raise
                self._info = None
            if self._info is not None and not self._info.private and not public:
                raise SpecError(
                    f"{name}, but it is there already and anybody can read it; add --public if that is meant, or name another repository"
                )
            self._stale = set() if self._info is None else _stale(self._api, name, self._info, sae, replace)

    def put(self, folder: Path, message: str) -> Pushed:
        """Put a folder that ``publish`` wrote there, into a repository that is made if absent, private unless it is to be public.

        What an earlier push left and the folder has not is deleted; large files that arrived before an interruption are not sent
        again. Raises as the beginning does.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, ModelCard

        files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        operations: list[Any] = [CommitOperationAdd(name, str(folder / name)) for name in files]
        operations += [CommitOperationDelete(name) for name in sorted(self._stale - set(files))]
        created = self._info is None
        with _said(self.name, self._token), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that a table lies in a model's repository
            ModelCard.load(folder / "README.md").validate()  # before there is a repository that stays empty
            if created:
                self._api.create_repo(self.name, private=not self.public, exist_ok=True)
                self._info = self._api.repo_info(self.name)
            before = self._info.sha
            done = self._api.create_commit(self.name, operations, commit_message=message, parent_commit=before)
        return Pushed(f"{self._api.endpoint}/{self.name}", done.oid, done.oid != before, created, bool(self._info.private))


def _known(api: Any) -> bool:
    """Whether the token is somebody's."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return bool(api.whoami())
    except HfHubHTTPError:
        return False


def _stale(api: Any, repo: str, info: Any, sae: str, replace: bool) -> set[str]:
    """Files of an earlier push. Raises ``SpecError`` where a repository holds something else."""
    there = {sibling.rfilename for sibling in info.siblings or ()}
    if not there - _THEIRS:
        return set()
    held: dict[str, Any] = {}
    if MARK in there:
        try:
            held = json.loads(Path(api.hf_hub_download(repo, MARK, revision=info.sha)).read_text("utf-8"))
        except ValueError:
            held = {}
    if not isinstance(held, dict) or "sae" not in held:
        some = ", ".join(sorted(there - _THEIRS)[:3])
        raise SpecError(f"{repo}, but it is there already and holds something else ({some}); name another repository")
    if held["sae"] != sae and not replace:
        raise SpecError(
            f"{repo}, but it is there already with another SAE ({str(held['sae'])[:24]}); name another repository, or add --replace"
        )
    listed = held.get("files")
    return {name for name in listed if isinstance(name, str)} & there if isinstance(listed, list) else set()


def _found_wrong(error: ValueError) -> str:
    """What the hub finds wrong in a front matter, which comes as its JSON."""
    try:
        return "; ".join(str(one["message"]) for one in json.loads(str(error))["errors"])
    except (ValueError, KeyError, TypeError):
        return str(error)


@contextmanager
def _said(repo: str, token: str) -> Iterator[None]:
    """The hub's errors in our words, and without the token."""
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, logging

    clean: Callable[[object], str] = lambda error: " ".join(str(error).replace(token, "***").split())[:300]  # noqa: E731
    level, silent = logging.get_verbosity(), are_progress_bars_disabled()
    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        yield
    except SpecError:
        raise
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status == 401:
            raise SpecError(
                f"{repo}, but the hub does not know this token; set HF_TOKEN to one that may write, or run hf auth login"
            ) from None
        if status == 403:
            raise SpecError(
                f"{repo}, but this token may not write there; use one with write access to {repo.partition('/')[0]}, or name another owner"
            ) from None
        if status in (400, 404, 409, 412, 422):
            raise SpecError(f"{repo}, but the hub refuses it ({status}: {clean(error)}); see what it says, then push again") from None
        raise HubFailed(f"{repo}: the hub fails ({status}: {clean(error)}); the same command goes on") from None
    except ValueError as error:  # what it finds wrong in a front matter
        raise SpecError(f"{repo}, but the hub refuses its card ({clean(_found_wrong(error))}); see what it says, then push again") from None
    except Exception as error:
        if not {"TransportError", "ConnectionError", "Timeout", "OSError"} & {cls.__name__ for cls in type(error).__mro__}:
            raise
        raise HubFailed(f"{repo}: the hub cannot be reached ({clean(error)}); check the network, then give the same command") from None
    finally:
        logging.set_verbosity(level)
        if not silent:
            enable_progress_bars()
