"""What all users of the page share: SAEs of a store, open for reading. What a user does is nowhere here."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

from artifacts.manifest import Manifest
from artifacts.store import Store
from flows.api import OpenSAE
from flows.models import Models
from flows.shelves import shelf_of
from tasks.browsing.index import Index
from tasks.spec import Runtime, SpecError


class State:
    """The SAEs of one page, by name (``train/3f2a9c01d4e5``), the first being the one that is shown first."""

    def __init__(self, store: Store, saes: Sequence[Manifest], runtime: Runtime, dtype: str = "float32") -> None:
        self.store, self.runtime, self.dtype = store, runtime, dtype
        self.models = Models(store, runtime)
        """A language model is opened once, whoever looks through whichever of its SAEs."""
        self.saes = {str(m.artifact): OpenSAE(store, m, runtime, dtype, models=self.models) for m in saes}
        self.model = Lock()
        """Held by whoever runs a model: there is one device for all."""
        self._indices: dict[str, Index] = {}
        self._building = Lock()

    @property
    def names(self) -> list[str]:
        return list(self.saes)

    def title(self, name: str) -> str:
        """What an SAE is called where one is chosen."""
        sae = self.sae(name)
        return f"{sae.hookpoint}, {sae.n_latents:,} latents ({name})"

    def sae(self, name: str) -> OpenSAE:
        """An SAE by its name. Raises ``SpecError`` for one that this page does not show."""
        if name not in self.saes:
            raise SpecError(f"sae = {name[:80]!r}, but this page shows {', '.join(self.saes)}; choose one of them")
        return self.saes[name]

    def index(self, name: str) -> Index:
        """Its latents, gone through when first asked for: a few seconds, once. Raises ``SpecError``."""
        sae = self.sae(name)
        with self._building:
            if name not in self._indices:
                self._indices[name] = Index(shelf_of(self.store, sae.manifest))
            return self._indices[name]
