"""The whole DAG on one screen. Pure: nothing is read, nothing is done, every key is known at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from flows import beginning
from flows.config import Pipeline
from tasks.adopt import adopt
from tasks.amplify import AmplifySpec, amplify
from tasks.analyse import analyse
from tasks.analysis.naming import titles
from tasks.capture import capture
from tasks.clients.base import Client
from tasks.corpus import CorpusSpec, corpus
from tasks.encode import EncodeSpec, encode
from tasks.evaluate import evaluate
from tasks.explain import ExplainSpec, explain
from tasks.explainers.base import Explainer
from tasks.kinds import validated
from tasks.lm.sites import Sites
from tasks.mine import mine
from tasks.normalise import NormaliseSpec, normalise
from tasks.provide import ProvideSpec, provide
from tasks.report import report
from tasks.score import ScoreSpec, score
from tasks.scorers.base import Scorer
from tasks.spec import SpecError
from tasks.stage import Recipe
from tasks.train import train

Shard = tuple[Recipe, ...]
"""The captures of one shard, at each hookpoint of an SAE in the order of ``Sites.hookpoints``."""


@dataclass
class Wanted:
    """What a run is to end with."""

    finals: list[Recipe] = field(default_factory=list)
    """A report for each hookpoint, in the order in which hookpoints were typed; of a sweep, also its comparison."""

    named: dict[str, dict[str, Recipe]] = field(default_factory=dict)
    """Hookpoint (in a sweep, with what was swept) to stage name to recipe, for stages that are one artifact (scores as
    ``score/<kind>``, with what tells them apart where a kind is there twice)."""

    def all(self) -> list[Recipe]:
        """Every recipe that a wanted one rests on, parents first, each once."""
        order: dict[Recipe, None] = {}

        def visit(recipe: Recipe) -> None:
            if recipe not in order:
                for parent in recipe.parents():
                    visit(parent)
                order[recipe] = None

        for final in self.finals:
            visit(final)
        return list(order)


def recipes(p: Pipeline) -> Wanted:
    """From a pipeline to recipes."""
    text = corpus(CorpusSpec(corpus=p.corpus))
    lm = provide(ProvideSpec(lm=p.lm), **({"corpus": text} if p.lm.NEEDS_CORPUS else {}))
    wanted = Wanted()
    for sites in map(Sites.parse, p.hookpoints):
        training, validation, test = (
            captured(p, sites, split, n, text, lm) for split, n in (("train", p.capture.n_shards), ("validation", 1), ("test", 1))
        )
        norms = {} if p.adopt else {
            at: normalise(NormaliseSpec(norm=p.norm), shards=[shard[i] for shard in training])
            for i, at in enumerate(sites.hookpoints)
        }
        if p.adopt:
            sae = adopt(p.adopt, lm=lm)
        else:
            spec = p.train if sites.one else p.train.model_copy(update={"sites": str(sites)})
            norm = norms[str(sites)] if sites.one else list(norms.values())
            init = {"init": beginning.recipe(p)} if p.init_from else {}
            sae = train(spec, shards=flat(training), validation=flat(validation), norm=norm, **init)
        metrics = evaluate(p.evaluate, lm=lm, sae=sae, shards=flat(test))
        mined = windows(p, lm, sae, sites, training + test)
        named = {
            "corpus": text, "lm": lm,
            **{"normalise" if sites.one else f"normalise/{at}": norm for at, norm in norms.items()},
            "train": sae, "evaluate": metrics, "mine": mined,
            **asking(p, {"corpus": text, "lm": lm, "sae": sae}, mined),
        }  # fmt: skip
        named["report"] = page(p, named)
        wanted.finals.append(named["report"])
        wanted.named[str(sites)] = named
    return wanted


def captured(p: Pipeline, sites: Sites, split: str, n: int, text: Recipe, lm: Recipe) -> list[Shard]:
    """The ``n`` shards of a split, at all hookpoints of an SAE."""
    each = [p.capture.model_copy(update={"hookpoint": h, "split": split, "n_shards": n}) for h in sites.hookpoints]
    return [tuple(capture(spec.model_copy(update={"shard": i}), corpus=text, lm=lm) for spec in each) for i in range(n)]


def flat(shards: Sequence[Shard]) -> list[Recipe]:
    """The captures of some shards, one after the other."""
    return [one for shard in shards for one in shard]


def windows(p: Pipeline, lm: Recipe, sae: Recipe, sites: Sites, shards: Sequence[Shard]) -> Recipe:
    """The windows that explainers and scorers see of an SAE, from captures of splits train and test."""
    encoded = []
    for shard in shards:
        read = [one for one, at in zip(shard, sites.hookpoints, strict=True) if at in sites.reads]
        encoded.append(encode(EncodeSpec(), sae=sae, shard=read[0] if len(read) == 1 else read))
    return mine(p.mine, sae=sae, lm=lm, encoded=encoded)


def asking(
    p: Pipeline, given: dict[str, Recipe], mined: Recipe, explained: Recipe | None = None
) -> dict[str, Recipe]:
    """All that comes after the windows: stages ``explain`` (if it is not given), ``score/<name>`` and ``analyse``.

    ``given`` is what kinds may name in ``INPUTS``: ``lm``, ``sae``, and ``corpus`` where it is known.
    """
    extra = dict(given)
    if any("amplify" in kind.INPUTS for kind in ([] if explained else [p.explainer]) + list(p.scorers)):
        chosen = {"latents": p.explain.get("latents", "all"), **p.amplify}
        spec = validated(AmplifySpec, chosen, "amplify")
        extra["amplify"] = amplify(spec, lm=extra["lm"], sae=extra["sae"], mine=mined)

    def inputs(kind: Explainer | Scorer) -> dict[str, Recipe]:
        for name in kind.INPUTS - extra.keys():
            raise SpecError(
                f"{getattr(kind, 'kind', kind)} needs the {name} that the SAE was trained on, but the store no longer knows it; "
                "use another kind, or make the SAE anew with saint run"
            )
        return {name: extra[name] for name in sorted(kind.INPUTS)}

    def judge(scorer: Scorer) -> Client | None:
        return p.client if scorer.needs_client(False) else None  # who asks no LLM has one key, whatever the client

    if explained is None:
        p.explainer.check(sae=extra["sae"].address)
        asked = p.client if p.explainer.NEEDS_CLIENT else None
        spec = validated(ExplainSpec, {**p.explain, "explainer": p.explainer, "client": asked}, "explain")
        explained = explain(spec, mine=mined, **inputs(p.explainer))
    specs = [validated(ScoreSpec, {**p.score, "scorer": s, "client": judge(s)}, "score") for s in p.scorers]
    names = titles([spec.payload() for spec in specs], "scorer")
    scores = {
        f"score/{name}": score(spec, mine=mined, explain=explained, **inputs(spec.scorer))
        for name, spec in zip(names, specs, strict=True)
    }
    return {
        **{name: recipe for name, recipe in extra.items() if name == "amplify"},
        "explain": explained, **scores,
        "analyse": analyse(p.analyse, mine=mined, explain=explained, scores=list(scores.values())),
    }  # fmt: skip


def page(p: Pipeline, named: dict[str, Recipe]) -> Recipe:
    """The report of what has these names."""
    inputs = {name: named[name] for name in ("corpus", "lm", "train", "evaluate", "mine", "explain")}
    return report(p.report, **inputs, scores=scores_of(named), statistics=named["analyse"])


def scores_of(named: dict[str, Recipe]) -> list[Recipe]:
    """The scores among some named recipes, in their order."""
    return [recipe for name, recipe in named.items() if name.startswith("score/")]
