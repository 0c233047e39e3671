"""What every foreign format of SAEs is: recognised by its files and keys, read into an SAE of ours, and maybe written.

What is read behaves on the model's own activations as the tool does that wrote it: the same latents, the same
reconstructions. Where that tool scales activations first, or decoder rows to length 1, this is folded into the weights; what
cannot be folded, since each token has a scale of its own, becomes the SAE's norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from tasks.formats._files import WEIGHTS, Files, Tensors
from tasks.kinds import decode, kinds, spec_class
from tasks.norms.base import FittedNorm, Norm
from tasks.norms.none import NoNorm
from tasks.saes.base import SAE
from tasks.spec import Spec, SpecError
from tasks.trained import TrainedSAE

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.norms._sites import SiteNorms

__all__ = ["Files", "Format", "Given", "Portable", "Tensors", "found_sae", "opened", "portable", "recognised"]

_VECTORS = ("b_enc", "encoder.bias", "latent_bias", "b_gate", "gate_bias", "encoder_linear.bias", "b_E")
_MATRICES = ("W_enc", "w_enc", "encoder.weight", "encoder_linear.weight", "W_E")
"""What formats call the encoder's bias and its matrix."""


class Given(Spec):
    """Numbers that some formats do not say. Each goes before what a file says of it."""

    k: int | None = Field(None, ge=1)
    """Active latents of a token."""

    threshold: float | None = Field(None, ge=0)
    """Value above which a latent is active, in the units of its values."""

    scale: float | None = Field(None, gt=0)
    """What activations were multiplied by before the SAE saw them, where this is not folded into its weights; 1: it is."""

    architecture: str | None = None
    """Which of the format's architectures it is, where its file does not tell them apart."""


@dataclass
class Portable:
    """An SAE on its way from one tool to another: of a kind of ours, with its norm and what is known of it."""

    sae: SAE
    norm: FittedNorm | SiteNorms = field(default_factory=lambda: FittedNorm(NoNorm(), {}))
    hookpoint: str | None = None
    """In our names; None where the file does not say it, or in a way that has no name here."""

    about: dict[str, Any] = field(default_factory=dict)
    """What the file says: ``architecture``, ``model``, ``dataset``, ``hook`` in its own words, ``notes`` on what was done."""

    @cached_property
    def trained(self) -> TrainedSAE:
        """It, as it is used; where its hookpoint is not known, at one that will do for encoding and decoding."""
        anywhere = "layers.0" if self.sae.d_in == self.sae.d_out else "layers.0.mlp_in:layers.0.mlp"
        return TrainedSAE(self.sae, self.norm, self.hookpoint or anywhere, self.about)


class _TooMany(SpecError):
    """More active latents of a token than there are latents; which file that is of is known further up."""

    def __init__(self, k: float, n_latents: int) -> None:
        self.k, self.n_latents = k, n_latents
        super().__init__(f"sae.k = {k:g}, but there are {n_latents} latents; set sae.k=... to those active in a token")


class Format(Spec):
    """A kind of file; each adds a field ``kind``."""

    SAYS: ClassVar[str] = ""
    """What it is recognised by, in words."""

    WEIGHTS: ClassVar[tuple[str, ...]] = ()
    """Names of its weights in a folder; patterns."""

    WRITES: ClassVar[tuple[str, ...]] = ()
    """Kinds of SAE that it can hold, where it is written as well."""

    def matches(self, files: Files) -> bool:
        """Whether these files are of this format."""
        raise NotImplementedError

    def read(self, files: Files, given: Given) -> Portable:
        """The SAE. Raises ``SpecError`` for what is wrong with it, or lacking."""
        raise NotImplementedError

    def opened(self, files: Files, given: Given) -> Portable:
        """``read``, and the file is named whose numbers do not fit each other. Raises ``SpecError``."""
        try:
            return self.read(files, given)
        except _TooMany as error:
            raise files.wrong(
                self.weights(files), f"has {error.n_latents} latents, and k = {error.k:g} of them cannot be active",
                f"set sae.k=... to those of a token, at most {error.n_latents}",
            ) from None  # fmt: skip

    def write(self, it: Portable, folder: Path) -> list[str]:
        """Write files; returns what could not be carried, in words. Raises ``SpecError`` for an SAE that it cannot hold."""
        raise SpecError(f"format = {getattr(self, 'kind', '')!r}, but it is only read; use one of {', '.join(writers())}")

    def hookpoint(self, files: Files) -> str | None:
        """Where the SAE stands, as far as configs and path tell it without the weights."""
        return None

    def sizes(self, files: Files) -> tuple[int, int] | None:
        """n_latents and d_in by the weights' header, or None where it does not tell them as all formats do."""
        shapes = files.shapes(self.weights(files))
        n = next((shapes[name][0] for name in _VECTORS if len(shapes.get(name, ())) == 1), None)
        matrix = next((shapes[name] for name in _MATRICES if len(shapes.get(name, ())) == 2), None)
        if n is None or matrix is None or n not in matrix:
            return None
        return n, matrix[1] if matrix[0] == n else matrix[0]

    def weights(self, files: Files) -> str:
        """The file with its weights. Raises ``SpecError`` where there are several."""
        name = files.one(*self.WEIGHTS)
        assert name is not None, "a format matches files that hold weights of its own"
        return name


def formats() -> dict[str, Format]:
    """All there are, by name."""
    return {name: spec_class("tasks.formats", name)() for name in kinds("tasks.formats")}  # type: ignore[misc]


def writers() -> list[str]:
    """Names of the formats that are also written."""
    return [name for name, found in formats().items() if found.WRITES]


def recognised(files: Files, name: str = "auto") -> Format:
    """The format of some files: the one that is named, or the only one that matches. Raises ``SpecError``."""
    known = formats()
    if name not in ("auto", *known):
        raise SpecError(f"sae.format = {name!r}, but there are {', '.join(known)}; use one of these, or auto")
    if not any(n.endswith(WEIGHTS) for n in files.names):
        raise SpecError(f"sae.path = {files.shown}, but it holds no weights ({', '.join(WEIGHTS)}){_inner(files)}")
    matching = [found for found in known.values() if found.matches(files)]
    names = [getattr(found, "kind", "") for found in matching]
    if name != "auto":
        if name in names:
            return known[name]
        if files.trouble is not None and not names:
            raise files.trouble
        is_it = f"; they are those of {', '.join(names)}" if names else ""
        raise SpecError(
            f"sae.format = {name!r}, but the files in {files.shown} are not as it has them ({known[name].SAYS}){is_it}; "
            "use sae.format=auto, or name the right folder"
        )
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise SpecError(
            f"sae.path = {files.shown}, but its files are those of {' and of '.join(names)}; say which with sae.format={names[0]}"
        )
    if files.trouble is not None:
        raise files.trouble
    held = {n: ", ".join(files.shapes(n)) for n in files.names if n.endswith(WEIGHTS)}
    some = "; ".join(f"{n} has {keys[:200] or 'no tensors'}" for n, keys in list(held.items())[:3])
    raise SpecError(
        f"sae.path = {files.shown}, but no format has such files ({some}); saint import --formats lists what is read"
    )


def _inner(files: Files) -> str:
    """What to do where what was named is another file, or folders in a folder hold the SAEs."""
    if files.only is not None:
        return "; name a folder with an SAE, or its file"
    found = sorted({p.parent.relative_to(files.top).as_posix() for p in files.top.rglob("*") if p.suffix in WEIGHTS})
    some = ", ".join(found[:4]) + (", ..." if len(found) > 4 else "")
    return f"; its folders do: name one of them ({some})" if found else "; name a folder with an SAE, or its file"


def opened(
    path: str | Path, format: str = "auto", allow_pickle: bool = False, origin: str | None = None, **given: Any
) -> Portable:
    """The SAE in some folder or file, of whatever format. ``given``: numbers that the format lacks, see ``Given``.

    Raises ``SpecError``.
    """
    files = Files(path, allow_pickle, origin)
    return recognised(files, format).opened(files, Given(**given))


def found_sae(kind: str, tensors: Mapping[str, Tensor], **fields: Any) -> SAE:
    """The SAE of a kind of ours with these tensors. Raises ``SpecError`` where they do not fit."""
    n_latents, d_out = tensors["W_dec_ND"].shape
    if (fields.get("k") or 0) > n_latents:
        raise _TooMany(fields["k"], n_latents)
    spec = decode("tasks.saes", {"kind": kind, "n_latents": n_latents, "expansion_factor": None, **fields}, "sae")
    spec.check(tensors["W_enc_ND"].shape[1], d_out)
    return spec.holding(tensors)


def portable(
    sae: SAE, hookpoint: str | None, about: Mapping[str, Any], norm: Norm | None = None
) -> Portable:
    """A portable SAE, what is not known of it left out."""
    known = {name: value for name, value in about.items() if value not in (None, "", [], {})}
    return Portable(sae, FittedNorm(norm or NoNorm(), {}), hookpoint, known)
