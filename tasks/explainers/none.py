"""No explanation: for scorers that use none, such as ``intruder``, which measure the latent alone."""

from __future__ import annotations

from typing import ClassVar, Literal

from tasks.clients.base import Reply
from tasks.explainers.base import Explainer, Explanation, LatentExamples


class Nothing(Explainer):
    """Explains nothing and costs nothing; what scores explanations says ``no_explanation``."""

    NEEDS_CLIENT: ClassVar[bool] = False
    SAYS: ClassVar[Literal["own", "other", "nothing"]] = "nothing"
    kind: Literal["none"] = "none"

    def read(self, replies: list[Reply], examples: LatentExamples) -> Explanation:
        return Explanation(examples.latent, "none")
