"""Explanations of an earlier run, or from elsewhere, taken as they are: to score them again, or beside others."""

from __future__ import annotations

import dataclasses
from typing import Literal

from tasks.clients.base import Reply
from tasks.explainers._from_file import FromFile
from tasks.explainers.base import Explanation, LatentExamples, one_line


class Load(FromFile):
    """Each latent's own explanation in a file; ``not_in_file`` for those that have none there."""

    kind: Literal["load"] = "load"

    def read(self, replies: list[Reply], examples: LatentExamples) -> Explanation:
        found = self.loaded().explanations.get(examples.latent)
        if found is None:
            return Explanation(examples.latent, "not_in_file")
        return dataclasses.replace(found, label=one_line(found.label, self.max_label_characters))
