"""The stage that measures explanations on windows that no explainer saw, and beside it what chance would score.

The blind control puts the same windows to the same judge with another latent's explanation. Its mean comes out near
0.5 when the measure is sound; where it does not, windows give answers away, or many latents mean the same.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from random import Random
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator

from tasks.analysis.estimates import mean
from tasks.asking import Bill, Rows, Troubles, ask, shown
from tasks.choosing import chosen, parsed_latents
from tasks.clients.base import Client, Reply, Request
from tasks.devices import guarded
from tasks.explain import explanations
from tasks.explainers.base import Explanation, LatentExamples
from tasks.lazy import pa
from tasks.scorers.base import Bench, Score, Scorer
from tasks.spec import Spec, SpecError
from tasks.stage import Job, Summary, stage

if TYPE_CHECKING:
    from tasks.steering.subject import Subject


class ScoreSpec(Spec):
    """How explanations are scored."""

    scorer: Scorer
    """The kind of scorer and its settings."""

    client: Client | None = None
    """The LLM that judges; null leaves explanations without a rule of their own unscored."""

    control: bool = True
    """Also judge each latent by another latent's explanation. Doubles the cost of judging."""

    latents: Annotated[str | tuple[int, ...], BeforeValidator(lambda found: parsed_latents(found, "score.latents"))] = "all"
    """Of the latents that were explained, which are scored; as in ``explain.latents``."""

    KEEPS_KEY = {"latents": "all"}

    seed: int = 0
    """Of the choice of windows, of their marks, and of whose explanation is the control."""


@stage("score", version=3, tags=("llm",))
def score(job: Job[ScoreSpec]) -> Summary:
    """One score, or the reason why there is none, per explanation.

    Inputs: ``mine``, ``explain``, and what the scorer names in ``INPUTS``.
    """
    with ExitStack() as until_done:
        return _scored(job, bench_of(job, until_done))


def _scored(job: Job[ScoreSpec], bench: Bench) -> Summary:
    spec = job.spec
    explained = explanations(job.one("explain"))
    latents = list(explained)
    if spec.latents != "all":
        wanted = set(chosen(spec.latents, job.one("mine"), "score.latents"))
        latents = [latent for latent in latents if latent in wanted]
        if not latents:
            raise SpecError(
                f"score.latents = {spec.latents!r}, but {job.one('explain').artifact} explains none of these; choose some that it does"
            )
    work = _Scoring(spec, explained, bench)
    replies: Mapping[str, Reply] = {}
    if spec.client is not None and any(work.asks(e) for e in map(explained.__getitem__, latents) if work.takes(e)):

        def questions() -> Iterator[Request]:
            for found in shown(job, latents):
                for which, explanation in enumerate(work.pair(found.latent)):
                    yield from work.requests(which, explanation, found)

        replies = ask(job, spec.client, questions)
    statuses: Counter[str] = Counter()
    answers: Counter[str] = Counter()
    values, controls, chances, bill = [], [], [], Bill()
    with (
        Rows(job.out / "scores.parquet", _scores_schema()) as rows,
        Rows(job.out / "answers.parquet", _answers_schema()) as answer_rows,
        job.progress.bar(f"score {work.name}", len(latents), "latents") as bar,
    ):
        for found in shown(job, latents):
            own = Bill()
            scores = [work.score(i, e, found, replies, own, bill) for i, e in enumerate(work.pair(found.latent))]
            scored, control = scores[0], scores[1] if len(scores) > 1 else None
            statuses[scored.status] += 1
            chance = work.chance(scored)
            answers.update(answer.status for answer in scored.answers)
            if scored.value is not None:
                values.append(scored.value)
                chances.append(chance)
            if control is not None and control.value is not None:
                controls.append(control.value)
            rows.add(
                latent=found.latent, scorer=work.name, metric=work.scorer.METRIC, chance=chance, status=scored.status,
                value=scored.value, low=scored.low, high=scored.high, n=scored.n, n_positive=scored.n_positive,
                base_rate=scored.base_rate,
                control_value=control and control.value, control_n=control.n if control else 0,
                control_latent=work.partners.get(found.latent), extra=json.dumps(scored.extra),
                input_tokens=own.input_tokens, output_tokens=own.output_tokens, usd=own.usd,
            )  # fmt: skip
            for is_control, judged in enumerate(scores):
                for answer in judged.answers:
                    answer_rows.add(latent=found.latent, control=bool(is_control), **dataclasses.asdict(answer))
            bar.advance(1, usd=round(bill.usd or 0.0, 4))
    work.troubles.raise_if_all()
    return {
        "scorer": work.name,
        "metric": work.scorer.METRIC,
        "chance": statistics.fmean(chances) if chances else work.scorer.CHANCE,
        "range": list(work.scorer.RANGE),
        **_mean("", values, work.scorer.RANGE),
        **_mean("control_", controls, work.scorer.RANGE),
        "n": len(latents),
        "n_ok": statuses["ok"],
        "statuses": dict(sorted(statuses.items())),
        "answers": dict(sorted(answers.items())),
        "n_missing": answers.total() - answers["ok"],
        **bill.summary(),
    }


def bench_of(job: Job[ScoreSpec], until_done: ExitStack) -> Bench:
    """The bench that a scoring stage's scorers measure on; holds the device from its first model on until all is done."""

    def open_subject() -> Subject:
        from tasks.steering.subject import Subject

        return Subject.open(job.one("lm"), job.one("sae"), job.runtime)

    return Bench(job.runtime, open_subject, lambda: until_done.enter_context(guarded(job.runtime, job.progress)))


class _Scoring:
    """The scorer with its client, its controls, and the trouble that single latents made."""

    def __init__(self, spec: ScoreSpec, explained: dict[int, Explanation], bench: Bench) -> None:
        self.scorer, self.client, self.seed, self.bench = spec.scorer, spec.client, spec.seed, bench
        self.name = str(getattr(spec.scorer, "kind", type(spec.scorer).__name__))
        self.explained = explained
        self.partners = partners(explained, spec.seed) if spec.control and spec.scorer.USES_EXPLANATION else {}
        self.troubles = Troubles()

    def takes(self, explanation: Explanation) -> bool:
        """Whether there is something to score: an explanation, or a scorer that does without."""
        return explanation.status == "ok" or not self.scorer.USES_EXPLANATION

    def asks(self, explanation: Explanation) -> bool:
        return self.scorer.needs_client(explanation.predicate is not None)

    def chance(self, scored: Score) -> float:
        """What an explanation without worth comes to: in this score where it says so, else in the scorer's metric."""
        own = scored.extra.get("chance")
        return float(self.scorer.CHANCE if own is None else own)

    def pair(self, latent: int) -> list[Explanation]:
        """A latent's explanation, and the one that is its control."""
        pair = [self.explained[latent]]
        if latent in self.partners:
            pair.append(dataclasses.replace(self.explained[self.partners[latent]], latent=latent))
        return pair

    def requests(self, which: int, explanation: Explanation, found: LatentExamples) -> list[Request]:
        if not self.takes(explanation) or self.client is None or not self.asks(explanation):
            return []
        return self.troubles.around(
            (found.latent, which), lambda: self.scorer.requests(explanation, found, self.seed), lambda why: []
        )

    def score(
        self, which: int, explanation: Explanation, found: LatentExamples, replies: Mapping[str, Reply], *bills: Bill
    ) -> Score:
        if self.takes(explanation) and self.client is None and self.asks(explanation):
            return Score(found.latent, "no_judge")
        requests = self.requests(which, explanation, found)
        mine = [replies[self.client.digest(request)] for request in requests] if self.client is not None else []
        for bill in bills:
            bill.add(mine)
        if error := self.troubles.found.get((found.latent, which)):
            return Score(found.latent, "errored", extra={"error": str(error)})
        return self.troubles.around(
            (found.latent, which),
            lambda: self.scorer.score(mine, explanation, found, self.seed, self.bench),
            lambda why: Score(found.latent, "errored", extra={"error": why}),
        )


def partners(explained: dict[int, Explanation], seed: int) -> dict[int, int]:
    """Whose explanation is each latent's control: never its own, nor one that says the same."""
    order = sorted(latent for latent, explanation in explained.items() if explanation.status == "ok")
    Random(f"{seed}/partners").shuffle(order)
    said = [(explained[latent].label, json.dumps(explained[latent].predicate, sort_keys=True)) for latent in order]
    found = {}
    for i, latent in enumerate(order):
        other = next((j % len(order) for j in range(i + 1, i + len(order)) if said[j % len(order)] != said[i]), None)
        if other is not None:
            found[latent] = order[other]
    return found


def _mean(name: str, values: list[float], bounds: tuple[float, float]) -> dict[str, float | int | None]:
    """Mean over latents with its interval, median, and how many."""
    found = mean(values).within(bounds)
    return {
        f"{name}mean": found.value,
        f"{name}mean_low": found.low,
        f"{name}mean_high": found.high,
        f"{name}median": statistics.median(values) if values else None,
        f"{name}n": found.n,
    }


def _scores_schema() -> pa.Schema:
    return pa.schema(
        [
            ("latent", pa.int32()),
            ("scorer", pa.string()),
            ("metric", pa.string()),
            ("chance", pa.float64()),
            ("status", pa.string()),
            ("value", pa.float64()),
            ("low", pa.float64()),
            ("high", pa.float64()),
            ("n", pa.int32()),
            ("n_positive", pa.int32()),
            ("base_rate", pa.float64()),
            ("control_value", pa.float64()),
            ("control_n", pa.int32()),
            ("control_latent", pa.int32()),
            ("extra", pa.string()),
            ("input_tokens", pa.int64()),
            ("output_tokens", pa.int64()),
            ("usd", pa.float64()),
        ]
    )


def _answers_schema() -> pa.Schema:
    return pa.schema(
        [
            ("latent", pa.int32()),
            ("window_id", pa.string()),
            ("truth", pa.bool_()),
            ("predicted", pa.bool_()),
            ("quantile", pa.int32()),
            ("probability", pa.float64()),
            ("group", pa.string()),
            ("status", pa.string()),
            ("control", pa.bool_()),
        ]
    )
