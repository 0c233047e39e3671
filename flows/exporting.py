"""``saint export`` in the formats of latents: what the store has of each goes out for Neuronpedia or SAEDashboard."""

from __future__ import annotations

import argparse
import dataclasses
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.manifest import Manifest
from artifacts.store import Store
from flows.audit import find
from flows.belongings import lm_of, sae_named, sae_of
from flows.console import clean, display, print_json, size
from flows.lineage import addressed, manifest_of
from flows.shelves import shelf_of
from tasks.spec import SpecError

if TYPE_CHECKING:
    from tasks.browsing.shelf import Shelf
    from tasks.sharing.neuronpedia import Place, Row

FORMATS = {
    "neuronpedia": "the files that Neuronpedia's importer reads: latents, windows, explanations, scores",
    "saedashboard": "SaeVisData of sae-dashboard 0.8, to load with SaeVisData.load_json",
}
"""What is written of latents rather than of weights."""

_N_BATCH = {"neuronpedia": 128, "saedashboard": 256}
_KNOWN = {"gpt2": "gpt2-small"}
"""Models that Neuronpedia has under another name."""

_SITES = {"": "res", ".resid_mid": "resmid", ".mlp": "mlp", ".attn": "att", ".z": "z"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of these formats."""
    more = parser.add_argument_group("neuronpedia and saedashboard")
    more.add_argument("--latents", help="which, as in explain.latents: 0:100, [3,17], top:100, file:PATH (all)")
    more.add_argument("--batch", type=int, help=f"latents of a file ({', '.join(f'{n} {v}' for n, v in _N_BATCH.items())})")
    more = parser.add_argument_group("neuronpedia")
    more.add_argument("--model-id", help="its name of the model (that of the hub, without its owner)")
    more.add_argument("--set", dest="set_name", help="name of the set of SAEs, as in <layer>-<set> (res-saint-16k)")
    more.add_argument("--creator", help="who made them (SAINT)")
    more.add_argument("--creator-id", help="id of the user there to whom rows belong (that of its own data)")
    more.add_argument("--url", action="append", help="a page about them; may be given again")
    more.add_argument("--hf-repo", help="repository of the weights on the hub, if they were pushed")


def given(flags: argparse.Namespace) -> list[str]:
    """Those of the options that were used."""
    names = ("latents", "batch", "model_id", "set_name", "creator", "creator_id", "url", "hf_repo")
    return [f"--{name.removesuffix('_name').replace('_', '-')}" for name in names if getattr(flags, name) is not None]


def export(store: Store, name: str, format: str, folder: Path, flags: argparse.Namespace) -> int:
    """Write them, whole or not at all. Raises ``SpecError``."""
    from tasks.browsing.index import Index
    from tasks.choosing import chosen, parsed_latents
    from tasks.sharing.batches import files_of, write_neuronpedia, write_saedashboard

    own = [f for f in given(flags) if f not in ("--latents", "--batch")]
    if format != "neuronpedia" and own:
        raise SpecError(f"{own[0]}, but format {format} has no such thing; leave it out, or export to neuronpedia")
    if flags.batch is not None and flags.batch < 1:
        raise SpecError(f"--batch = {flags.batch}, but a file has at least one latent; leave it out or give a number from 1 up")
    n_batch = flags.batch or _N_BATCH[format]
    sae, shelf = shelf_named(store, name)
    index = Index(shelf)
    spelt: Any = "all" if flags.latents is None else flags.latents
    if numbers := re.fullmatch(r"\[(\s*-?\d{1,18}\s*(?:,\s*-?\d{1,18}\s*)*)\]", spelt):
        spelt = [int(n) for n in numbers[1].split(",")]
    latents = list(chosen(parsed_latents(spelt, "--latents"), shelf.mine, "--latents"))
    place = about = None
    if format == "neuronpedia":
        place = place_of(store, sae, shelf, flags)
        about = rows_about(store, sae, shelf, place, flags)
    folder.parent.mkdir(parents=True, exist_ok=True)
    apart = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".export-"))
    draft = apart / "latents"
    try:
        with display() as progress:
            if place is not None and about is not None:
                n = write_neuronpedia(index, place, about, latents, draft, n_batch, progress)
            else:
                n = write_saedashboard(index, latents, draft, n_batch, progress)
        draft.rename(folder)
    finally:
        shutil.rmtree(apart, ignore_errors=True)
    files = files_of(folder)
    if flags.json:
        return print_json({"folder": str(folder), "format": format, "files": files, **n})
    top = folder / place.model / place.source if place else folder
    print(f"{top}: {len(files)} files, {size(sum(f['bytes'] for f in files))}; " + ", ".join(f"{v:,} {k}" for k, v in n.items()))
    for line in _NEXT[format]:
        print(line)
    if why := shelf.mine.summary.get("no_promoted"):
        print(f"not carried: tokens that latents push up or down, of which there are none: {clean(why)}")
    return 0


_NEXT = {
    "neuronpedia": (
        "every row was checked against Neuronpedia's tables; its importer takes the folder from where its data lie (v1/<model>/<source>)",
        "not carried: explanation types and scores are in notes and explanation-scores/, which its importer does not read",
    ),
    "saedashboard": (
        "load with SaeVisData.load_json(file, cfg, model, encoder) of sae-dashboard 0.8, then save_feature_centric_vis",
        "not carried: labels and scores, for which it has no field; logit histograms and quantiles over all tokens",
    ),
}


def shelf_named(store: Store, name: str) -> tuple[Manifest, Shelf]:
    """The SAE that a name means, and what there is on it; of explanations or scores that are named, these alone. Raises ``SpecError``."""
    named = manifest_of(store, find(store, name))
    only = score = None
    if named.artifact.stage == "score":
        score, only = named.artifact, manifest_of(store, addressed(str(named.inputs["explain"])))
    elif named.artifact.stage == "explain":
        only = named
    if only is None:
        sae = sae_named(store, name)
        return sae, shelf_of(store, sae)
    found = sae_of(store, only)
    if found is None:
        raise SpecError(f"{name}, but the windows that it rests on are gone; make them again with the command that made it")
    sae = manifest_of(store, found)
    shelf = shelf_of(store, sae)
    kept = [e for e in shelf.explained if e.explain.artifact == only.artifact]
    if not kept:
        kind = only.spec["explainer"]["kind"]
        raise SpecError(f"{name}, but labels of explainer {kind} mean nothing and are not for others; name other explanations")
    if score is not None:
        scores = {n: opened for n, opened in kept[0].scores.items() if opened.artifact == score}
        scores = scores or {named.spec["scorer"]["kind"]: store.open(score)}
        kept = [dataclasses.replace(kept[0], scores=scores)]
    windows = store.open(addressed(str(only.inputs["mine"])))
    return sae, dataclasses.replace(shelf, mine=windows, explained=tuple(kept))


def place_of(store: Store, sae: Manifest, shelf: Shelf, flags: argparse.Namespace) -> Place:
    """Where it stands on Neuronpedia. Raises ``SpecError`` for a name that cannot stand there."""
    from tasks.sharing.neuronpedia import CREATOR, Place, checked

    model = flags.model_id
    if model is None:
        lm = store.open(lm_of(store, sae)).summary
        model = str(lm.get("hub_id") or lm.get("name") or "").rstrip("/").rpartition("/")[2].lower()
        model = _KNOWN.get(model, re.sub(r"[^a-z0-9._-]+", "-", model).strip("-.") or "model")
    at = sae.summary["hookpoint"].partition(":")[0].partition("+")[0].partition(",")[0]
    found = re.match(r"layers\.(\d+)(\..+)?$", at)
    site = _SITES.get(found[2] or "", (found[2] or "").strip(".").replace("_", "")) if found else "emb"
    if ":" in sae.summary["hookpoint"]:
        site = "transcoder"
    n = int(sae.summary["n_latents"])
    width = f"{n // 1024}k" if n % 1024 == 0 else str(n)
    return checked(
        Place, None, model=model, layer=int(found[1]) if found else 0, set=flags.set_name or f"{site}-saint-{width}",
        creator_id=flags.creator_id or CREATOR, when=shelf.mine.manifest.made_by.get("when", ""),
    )  # fmt: skip


def rows_about(store: Store, sae: Manifest, shelf: Shelf, place: Place, flags: argparse.Namespace) -> dict[str, Row]:
    """The single rows: release, model, set and source."""
    from flows.provenance import dataset_of, prompts_of
    from tasks.sharing.neuronpedia import Model, Release, Source, SourceSet, checked

    try:
        lm = dict(store.open(lm_of(store, sae)).summary)
    except SpecError:  # its name was given
        lm = {}
    creator, urls = flags.creator or "SAINT", list(flags.url or [])
    n_prompts, n_tokens = prompts_of(store, shelf.mine.manifest)
    release = f"{place.model}-{place.set}"
    what = f"SAE with {sae.summary['n_latents']:,} latents at {sae.summary['hookpoint']} of {place.model}, made with SAINT"
    common = {"creatorId": place.creator_id, "createdAt": place.when}
    return {
        "release": checked(
            Release, None, name=release, description=what, descriptionShort=what, urls=urls, creatorName=creator,
            creatorNameShort=creator, **common,
        ),
        "model": checked(
            Model, None, id=place.model, displayName=place.model, displayNameShort=place.model, instruct=place.model.endswith("-it"),
            layers=int(lm.get("n_layers") or place.layer + 1), neuronsPerLayer=int(lm.get("d_mlp") or 0), dimension=lm.get("d_model"),
            owner=str(lm.get("hub_id") or "").partition("/")[0], updatedAt=place.when, **common,
        ),
        "sourceset": checked(
            SourceSet, None, modelId=place.model, name=place.set, description=what, type=place.set.partition("-")[0], creatorName=creator,
            urls=urls, releaseName=release, **common,
        ),
        "source": checked(
            Source, None, id=place.source, modelId=place.model, setName=place.set, dataset=dataset_of(store, shelf.mine.manifest),
            num_prompts=n_prompts, num_tokens_in_prompt=n_tokens, hfRepoId=flags.hf_repo, hfFolderId=None,
            notes=clean(f"{sae.artifact}, windows {shelf.mine.artifact}"), **common,
        ),
    }  # fmt: skip
