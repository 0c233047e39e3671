"""Language models and SAEs of a store, opened and held for all who look at them or steer with them."""

from __future__ import annotations

from threading import RLock
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from artifacts.keys import Artifact
from artifacts.store import Store
from tasks.spec import Runtime

if TYPE_CHECKING:
    from tasks.lm.language_model import LanguageModel
    from tasks.trained import TrainedSAE

MOST_LMS = 2
"""Language models that are held whether anybody uses them or not: going to and fro between two costs nothing, and a device has
no room for many."""


class Models:
    """Language models and SAEs of a store, opened once for any number of recipes. May be used by several threads.

    Of language models the ``MOST_LMS`` asked for last are held, and those that somebody is at work with.
    """

    def __init__(self, store: Store, runtime: Runtime) -> None:
        self.store, self.runtime = store, runtime
        self._held: dict[tuple[Artifact, str], Any] = {}
        self._lms: dict[tuple[Artifact, str], LanguageModel] = {}
        self._open: WeakValueDictionary[tuple[Artifact, str], LanguageModel] = WeakValueDictionary()
        self._lock = RLock()

    def lm(self, artifact: Artifact, dtype: str = "float32") -> LanguageModel:
        from tasks.lm.language_model import LanguageModel
        from tasks.lm.loading import free_memory

        key = artifact, dtype
        with self._lock:
            lm = self._lms.pop(key, None) or self._open.get(key)
            found = None if lm is not None else self.store.open(artifact)
            while len(self._lms) >= MOST_LMS:
                del self._lms[next(iter(self._lms))]
            if found is not None:
                if self._open:
                    free_memory()  # there may be no room for one more beside them
                lm = self._open[key] = LanguageModel.open(found, self.runtime, dtype)
            assert lm is not None
            self._lms[key] = lm  # the last is the one asked for last
            return lm

    def sae(self, artifact: Artifact) -> TrainedSAE:
        from tasks.lm.loading import device_of
        from tasks.trained import TrainedSAE

        return self._once((artifact, ""), lambda: TrainedSAE.open(self.store.open(artifact)).to(device_of(self.runtime)))

    def words(self, artifact: Artifact, dtype: str = "float32") -> list[str]:
        """Text of each token id of a language model."""
        return self._once((artifact, f"words {dtype}"), lambda: self.lm(artifact, dtype).token_strings())

    def _once(self, key: tuple[Artifact, str], opened: Any) -> Any:
        with self._lock:
            if key not in self._held:
                self._held[key] = opened()
            return self._held[key]
