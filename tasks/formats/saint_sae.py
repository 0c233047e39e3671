"""SAINT's own files, as its store keeps them: sae.json and sae.safetensors. Nothing is lost in them, whatever the kind.

Source: ``tasks.trained``. Weights are under the names that kinds give them, with shapes in their suffixes; the norm's numbers
are ``norm.<name>``, or ``norm.<hookpoint>.<name>`` for an SAE of several hookpoints.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from tasks.formats._files import Files
from tasks.formats.base import Format, Given, Portable
from tasks.spec import SpecError
from tasks.trained import FORMAT, VERSION, TrainedSAE

CONFIG, NAME = "sae.json", "sae.safetensors"


class SaintSAE(Format):
    """A folder of SAINT."""

    SAYS: ClassVar[str] = f"{CONFIG} that says format {FORMAT}, and {NAME}"
    WEIGHTS: ClassVar[tuple[str, ...]] = (NAME,)
    WRITES: ClassVar[tuple[str, ...]] = ("standard", "gated", "jumprelu", "topk", "batchtopk", "matryoshka")

    kind: Literal["saint_sae"] = "saint_sae"

    def matches(self, files: Files) -> bool:
        return files.has(CONFIG, NAME) and files.json(CONFIG).get("format") == FORMAT

    def hookpoint(self, files: Files) -> str | None:
        found = files.json(CONFIG).get("hookpoint")
        return found if isinstance(found, str) else None

    def sizes(self, files: Files) -> tuple[int, int] | None:
        found = files.json(CONFIG)
        n, d_in = found.get("n_latents"), found.get("d_in")
        return (n, d_in) if isinstance(n, int) and isinstance(d_in, int) else None

    def read(self, files: Files, given: Given) -> Portable:
        said = files.json(CONFIG)
        if said.get("version") != VERSION:
            raise files.wrong(CONFIG, f"says version = {said.get('version')!r}", f"this SAINT reads version {VERSION}; use a newer one")
        try:
            found = TrainedSAE.in_folder(files.top)
        except SpecError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OSError) as error:
            raise files.wrong(CONFIG, f"and {NAME} do not go together ({str(error)[:120]!r})", "copy both again") from None
        about = {name: said[name] for name in ("model", "dataset") if isinstance(said.get(name), str)}
        return Portable(found.sae, found.norm, found.hookpoint, about)

    def write(self, it: Portable, folder: Path) -> list[str]:
        if it.hookpoint is None:
            raise SpecError(f"sae.hookpoint is not known, but {FORMAT} says where an SAE stands; import it with sae.hookpoint=...")
        folder.mkdir(parents=True, exist_ok=True)
        about = {name: it.about[name] for name in ("model", "dataset") if it.about.get(name)}
        TrainedSAE(it.sae, it.norm, it.hookpoint, about).save(folder)
        return []
