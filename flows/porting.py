"""The commands that bring an SAE of another tool in, and take one of ours out: import, export."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.keys import Artifact
from artifacts.store import Store
from flows import exporting
from flows.console import clean, print_json, table
from flows.looking import parsed, store_of, words_apart
from tasks.spec import SpecError

if TYPE_CHECKING:
    from tasks.formats.base import Portable

ABOUT = {
    "import": "make an SAE of another tool's files an artifact: sae.path=DIR or sae.repo=ID, lm=...; --formats lists what is read",
    "export": "write an SAE of the store, or its latents, for another tool: saint export train/3f2a saelens DIR (or neuronpedia)",
}

_ALLOWED = 1e-5
"""How far latents and reconstructions of what was written may be from those of what was to be written, over the largest."""


def bring(rest: list[str], debug: bool = False) -> int:
    """``saint import``."""
    from flows.composing import composed
    from flows.goals import Goal
    from flows.running import print_plan, run
    from flows.sweep import jobs

    flags, names, overrides = parsed(
        "import", rest, ABOUT["import"], formats="list the formats, by what each is recognised, and which are written",
        json="print as JSON", plan="only print what it would find and make", allow_pickle="the same as sae.allow_pickle=true",
    )  # fmt: skip
    if flags.formats:
        return _formats(flags.json)
    if names:
        raise SpecError(f"{names[0]}, but saint import takes overrides only; write sae.path={names[0]}")
    typed = [o for o in overrides if o.lstrip("+~").startswith(("sae.", "sae="))]
    if not any(o.startswith(("sae.path=", "sae.repo=")) for o in typed):
        composed(["sae=load", *overrides])  # a name that there is not is told first
        raise SpecError("saint import has neither sae.path nor sae.repo, but it needs an SAE to read; add sae.path=DIR")
    whole = ["sae=load", *(["sae.allow_pickle=true"] if flags.allow_pickle else []), *(o for o in overrides if o != "sae=load")]
    found = jobs([whole], Goal("import"))
    if flags.plan:
        from flows.plan import plan

        print_plan(plan(found))
        return 0
    with redirect_stdout(sys.stderr) if flags.json else nullcontext():
        if code := run(found, overrides, debug):
            return code
    store = found[0].pipeline.store
    for named in found[0].wanted.named.values():
        _print_adopted(store, named["train"].artifact, flags.json)
    return 0


def _formats(as_json: bool) -> int:
    from tasks.formats.base import formats

    found = [
        {"format": name, "recognised_by": one.SAYS, "writes": list(one.WRITES)} for name, one in formats().items()
    ]
    if as_json:
        return print_json(found)
    for one in found:
        print(f"{one['format']:22}{one['recognised_by']}")
        if one["writes"]:
            print(f"{'':22}also written, for kinds {', '.join(one['writes'])}")
    print("pickles are read with sae.allow_pickle=true only, and nothing in them is run")
    return 0


def _print_adopted(store: Store, artifact: Artifact, as_json: bool) -> None:
    opened = store.open(artifact)
    summary = dict(opened.summary)
    if as_json:
        print_json({"artifact": f"{artifact.stage}/{artifact.key}", **summary})
        return

    def spread(name: str) -> str:
        found = summary[name]
        return f"{found['min']:.4g} to {found['max']:.4g}, mean {found['mean']:.4g}"

    widths = f"{summary['n_latents']:,} latents of d_in {summary['d_in']:,}"
    widths += f", d_out {summary['d_out']:,}" if "d_out" in summary else ""
    rows = [("artifact", str(artifact)), ("format", summary["format"]), ("kind", summary["kind"]), ("sizes", widths)]
    rows += [("k", f"{summary['k']:g}")] if summary.get("k") else []
    rows += [("hookpoint", summary["hookpoint"]), ("norm", summary["norm"]), ("lengths of decoder rows", spread("row_norm"))]
    rows += [("thresholds", spread("threshold"))] if "threshold" in summary else []
    rows += [("note", note) for note in summary.get("notes", [])]
    table(("imported", ""), [(name, clean(str(value))) for name, value in rows])
    print("encoding and decoding random rows gives finite numbers; saint inspect and saint explain take it from here")


def export(rest: list[str], debug: bool = False) -> int:
    """``saint export``."""
    from tasks.formats.base import formats, writers

    parser = argparse.ArgumentParser(prog="saint export", description=ABOUT["export"], allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "formats of weights: " + ", ".join(writers()) + "\nformats of latents:\n"
    parser.epilog += "\n".join(f"  {name:14}{what}" for name, what in exporting.FORMATS.items())
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.add_argument("words", nargs="*", metavar="SAE FORMAT DIR | name=value", help="train/3f2a saelens DIR; backend.root=DIR")
    exporting.add_options(parser)
    flags = parser.parse_intermixed_args(rest)
    names, overrides = words_apart(flags.words)
    if len(names) != 3:
        raise SpecError(f"saint export takes an SAE, a format and a folder, but {len(names)} are named; as in train/3f2a saelens DIR")
    name, format, folder = names[0], names[1], Path(names[2]).expanduser()
    known = formats()
    if format not in (*writers(), *exporting.FORMATS):
        only = "is only read" if format in known else "is none"
        raise SpecError(f"format = {format!r}, but that {only}; use one of {', '.join([*writers(), *exporting.FORMATS])}")
    if folder.exists():
        raise SpecError(f"DIR = {names[2]!r}, but something is there already, and nothing is written over; name a new folder")
    if format in exporting.FORMATS:
        return exporting.export(store_of(overrides), name, format, folder, flags)
    if odd := exporting.given(flags):
        raise SpecError(f"{odd[0]}, but format {format} is of weights and takes no options; leave it out, or export to neuronpedia")
    it = portable_of(store_of(overrides), name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    apart_from = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".export-"))
    draft = apart_from / "sae"
    try:
        lost, apart = written(it, name, format, draft)
        draft.rename(folder)
    finally:
        shutil.rmtree(apart_from, ignore_errors=True)
    files = sorted(p.name for p in folder.iterdir())
    if flags.json:
        return print_json({"folder": str(folder), "format": format, "files": files, "apart": apart, "lost": lost})
    print(f"{folder}: {', '.join(files)}")
    print(f"read again, latents and reconstructions of random rows are within {apart:.1e} of the largest")
    for note in lost:
        print(f"not carried: {clean(note)}")
    return 0


def written(it: Portable, name: str, format: str, folder: Path) -> tuple[list[str], float]:
    """Write an SAE and read it again; returns what could not be carried, and how far it is apart. Raises ``SpecError``."""
    from tasks.formats.base import formats, opened, writers

    lost = formats()[format].write(it, folder)
    apart = _apart(it, opened(folder, format, allow_pickle=True))
    if not apart <= _ALLOWED:
        raise SpecError(
            f"{name}, but its latents or reconstructions as {format} would be up to {apart:.2g} of the largest away from those "
            f"here ({_ALLOWED:g} is allowed), and nothing was written; use another format ({', '.join(writers())})"
        )
    return lost, apart


def portable_of(store: Store, name: str) -> Portable:
    """An SAE of a store, ready to be written."""
    from flows.belongings import lm_of, sae_named
    from tasks.formats.base import Portable
    from tasks.trained import TrainedSAE

    manifest = sae_named(store, name)
    trained = TrainedSAE.open(store.open(manifest.artifact))
    about: dict[str, Any] = dict(trained.about.get("adopted") or {})
    if "model" not in about:
        try:
            about["model"] = store.open(lm_of(store, manifest)).summary.get("name")
        except SpecError:  # the weights can be written without it
            pass
    return Portable(trained.sae, trained.norm, trained.hookpoint, about)


def _apart(it: Portable, back: Portable) -> float:
    """The largest difference of latents and reconstructions of random rows, over the largest number."""
    from tasks.lazy import torch

    draw = torch.Generator().manual_seed(0)
    n_rows, worst = 64, 0.0
    centre, scale = _around(it)
    x_BD = torch.randn(n_rows, it.sae.d_in, generator=draw) * scale + centre
    for get in (_dense, lambda one, x: one.trained.reconstruct(x)):
        want, got = get(it, x_BD), get(back, x_BD)
        worst = max(worst, float((want - got).abs().max() / want.abs().max().clamp_min(1.0)))
    return worst


def _around(it: Portable) -> tuple[Any, float]:
    """Centre and scale of what the SAE was made for, as far as its norm tells."""
    state = getattr(it.norm, "state", {})
    return state.get("mean", 0.0), float(state["scale"]) if "scale" in state and state["scale"].numel() == 1 else 1.0


def _dense(one: Portable, x_BD: Any) -> Any:
    from tasks.lazy import torch

    latents = one.trained.encode(x_BD)
    return torch.zeros(len(x_BD), one.sae.n_latents).scatter_add(1, latents.index_BK, latents.value_BK)


COMMANDS = {"import": bring, "export": export}
