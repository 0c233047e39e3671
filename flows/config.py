"""From what a user typed to a typed pipeline. Hydra composes (``flows.composing``), pydantic judges, and every mistake is told
here, before any work, in one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from artifacts.store import Store
from flows import foreign
from flows.composing import GROUPS, composed, fields_of, hookpoints_of
from flows.places import Place, place
from tasks.adopt import AdoptSpec
from tasks.analyse import AnalyseSpec
from tasks.capture import CaptureSpec
from tasks.choosing import counted, named_in_file, parsed_latents
from tasks.clients.base import Client
from tasks.corpora.base import Corpus
from tasks.distributed import check as spreads
from tasks.evaluate import EvaluateSpec
from tasks.explainers.base import Explainer
from tasks.kinds import decode, validated
from tasks.lm.hookpoints import Hookpoint
from tasks.lm.sites import Sites
from tasks.lms.base import LMSpec
from tasks.mine import MineSpec
from tasks.norms._sites import not_undone
from tasks.norms.base import Norm
from tasks.report import ReportSpec
from tasks.saes.base import SAESpec
from tasks.scorers.base import Scorer
from tasks.spec import Runtime, SpecError, without_password
from tasks.train import TrainSpec

MINING = {
    "windows": ("windows", "windows"), "train_sampler": ("sampler", "samplers"), "test_sampler": ("sampler", "samplers"),
}  # fmt: skip
"""Fields of the section mine that are kinds: group in conf/, and package."""

SECTIONS = (
    "scorers", "capture", "train", "evaluate", "mine", "amplify", "explain", "score", "analyse", "report", "runtime",
    "backend",
)  # fmt: skip


@dataclass(frozen=True)
class Pipeline:
    """All that a run is: specs of every stage, and where and how to run them."""

    corpus: Corpus
    lm: LMSpec
    norm: Norm
    sae: SAESpec
    explainer: Explainer
    client: Client | None
    scorers: tuple[Scorer, ...]
    hookpoints: tuple[str, ...]
    """Sites of each SAE, as ``tasks.lm.sites`` spells them."""

    capture: CaptureSpec
    train: TrainSpec
    evaluate: EvaluateSpec
    mine: MineSpec
    amplify: dict[str, Any]
    explain: dict[str, Any]
    score: dict[str, Any]
    analyse: AnalyseSpec
    report: ReportSpec
    runtime: Runtime
    backend: Place
    adopt: AdoptSpec | None
    """The SAE that is loaded instead of trained (sae=load)."""

    init_from: str | None
    """``stage/key`` of the SAE that training begins with."""

    plain: dict[str, Any]
    """The resolved configuration that all of it was read from; JSON."""

    @cached_property
    def store(self) -> Store:
        """The store that artifacts go to."""
        return self.backend.store()


def load(overrides: Sequence[str]) -> Pipeline:
    """The pipeline for some overrides, as typed after ``saint run``. Raises ``SpecError``."""
    return pipeline(composed(overrides))


def pipeline(config: Mapping[str, Any], given: str = "") -> Pipeline:
    """The typed pipeline of a plain configuration: decoded, pinned, and checked as a whole. Raises ``SpecError``.

    ``given``: the stage (``train``, ``mine``, ``explain``) up to which a store has all, so that nothing above it is checked.
    """
    kind = str((config.get("client") or {}).get("kind"))
    for name in ("client", "runtime"):  # before anything that shows what was typed
        url = (config.get(name) or {}).get("base_url")
        without_password(url if isinstance(url, str) else None, f"{name}.base_url", "ANTHROPIC" if "anthropic" in kind else "OPENAI")
    known = {*GROUPS, *SECTIONS}
    for name in ("explain", "score"):
        if named_in_file(latents := (config.get(name) or {}).get("latents")):  # read once, and not where workers are
            config = {**config, name: {**config[name], "latents": list(parsed_latents(latents, f"{name}.latents"))}}
    for name in sorted(set(config) - known):
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else "see saint run --cfg job for all there is"
        raise SpecError(f"{name} = {config[name]!r}, but there is no {name} in the configuration; {hint}")
    adopt = foreign.asked(config["sae"])
    nouns = {
        name: foreign.shape(adopt)
        if name == "sae" and adopt is not None
        else None
        if name == "client" and config[name].get("kind") == "none"
        else decode(f"tasks.{package}", config[name], name).pinned()
        for name, package in GROUPS.items()
    }
    if nouns["client"] is None and len(config["client"]) > 1:
        more = next(name for name in config["client"] if name != "kind")
        raise SpecError(f"client.{more} = {config['client'][more]!r}, but client is none; add client=anthropic_batch")
    capture, mining = dict(config["capture"]), dict(config["mine"])
    for name, (group, package) in MINING.items():
        if name in mining:
            mining[name] = _kind(mining[name], group, package, f"mine.{name}")
    mining["negatives"] = _kinds(mining.get("negatives"), "negative", "negatives", "mine.negatives")
    typed = capture.pop("hookpoints", None)
    hookpoints = () if adopt is not None and typed is None else hookpoints_of(typed)
    if adopt is not None:
        adopt, hookpoints = foreign.placed(adopt, hookpoints)
        config = {**config, "capture": {**config["capture"], "hookpoints": list(hookpoints)}}
    training, where = dict(config["train"]), place(config["backend"])
    init_from = training.pop("init_from", None)
    if init_from is not None:
        from flows.beginning import named

        init_from = named(where.store(), str(init_from))
        config = {**config, "train": {**training, "init_from": init_from}}  # the whole key, which stays that SAE's
    runtime = validated(Runtime, config["runtime"], "runtime")
    found = Pipeline(
        **nouns,
        scorers=_kinds(config["scorers"], "scorer", "scorers", "scorers"),
        hookpoints=hookpoints,
        capture=validated(CaptureSpec, {**capture, "hookpoint": Sites.parse(hookpoints[0]).reads[0]}, "capture"),
        train=validated(TrainSpec, {**training, "sae": nouns["sae"]}, "train"),
        evaluate=validated(EvaluateSpec, config["evaluate"], "evaluate"),
        mine=validated(MineSpec, mining, "mine"),
        amplify=dict(config.get("amplify") or {}),
        explain=dict(config["explain"]),
        score=dict(config["score"]),
        analyse=validated(AnalyseSpec, config.get("analyse") or {}, "analyse"),
        report=validated(ReportSpec, config["report"] or {}, "report"),
        runtime=runtime,
        backend=where,
        adopt=adopt,
        init_from=init_from,
        plain=dict(config),
    )
    if not given:
        _check_model(found)
        if init_from is not None:
            from flows.beginning import check

            check(found)
    if given != "explain":
        _check_explainer(found)
    if found.client is not None:
        found.client.check(found.runtime)
    found.backend.check()
    return found


def _kinds(value: Any, group: str, package: str, where: str) -> tuple[Any, ...]:
    """Kinds by name (with the fields of ``conf/<group>/<name>.yaml``) or as mappings with a ``kind``."""
    items = [value] if isinstance(value, (str, Mapping)) else list(value or [])
    return tuple(_kind(item, group, package, where) for item in items)


def _kind(item: Any, group: str, package: str, where: str) -> Any:
    fields = item if isinstance(item, Mapping) else {"kind": item}
    return decode(f"tasks.{package}", {**fields_of(group, str(fields.get("kind"))), **fields}, where).pinned()


def _check_model(p: Pipeline) -> None:
    """What no spec can see alone of the model and the SAE."""
    facts = p.lm.facts()
    for sites in map(Sites.parse, p.hookpoints):
        if p.adopt is None:
            spreads(p.runtime, p.sae)
            _check_sites(p, sites)
        else:
            foreign.check(p.adopt, facts)
        if facts is None:
            continue
        sites.check(facts.n_layers, facts.name)
        d_in, d_out = sites.widths(facts)
        if d_in is None or d_out is None:
            continue
        p.sae.check(d_in, d_out)
        if p.adopt is None:
            spreads(p.runtime, p.sae, d_in)
        if getattr(p.sae, "blocks", 1) > 1 and len(each := {Hookpoint.parse(h).width(facts) for h in sites.writes}) > 1:
            raise SpecError(
                f"sae.blocks = {len(sites.writes)}, but what is written at {sites} has rows of {sorted(each)} numbers, and blocks are of "
                "one length; use sae.blocks=1"
            )
        counted(parsed_latents(p.explain.get("latents", "all")), p.sae.size(d_in))
        counted(parsed_latents(p.score.get("latents", "all"), "score.latents"), p.sae.size(d_in), "score.latents")
        p.explainer.check(p.sae.size(d_in))
    if facts is not None and facts.context_length and p.capture.context_tokens > facts.context_length:
        raise SpecError(
            f"capture.context_tokens = {p.capture.context_tokens}, but {facts.name} reads at most "
            f"{facts.context_length}; use {facts.context_length}"
        )


def _check_sites(p: Pipeline, sites: Sites) -> None:
    """Whether the norm and the SAE suit what is read and what is written."""
    blocks = getattr(p.sae, "blocks", 1)
    if blocks not in (1, len(sites.writes)):
        raise SpecError(
            f"sae.blocks = {blocks}, but at {sites} the SAE writes {len(sites.writes)} hookpoint{'s' * (len(sites.writes) > 1)}; "
            f"use sae.blocks={len(sites.writes)}"
        )
    if sites.gives_back:
        if p.sae.skip:
            raise SpecError(
                f"sae.skip = true, but at {sites} the SAE writes what it reads, so that a linear map alone gives all of it back; "
                "use sae.skip=false, or capture.hookpoints=[reads:writes]"
            )
        return
    if p.norm.PER_TOKEN:
        raise SpecError(not_undone(p.norm, sites.writes[0]))
    if p.sae.subtract_b_dec:
        raise SpecError(
            f"sae.subtract_b_dec = true, but at {sites} the SAE writes something else than it reads, so that b_dec is no point of its "
            "input; use sae.subtract_b_dec=false, or sae=transcoder"
        )


def _check_explainer(p: Pipeline) -> None:
    """Whether the explainer has whom to ask."""
    if p.client is None and p.explainer.NEEDS_CLIENT:
        raise SpecError(
            f"explainer = {p.plain['explainer']['kind']!r}, but it asks an LLM and client is none; "
            "use client=anthropic_batch, or explainer=lexical"
        )
