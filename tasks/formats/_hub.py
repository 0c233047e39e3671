"""SAEs on the Hugging Face hub: which commit is meant, which of its files are needed, and where they lie then."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tasks.formats._files import CONFIGS, PICKLES, WEIGHTS
from tasks.spec import SpecError

_OTHER = ("sparsity.safetensors", "activations_store_state.safetensors")
"""Files with tensors that are no weights."""

_BESIDE = ("activation_whitening.safetensors",)
"""Files with tensors that weights rest on."""


def commit_of(repo: str, revision: str | None) -> str:
    """The commit that a revision means now, or meant when there was a network last: 40 hex characters. Raises ``SpecError``."""
    if re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        return str(revision)
    return _snapshot(repo, revision, _NOTHING).name


def fetched(repo: str, commit: str, subfolder: str | None, allow_pickle: bool) -> Path:
    """The local folder, or file, that a subfolder of a repository means, its needed files downloaded. Raises ``SpecError``."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    inner = (subfolder or "").strip("/")
    if (found := _held(repo, commit, inner, allow_pickle)) is not None:  # a commit does not change: nothing to ask for
        return found
    try:
        names = needed(list(HfApi().list_repo_files(repo, revision=commit)), repo, inner, allow_pickle)
        top = _snapshot(repo, commit, names)
    except HfHubHTTPError as error:
        raise _absent(repo, commit, error) from None
    except Exception as error:
        if not _unreachable(error):
            raise
        raise _absent(repo, commit, error) from None
    found = top / inner
    if not found.exists():
        raise SpecError(f"sae.subfolder = {subfolder!r}, but {repo} at {commit[:12]} has nothing there; name a folder of it")
    return found


def _held(repo: str, commit: str, inner: str, allow_pickle: bool) -> Path | None:
    """The same where all of it was fetched before."""
    from tasks.formats.base import Files, recognised

    try:
        found = _snapshot(repo, commit, _NOTHING, local_files_only=True) / inner
        recognised(Files(found, allow_pickle))
    except SpecError:
        return None
    return found


_NOTHING = [".nothing"]
"""A pattern of no file: the commit's folder is all that is wanted."""


def _snapshot(repo: str, revision: str | None, names: list[str], **options: Any) -> Path:
    """The folder of a commit in the cache, with some files fetched. Raises ``SpecError``."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=names, **options))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise _absent(repo, revision, error) from None


def needed(names: list[str], repo: str, inner: str, allow_pickle: bool) -> list[str]:
    """Of a repository's files, those that belong to one SAE: weights and configs of its folder. Raises ``SpecError``."""
    is_file = inner in names
    folder = inner.rpartition("/")[0] if is_file else inner
    beside = [n for n in names if n.rpartition("/")[0] in (folder, f"{folder}/checkpoints".lstrip("/"))]
    weights = [inner] if is_file else [n for n in beside if n.endswith(WEIGHTS) and not n.endswith((*_OTHER, *_BESIDE))]
    if not weights:
        folders = sorted({n.rpartition("/")[0] for n in names if n.endswith(WEIGHTS) and n.startswith(f"{inner}/" if inner else "")})
        some = ", ".join(folders[:4]) + (f" and {len(folders) - 4:,} more" if len(folders) > 4 else "")
        raise SpecError(
            f"sae.subfolder = {inner or None!r}, but {repo} has no weights there; "
            + (f"name one of its folders with some ({some})" if folders else "name another")
        )
    if len(weights) > 1 and len({Path(n).suffix for n in weights}) == 1 and not is_file:
        some = ", ".join(sorted(weights)[:4]) + (f" and {len(weights) - 4:,} more" if len(weights) > 4 else "")
        raise SpecError(f"sae.subfolder = {inner or None!r}, but {repo} has {len(weights)} files with weights there ({some}); name one")
    pickles = [n for n in weights if n.endswith(PICKLES)]
    if pickles and not allow_pickle:
        if len(pickles) == len(weights):
            raise SpecError(
                f"sae.repo = {repo!r}, but {pickles[0]} is a pickle, and pickles can run code when they are opened; set "
                "sae.allow_pickle=true to have its tensors, and nothing else, read (torch.load with weights_only)"
            )
        weights = [n for n in weights if n not in pickles]
    return sorted({*weights, *(n for n in beside if n.endswith((*CONFIGS, *_BESIDE))), *(n for n in names if n == "config.yaml")})


def _unreachable(error: Exception) -> bool:
    """Whether there is no network, or no hub at its end. By name, since the hub's client changes its HTTP library with its versions."""
    return bool({"TransportError", "ConnectionError", "Timeout", "OSError"} & {cls.__name__ for cls in type(error).__mro__})


def _absent(repo: str, revision: str | None, error: Exception) -> SpecError:
    said = " ".join(str(error).split())[:200]
    return SpecError(
        f"sae.repo = {repo!r}, but at revision {revision or 'main'} it can be had neither from the hub nor from its cache ({said}); "
        "check id, revision and network, or give a local folder by sae.path"
    )
