"""From an ``lm`` artifact to where its weights lie, on which device they go, and silence meanwhile."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.lazy import torch, transformers
from tasks.spec import SpecError

if TYPE_CHECKING:
    from artifacts.store import Opened
    from tasks.spec import Runtime


def source_of(opened: Opened) -> tuple[str, str | None]:
    """Folder or hub id of a model, and its revision.

    Raises ``SpecError`` when a folder outside the store has changed since the artifact was made, or is gone.
    """
    facts = opened.summary
    if facts.get("hub_id"):
        return facts["hub_id"], facts["revision"]
    if facts.get("path") is None:
        return str(opened.path / "model"), None
    from tasks.fingerprint import fingerprint
    from tasks.lm.pretrained import MODEL_FILES

    if not Path(facts["path"]).exists():
        raise SpecError(
            f"lm.path = {facts['path']!r}, but the language model that lay there is gone; put it back, or run again with where it is now"
        )
    now = fingerprint(facts["path"], MODEL_FILES)
    if now != facts["fingerprint"]:
        raise SpecError(
            f"lm.path = {facts['path']!r}, but its files have fingerprint {now[:12]}..., not {facts['fingerprint'][:12]}... "
            "as when this run was planned; put the old files back, or run again to use the new ones"
        )
    return facts["path"], None


def device_of(runtime: Runtime) -> str:
    """The torch device that ``runtime.device`` means here. Raises ``SpecError`` when there is none such."""
    wanted = runtime.device
    if wanted == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise SpecError(f"runtime.device = {wanted!r}, but torch sees no CUDA device here; use cpu or auto")
    return wanted


def free_memory() -> None:
    """Give back what models had that nobody holds any more, also on the device."""
    gc.collect()  # models refer to themselves in circles
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@contextmanager
def quiet() -> Iterator[None]:
    """Loading without the libraries' own progress bars: ours is on the screen."""
    logging = transformers.utils.logging
    before = logging.get_verbosity()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        logging.enable_progress_bar()
