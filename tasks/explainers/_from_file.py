"""Explainers that take explanations from a file: what they share of naming it, and of whether it fits the SAE."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import Field

from tasks.explainers._files import Loaded, explanation_file, loaded
from tasks.explainers.base import Explainer
from tasks.fingerprint import fingerprint
from tasks.spec import SpecError


class FromFile(Explainer):
    """Explanations that somebody else gave. Asks nothing."""

    NEEDS_CLIENT: ClassVar[bool] = False

    path: str | None = None
    """A Parquet, CSV, TSV, JSONL or JSON file, or the folder of an explain artifact; ``tasks/explainers/_files.py`` says
    what may be in them."""

    fingerprint: str | None = None
    """Of the file; filled in when a run is composed."""

    max_label_characters: int = Field(200, ge=20)
    """Longer labels are cut."""

    def payload(self) -> dict[str, Any]:
        """Contents count, not where they lie."""
        return {name: value for name, value in super().payload().items() if name != "path" or self.fingerprint is None}

    def pinned(self) -> Self:
        file = explanation_file(self.path)
        loaded(self.path)
        return self.model_copy(update={"fingerprint": fingerprint(file)})

    def check(self, n_latents: int | None = None, sae: str | None = None) -> None:
        found = self.loaded()
        if sae is not None and found.sae is not None and found.sae != sae:
            raise SpecError(
                f"explainer.path = {self.path!r}, but its explanations are of the latents of {_short(found.sae)}, and this "
                f"SAE is {_short(sae)}; use explanations of this SAE"
            )
        if n_latents is not None and found.n_latents not in (None, n_latents):
            raise SpecError(
                f"explainer.path = {self.path!r}, but its explanations are of an SAE with {found.n_latents:,} latents, and "
                f"this one has {n_latents:,}; use explanations of this SAE"
            )
        highest = max(found.explanations)
        if n_latents is not None and highest >= n_latents:
            raise SpecError(
                f"explainer.path = {self.path!r}, but it explains latent {highest}, and the SAE has latents 0 to "
                f"{n_latents - 1}; use explanations of this SAE"
            )

    def loaded(self) -> Loaded:
        """The explanations of the file. Raises ``SpecError``."""
        return loaded(self.path, self.fingerprint)


def _short(address: str) -> str:
    stage, _, key = address.partition("/")
    return f"{stage}/{key[:12]}"
