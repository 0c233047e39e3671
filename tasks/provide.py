"""Provide a language model: train it, or pin where it lies."""

from __future__ import annotations

import json

from tasks.lms.base import LMSpec
from tasks.spec import Spec
from tasks.stage import Job, Summary, stage


class ProvideSpec(Spec):
    """Which language model."""

    lm: LMSpec

    def payload(self) -> dict:
        return self.lm.payload()


@stage("lm", version=1, tags=("gpu",))
def provide(job: Job[ProvideSpec]) -> Summary:
    """Write ``lm.json``, the facts of the model, and for a trained one the folder ``model/``."""
    facts = job.spec.lm.provide(job)
    (job.out / "lm.json").write_text(json.dumps(facts, indent=1))
    return facts
