"""What an SAE and its windows rest on, as far as a store still has it, in words that may be told to strangers: no path, no host."""

from __future__ import annotations

from typing import Any

from artifacts.manifest import Manifest
from artifacts.store import Store
from flows.lineage import addressed


def first_input(store: Store, manifest: Manifest | None, *names: str) -> Manifest | None:
    """The artifact at the end of a chain of inputs, the first of each; None where it is gone."""
    for name in names:
        value = None if manifest is None else manifest.inputs.get(name)
        address = value if isinstance(value, str) else next(iter(value or ()), None)
        manifest = None if address is None else store.find(addressed(address))
    return manifest


def captures_of(store: Store, manifest: Manifest) -> Manifest | None:
    """A capture that an SAE was trained on, or its windows were encoded of."""
    if manifest.artifact.stage == "mine":
        return first_input(store, manifest, "encoded", "shard")
    return first_input(store, manifest, "shards")


def corpus_of(store: Store, manifest: Manifest) -> Manifest | None:
    """The corpus behind an SAE or its windows."""
    return first_input(store, captures_of(store, manifest), "corpus")


def dataset_of(store: Store, manifest: Manifest) -> str | None:
    """Id on the hub of the dataset behind it; None for texts from elsewhere."""
    found = corpus_of(store, manifest)
    return None if found is None else found.spec.get("dataset")


def prompts_of(store: Store, mine: Manifest) -> tuple[int | None, int | None]:
    """Contexts whose windows were looked at, and tokens of each."""
    captured = captures_of(store, mine)
    tokens = None if captured is None else captured.spec.get("context_tokens")
    rows: Any = mine.summary.get("n_tokens")
    return (None if not tokens or rows is None else -(-int(rows) // int(tokens))), tokens
