"""Adopt an SAE that another tool made: the files that ``train`` writes, of weights in a foreign format."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field

from tasks.fingerprint import fingerprint_files
from tasks.formats._files import Files
from tasks.formats._hooks import is_embedding, same_model
from tasks.formats.base import Format, Given, Portable, recognised
from tasks.lazy import pa, pq, torch
from tasks.lm.sites import Sites
from tasks.spec import Spec, SpecError
from tasks.stage import Job, Summary, stage

if TYPE_CHECKING:
    from tasks.trained import TrainedSAE

_GIVEN = tuple(Given.model_fields)


class AdoptSpec(Spec):
    """Whose SAE is meant, and what its files do not say."""

    KEEPS_KEY: ClassVar[dict[str, Any]] = {"allow_pickle": False, "any_model": False}

    format: str = "auto"
    """A format of tasks/formats; ``auto`` recognises it by its files."""

    path: str | None = None
    """Folder with the SAE, or its file."""

    repo: str | None = None
    """Id on the Hugging Face hub, such as ``google/gemma-scope-2b-pt-res``; instead of ``path``."""

    revision: str | None = None
    """Branch, tag or commit on the hub; resolved to a commit when a run is composed. Null: main."""

    subfolder: str | None = None
    """Folder in the repository, or file, of the one SAE that is meant."""

    hookpoint: str | None = None
    """Where it stands, in SAINT's names; null takes what its files say, else capture.hookpoints as typed."""

    k: int | None = Field(None, ge=1)
    """Active latents of a token, where the files do not say it."""

    threshold: float | None = Field(None, ge=0)
    """Value above which a latent is active, where the files do not say it; in the units of its values."""

    scale: float | None = Field(None, gt=0)
    """What activations were multiplied by before the SAE saw them, where the files do not say it; 1: its weights have it in them."""

    architecture: str | None = None
    """Which of the format's architectures it is, where the files do not say it."""

    allow_pickle: bool = False
    """Read .pt files: tensors and plain values only, by torch.load with weights_only."""

    any_model: bool = False
    """Take it even where its files name another model than lm."""

    fingerprint: str | None = None
    """Of the files at ``path``; filled in when a run is composed."""

    def payload(self) -> dict[str, Any]:
        """Contents count, not where they lie."""
        return {name: value for name, value in super().payload().items() if name != "path" or self.fingerprint is None}

    @cached_property
    def files(self) -> Files:
        """Its files, here or fetched from the hub. Raises ``SpecError``."""
        if self.path and self.repo:
            raise SpecError(f"sae.path = {self.path!r}, but sae.repo is {self.repo!r} too; set one of them to null")
        if self.path:
            return Files(self.path, self.allow_pickle)
        if not self.repo:
            raise SpecError(
                "sae.path and sae.repo are both null, but an SAE is to be loaded; set sae.path=DIR, or sae.repo=ID and sae.subfolder=DIR"
            )
        from tasks.formats._hub import commit_of, fetched

        commit = commit_of(self.repo, self.revision)
        at = fetched(self.repo, commit, self.subfolder, self.allow_pickle)
        return Files(at, self.allow_pickle, "/".join(part for part in (self.repo, self.subfolder) if part))

    @cached_property
    def found(self) -> Format:
        """Its format. Raises ``SpecError``."""
        return recognised(self.files, self.format)

    def pinned(self) -> Self:
        known: dict[str, Any] = {"format": getattr(self.found, "kind", "")}
        at = self.hookpoint or self.found.hookpoint(self.files)
        known["hookpoint"] = None if at is None else str(Sites.parse(at, "sae.hookpoint"))
        if self.path:
            known |= {"path": str(self.files.path.absolute()), "fingerprint": self._now()}
        else:
            from tasks.formats._hub import commit_of

            known["revision"] = commit_of(str(self.repo), self.revision)
        return self.model_copy(update=known)

    def _now(self) -> str:
        return fingerprint_files([self.files.top / name for name in self.files.names], self.files.top)

    def read(self) -> Portable:
        """The SAE. Raises ``SpecError`` for what is wrong with it, and when its files changed since the run was composed."""
        if self.fingerprint is not None:
            if not self.path:
                raise SpecError("the SAE was adopted from a folder that is not known here; give the command with sae.path=... again")
            if (now := self._now()) != self.fingerprint:
                raise SpecError(
                    f"sae.path = {self.path!r}, but its files have fingerprint {now[:12]}..., not {self.fingerprint[:12]}... as when "
                    "this run was planned; put the old files back, or run again to use the new ones"
                )
        return self.found.opened(self.files, Given(**{name: getattr(self, name) for name in _GIVEN}))


@stage("adopt", version=1)
def adopt(job: Job[AdoptSpec]) -> Summary:
    """Make an SAE of foreign files. Input: ``lm``, the model that it belongs to, which is checked."""
    spec, lm = job.spec, job.one("lm")
    it = fitting(spec, spec.read(), lm.summary)
    trained = it.trained
    facts = looked_at(trained)
    source = {n: v for n in ("repo", "revision", "subfolder", "path") if (v := getattr(spec, n))}
    about = {"adopted": {"format": spec.format, **source, **it.about}, "lm": f"{lm.artifact.stage}/{lm.artifact.key}"}
    trained.about = about
    trained.save(job.out)
    # What training would have written: report and plots read it, and find no steps.
    columns = {"split": pa.string(), "step": pa.int64(), "tokens": pa.int64()}
    columns |= {name: pa.float64() for name in ("lr", "dead_fraction", "seconds", "loss", "fvu", "l0", "aux_loss")}
    pq.write_table(pa.schema(list(columns.items())).empty_table(), job.out / "log.parquet")
    return {
        "kind": it.sae.spec.kind,
        "format": spec.format,
        "n_latents": it.sae.n_latents,
        "d_in": it.sae.d_in,
        "hookpoint": trained.hookpoint,
        **({} if trained.sites.one else {"d_out": it.sae.d_out}),
        "k": getattr(it.sae.spec, "k", None),
        "norm": getattr(getattr(trained.norm, "norm", None), "kind", "none"),
        **facts,
        "notes": it.about.get("notes", []),
    }


def fitting(spec: AdoptSpec, it: Portable, facts: Mapping[str, Any] | None) -> Portable:
    """An SAE at its hookpoint, which suits the model of these facts as far as they tell. Raises ``SpecError``.

    ``facts``: those of ``tasks.lms.base.Facts``, as a mapping; None: nothing is known of the model.
    """
    model, facts = it.about.get("model"), facts or {}
    name = facts.get("name")
    if model and name and not spec.any_model and not same_model(str(model), name):
        raise SpecError(
            f"lm = {name!r}, but the SAE's files say that it is of {model!r}; use that model, or "
            "sae.any_model=true if it is the same under another name"
        )
    hookpoint = spec.hookpoint or it.hookpoint
    if hookpoint is None:
        raise SpecError("sae.hookpoint is null, but the SAE's files do not say where it stands; set sae.hookpoint=layers.N")
    sites = Sites.parse(hookpoint, "sae.hookpoint")
    if "embed" in sites.hookpoints and facts.get("adds_positions"):
        for theirs in filter(is_embedding, (it.about.get("hook"), it.about.get("hook_out"))):
            raise SpecError(
                f"sae.hookpoint = 'embed', but the SAE's files say {theirs!r}, where {name} has not added its positions yet, and "
                "embed is after that; use an SAE of blocks.0.hook_resid_pre"
            )
    check_sizes(hookpoint, it.sae.d_in, it.sae.d_out, facts)
    it.hookpoint = str(sites)
    return it


def check_sizes(hookpoint: str, d_in: int, d_out: int | None, facts: Any) -> None:
    """Raise ``SpecError`` where an SAE does not fit a model: a layer that there is not, or rows of another width.

    ``facts``: those of ``tasks.lms.base.Facts``, as a mapping.
    """
    from tasks.lms.base import Facts

    of = Facts(**{name: facts.get(name) for name in Facts._fields})
    sites = Sites.parse(hookpoint, "sae.hookpoint")
    if of.n_layers is None:
        return
    sites.check(of.n_layers, of.name, "sae.hookpoint")
    for has, width, does in zip((d_in, d_out), sites.widths(of), ("reads", "writes"), strict=True):
        if None not in (has, width) and has != width:
            name = "d_in" if does == "reads" else "d_out"
            raise SpecError(
                f"sae.{name} = {has}, but {of.name} has rows of {width} numbers at {hookpoint}, which the SAE {does}; set lm "
                "to the model that it was made for, or sae.hookpoint=... to where it stands"
            )


def looked_at(it: TrainedSAE) -> dict[str, Any]:
    """Figures that show whether an SAE is sane, and a try of it on random rows. Raises ``SpecError`` where it gives no numbers."""
    length_N = it.W_dec_ND.norm(dim=-1)
    draw = torch.Generator().manual_seed(0)
    x_BD = torch.randn(64, it.d_in, generator=draw)
    x_BD = x_BD + (it.sae.b_dec_D if it.d_in == it.d_out else 0)
    latents, x_hat = it.encode(x_BD), it.reconstruct(x_BD)
    bad = not (bool(torch.isfinite(latents.value_BK).all()) and bool(torch.isfinite(x_hat).all()))
    if bad or bool((latents.value_BK < 0).any()) or (latents.index_BK.numel() and int(latents.index_BK.max()) >= it.n_latents):
        raise SpecError(
            "the SAE is read, but it gives latents or reconstructions that are no finite numbers >= 0; set sae.architecture=... or "
            "sae.format=... to what it is"
        )
    found: dict[str, Any] = {"row_norm": _range(length_N)}
    for name in ("threshold_N", "threshold"):
        if hasattr(it.sae, name):
            found["threshold"] = _range(getattr(it.sae, name).reshape(-1))
    return found


def _range(x_N: Any) -> dict[str, float]:
    return {name: float(value) for name, value in (("min", x_N.min()), ("mean", x_N.mean()), ("max", x_N.max()))}
