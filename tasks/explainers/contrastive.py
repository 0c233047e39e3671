"""The contrastive explainer: passages on which a latent is active against those on which one would expect it to be.

Near misses and the windows of similar latents rule out readings that random passages leave standing (the idea of
delphi's contrastive explainer, EleutherAI/delphi#107, with negatives that no embedding has to be loaded for).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from tasks.explainers._asking import CONFIDENCE, LABEL, Asking
from tasks.explainers._shown import STRANGERS, how_marked, lured, marked, preferred, spread
from tasks.explainers.base import LatentExamples
from tasks.kinds import kinds
from tasks.spec import SpecError

_HARD = ("near_miss", "decoder", "encoder", "cooccurrence", "embedding")
_AT_PEAK = {"near_miss", "decoder", "encoder", "cooccurrence"}
"""Groups of windows whose peak is why they were drawn: a token of the latent's, or one that sets off its neighbour."""

_QUESTION = """\
You study single latents of a sparse autoencoder trained on the activations of a language model. For one latent you \
get a JSON object with two sets of passages, and say what sets them apart.

What the JSON holds. A passage is an array to be read from left to right.
- "active": passages on which the latent is active, strong ones first. {marks}
- "contrast": passages on which the latent is not active anywhere, chosen because they resemble the others: they hold \
the same words, or set off latents that are much alike. In some, a pair [token, 0] is the token that speaks for \
activity, and yet there is none.

What the two sets have in common explains nothing. Look for what every active passage has and no contrast has: another \
sense of the word, another neighbour before it, another place in the sentence, another subject.

{strangers}"""


def _groups(order: tuple[str, ...]) -> tuple[str, ...]:
    known = list(dict.fromkeys([*_HARD, "random", *kinds("tasks.negatives")]))
    unknown = [group for group in order if group not in known]
    if unknown or not order:
        raise SpecError(
            f"explainer.prefer = {list(order)}, but non-activating windows are {', '.join(known)}; name some of these"
        )
    return order


class Contrastive(Asking):
    """Asks an LLM once per latent what sets active passages apart from others like them."""

    REASONING: ClassVar[str] = """\
at most three short sentences: which simple reading of the active passages the contrasts refute, and what is left."""

    kind: Literal["contrastive"] = "contrastive"

    n_active: int = Field(15, ge=1)
    """Activating windows shown: half of them the strongest, the rest spread over the whole range."""

    n_contrast: int = Field(15, ge=1)
    """Non-activating windows shown."""

    prefer: Annotated[tuple[str, ...], AfterValidator(_groups)] = (*_HARD, "random")
    """Groups of non-activating windows: a later one is shown only where those before it do not fill ``n_contrast``;
    others are not shown."""

    activations: bool = True
    """Show how strong the latent is on each token, 1 to 10; without, only on which tokens it is active."""

    threshold: float = Field(0.0, ge=0, lt=1)
    """Share of the latent's largest activation up to which tokens are left unmarked; the peak of a window is marked
    always."""

    min_windows: int = Field(3, ge=1)
    """Windows of each sort without which nothing is asked."""

    def question(self) -> str:
        return _QUESTION.format(marks=how_marked(self.threshold, self.activations), strangers=STRANGERS)

    def answers(self) -> dict[str, str]:
        return {
            "label": LABEL + " It must not fit the contrasts.",
            "confidence": CONFIDENCE + " Use low values when nothing sets the two sets apart.",
        }

    def shown(self, examples: LatentExamples) -> dict[str, Any]:
        active = spread(examples.train(activating=True), self.n_active)
        return {
            "active": [marked(w, examples.max_value, self.threshold, self.activations) for w in active],
            "contrast": [lured(w, w.group in _AT_PEAK) for w in self._contrast(examples)],
        }

    def fitness(self, examples: LatentExamples) -> str:
        fewest = min(len(examples.train(activating=True)), len(self._contrast(examples)))
        return "ok" if fewest >= min(self.min_windows, self.n_contrast) else "too_few_examples"

    def _contrast(self, examples: LatentExamples) -> list:
        return preferred(examples.train(activating=False), self.n_contrast, self.prefer)
