"""Which pretrained model is meant: a folder by its contents, or the hub by id and commit. Safetensors only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar, Self

from tasks.fingerprint import fingerprint
from tasks.spec import Spec, SpecError

MODEL_FILES = (".json", ".safetensors", ".model", ".txt")
"""What a model folder is fingerprinted by; READMEs and images may change."""


class Pretrained(Spec):
    """A pretrained model. Its own code is never run (``trust_remote_code`` is off), its pickles never opened."""

    path: str | None = None
    """Local folder with config.json, safetensors and tokenizer; it goes before ``hub_id``."""

    hub_id: str | None = None
    """Id on the Hugging Face hub, such as ``openai-community/gpt2``."""

    revision: str | None = None
    """Commit on the hub, 40 hex characters."""

    fingerprint: str | None = None
    """Of the local folder; filled in when a run is composed."""

    WHERE: ClassVar[str] = "lm"
    """The config path of these fields, as the user types it."""

    def payload(self) -> dict[str, Any]:
        """Contents count, not where they lie."""
        return {name: value for name, value in super().payload().items() if name != "path" or self.fingerprint is None}

    def pinned(self) -> Self:
        if self.path:
            folder = self._checked_folder()
            found = {"path": str(folder), "fingerprint": fingerprint(folder, MODEL_FILES)}
            return self.model_copy(update={**found, "hub_id": None, "revision": None})
        if not self.hub_id:
            raise SpecError(f"{self.WHERE}.path and {self.WHERE}.hub_id are both null, but a model is needed; set one of them")
        if not re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
            raise SpecError(
                f"{self.WHERE}.revision = {self.revision!r}, but a key needs a fixed commit; take the 40-character commit "
                f"from the page of {self.hub_id}, Files and versions, and set {self.WHERE}.revision to it"
            )
        return self

    def source(self) -> tuple[str, str | None]:
        """Folder or hub id, and revision. Raises ``SpecError`` when the folder has changed since the run was composed."""
        if not self.path:
            return str(self.hub_id), self.revision
        if self.fingerprint is not None and (now := fingerprint(self.path, MODEL_FILES)) != self.fingerprint:
            raise SpecError(
                f"{self.WHERE}.path = {self.path!r}, but its files have fingerprint {now[:12]}..., not "
                f"{self.fingerprint[:12]}... as when this run was planned; put the old files back, or run again to use the new ones"
            )
        return self.path, None

    def _checked_folder(self) -> Path:
        folder = Path(self.path or "").expanduser()
        typed = f"{self.WHERE}.path = {self.path!r}"
        if not folder.is_dir():
            raise SpecError(f"{typed}, but there is no such folder; name a folder with config.json in it")
        modular = (folder / "modules.json").is_file()  # sentence-transformers keeps parts in folders of their own
        if not modular and not (folder / "config.json").is_file():
            raise SpecError(f"{typed}, but it has no config.json; name a Hugging Face model folder")
        if not any(folder.glob("**/*.safetensors" if modular else "*.safetensors")):
            pickles = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt"))
            fact = f"its weights are pickles only ({', '.join(pickles)})" if pickles else "it has no *.safetensors"
            raise SpecError(
                f"{typed}, but {fact}, and opening a pickle can run code; "
                "save the model again with save_pretrained, which writes safetensors"
            )
        return folder.absolute()
