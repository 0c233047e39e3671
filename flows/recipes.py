"""The whole DAG on one screen. Pure: nothing is read, nothing is done, every key is known at the end."""

from __future__ import annotations

from dataclasses import dataclass, field

from flows.config import Pipeline
from tasks.amplify import AmplifySpec, amplify
from tasks.capture import capture
from tasks.corpus import CorpusSpec, corpus
from tasks.encode import EncodeSpec, encode
from tasks.evaluate import evaluate
from tasks.explain import ExplainSpec, explain
from tasks.explainers.base import Explainer
from tasks.kinds import validated
from tasks.mine import mine
from tasks.normalise import NormaliseSpec, normalise
from tasks.provide import ProvideSpec, provide
from tasks.report import report
from tasks.score import ScoreSpec, score
from tasks.scorers.base import Scorer
from tasks.stage import Recipe
from tasks.train import train


@dataclass
class Wanted:
    """What a run is to end with."""

    finals: list[Recipe] = field(default_factory=list)
    """A report for each hookpoint, in the order in which hookpoints were typed; of a sweep, also its comparison."""

    named: dict[str, dict[str, Recipe]] = field(default_factory=dict)
    """Hookpoint (in a sweep, with what was swept) to stage name to recipe, for stages that are one artifact (scores as
    ``score/<kind>``)."""

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
    for hookpoint in p.hookpoints:

        def shards(split: str, n: int, hookpoint: str = hookpoint) -> list[Recipe]:
            at = {"hookpoint": hookpoint, "split": split, "n_shards": n}
            return [capture(p.capture.model_copy(update={**at, "shard": i}), corpus=text, lm=lm) for i in range(n)]

        training, validation, test = shards("train", p.capture.n_shards), shards("validation", 1), shards("test", 1)
        norm = normalise(NormaliseSpec(norm=p.norm), shards=training)
        sae = train(p.train, shards=training, validation=validation, norm=norm)
        metrics = evaluate(p.evaluate, lm=lm, sae=sae, shards=test)
        encoded = [encode(EncodeSpec(), sae=sae, shard=shard) for shard in training + test]
        mined = mine(p.mine, sae=sae, lm=lm, encoded=encoded)
        extra = {"lm": lm, "sae": sae, "corpus": text}
        p.explainer.check(sae=sae.address)
        if any("amplify" in kind.INPUTS for kind in (p.explainer, *p.scorers)):
            chosen = {"latents": p.explain.get("latents", "all"), **p.amplify}
            extra["amplify"] = amplify(validated(AmplifySpec, chosen, "amplify"), lm=lm, sae=sae, mine=mined)

        def inputs(kind: Explainer | Scorer, extra: dict[str, Recipe] = extra) -> dict[str, Recipe]:
            return {name: extra[name] for name in sorted(kind.INPUTS)}

        asked = p.client if p.explainer.NEEDS_CLIENT else None
        spec = validated(ExplainSpec, {**p.explain, "explainer": p.explainer, "client": asked}, "explain")
        explained = explain(spec, mine=mined, **inputs(p.explainer))
        scores = [
            score(
                validated(ScoreSpec, {**p.score, "scorer": scorer, "client": p.client}, "score"),
                mine=mined,
                explain=explained,
                **inputs(scorer),
            )
            for scorer in p.scorers
        ]
        page = report(
            p.report, corpus=text, lm=lm, train=sae, evaluate=metrics, mine=mined, explain=explained, scores=scores
        )
        wanted.finals.append(page)
        wanted.named[hookpoint] = {
            "corpus": text, "lm": lm, "normalise": norm, "train": sae, "evaluate": metrics, "mine": mined,
            "explain": explained, "report": page, **{f"score/{s.spec.scorer.kind}": s for s in scores},
            **{name: recipe for name, recipe in extra.items() if name == "amplify"},
        }  # fmt: skip
    return wanted
