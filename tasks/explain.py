"""The stage that says what latents mean: every question is put at once, and every answer kept with its price."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator

from tasks.asking import Bill, Rows, Troubles, ask, shown
from tasks.choosing import chosen, parsed_latents
from tasks.clients.base import Client, Request
from tasks.explainers._files import ORIGIN
from tasks.explainers.base import Explainer, Explanation, LatentExamples
from tasks.lazy import pa, pq
from tasks.spec import Spec, SpecError
from tasks.stage import Job, Summary, stage

if TYPE_CHECKING:
    from artifacts.store import Opened


class ExplainSpec(Spec):
    """Who explains which latents."""

    explainer: Explainer
    """The kind of explainer and its settings."""

    client: Client | None = None
    """The LLM asked; null for explainers that ask none."""

    latents: Annotated[str | tuple[int, ...], BeforeValidator(parsed_latents)] = "all"
    """``all``, a range such as ``0:100``, a list of latents, ``file:PATH`` with such a list, or ``top:100``: the latents
    of most interest (``tasks/mining/interest.py``)."""


@stage("explain", version=1, tags=("llm",))
def explain(job: Job[ExplainSpec]) -> Summary:
    """One explanation, or the reason why there is none, for each chosen latent.

    Inputs: ``mine``, and what the explainer names in ``INPUTS``.
    """
    spec, mined = job.spec, job.one("mine")
    explainer, client = spec.explainer, spec.client
    if explainer.NEEDS_CLIENT and client is None:
        raise SpecError(
            f"client is none, but explainer {getattr(explainer, 'kind', '')!r} asks an LLM; use client=anthropic_batch"
        )
    latents = chosen(spec.latents, mined)
    origin = origin_of(mined)
    explainer.check(origin["n_latents"], origin["sae"])
    troubles = Troubles()

    def requests_of(found: LatentExamples) -> list[Request]:
        return troubles.around(found.latent, lambda: explainer.requests(found), lambda why: [])

    def questions() -> Iterator[Request]:
        for found in shown(job, list(latents)):
            yield from requests_of(found)

    client = client if explainer.NEEDS_CLIENT else None
    replies = {} if client is None else ask(job, client, questions)
    statuses: Counter[str] = Counter()
    bill, model = Bill(), getattr(client, "model", None)
    with (
        Rows(job.out / "explanations.parquet", _schema().with_metadata({ORIGIN: json.dumps(origin)})) as rows,
        job.progress.bar("explain", len(latents), "latents") as bar,
    ):
        for found in shown(job, list(latents)):
            digests = [] if client is None else [client.digest(request) for request in requests_of(found)]
            mine = [replies[digest] for digest in digests]
            if found.latent in troubles.found:
                explanation = _failed(found.latent, str(troubles.found[found.latent]))
            else:
                explanation = troubles.around(
                    found.latent,
                    lambda mine=mine, found=found: explainer.read(mine, found),
                    lambda why, found=found: _failed(found.latent, why),
                )
            own = Bill()
            own.add(mine)
            bill.add(mine)
            statuses[explanation.status] += 1
            rows.add(
                latent=found.latent,
                status=explanation.status,
                label=explanation.label,
                confidence=explanation.confidence,
                predicate=None if explanation.predicate is None else json.dumps(explanation.predicate),
                evidence=json.dumps(explanation.evidence),
                model=model,
                request_digest=",".join(digests) or None,
                input_tokens=own.input_tokens,
                output_tokens=own.output_tokens,
                usd=own.usd,
            )
            bar.advance(1, usd=round(bill.usd or 0.0, 4))
    troubles.raise_if_all()
    return {"n": len(latents), "n_ok": statuses["ok"], "statuses": dict(sorted(statuses.items())), **bill.summary()}


def origin_of(mined: Opened) -> dict[str, Any]:
    """Of which SAE a mine artifact, and so what is said on the ground of it, is: that of the artifact with the SAE, where
    it is an input, and the number of latents. Travels with explanations as metadata, so that they are put to no other."""
    sae = mined.manifest.inputs.get("sae")
    n_latents = pq.read_metadata(mined.path / "latents.parquet").num_rows
    return {"sae": sae if isinstance(sae, str) else None, "n_latents": n_latents, "mine": f"{mined.artifact.stage}/{mined.artifact.key}"}


def _failed(latent: int, why: str) -> Explanation:
    return Explanation(latent, "errored", evidence={"error": why})


def _schema() -> pa.Schema:
    return pa.schema(
        [
            ("latent", pa.int32()),
            ("status", pa.string()),
            ("label", pa.string()),
            ("confidence", pa.float64()),
            ("predicate", pa.string()),
            ("evidence", pa.string()),
            ("model", pa.string()),
            ("request_digest", pa.string()),
            ("input_tokens", pa.int64()),
            ("output_tokens", pa.int64()),
            ("usd", pa.float64()),
        ]
    )


def explanations(opened: Opened) -> dict[int, Explanation]:
    """Every explanation of an explain artifact, by latent."""
    columns = ["latent", "status", "label", "confidence", "predicate", "evidence"]
    return {
        row["latent"]: Explanation(
            latent=row["latent"],
            status=row["status"],
            label=row["label"],
            confidence=row["confidence"],
            predicate=None if row["predicate"] is None else json.loads(row["predicate"]),
            evidence=json.loads(row["evidence"]),
        )
        for row in pq.read_table(opened.path / "explanations.parquet", columns=columns).to_pylist()
    }


def labels(several: Sequence[Opened]) -> dict[int, str]:
    """What latents are said to mean in some explain artifacts, the newest first: of each latent the newest label."""
    found: dict[int, str] = {}
    for opened in reversed(several):
        found |= {latent: e.label for latent, e in explanations(opened).items() if e.status == "ok" and e.label}
    return found
