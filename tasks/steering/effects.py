"""What a push does to the next token. Shapes: P prompts, V vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tasks.lazy import torch
from tasks.steering.push import Positions, Push, Row
from tasks.steering.tuning import Tuned, tuned

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.lm.contexts import Context
    from tasks.steering.subject import Subject

Change = tuple[str, float]
"""Text of a token, and by how much its probability rises or falls, mean over prompts."""


def kl(log_p_PV: Tensor, log_q_PV: Tensor) -> Tensor:
    """KL(untouched || pushed) = sum p (log p - log q) of each prompt, in nats: float32 [P].

    Untouched first, as Paulo et al. have it (2410.13928): it grows without bound as what the model would have said
    becomes impossible, where the other direction ends at the surprise of what it says instead.
    """
    return (log_p_PV.exp() * (log_p_PV - log_q_PV)).sum(-1)


def changes(log_p_PV: Tensor, log_q_PV: Tensor, texts: Sequence[str], n: int) -> tuple[tuple[Change, ...], tuple[Change, ...]]:
    """The ``n`` tokens whose probability rises most from p to q, and the ``n`` that fall most, mean over prompts."""
    more_V = (log_q_PV.exp() - log_p_PV.exp()).mean(0)
    up, down = more_V.topk(min(n, len(more_V))), (-more_V).topk(min(n, len(more_V)))
    raised = zip(up.values.tolist(), up.indices.tolist(), strict=True)
    lowered = zip(down.values.tolist(), down.indices.tolist(), strict=True)
    return tuple((texts[i], v) for v, i in raised if v > 0), tuple((texts[i], -v) for v, i in lowered if v > 0)


def tuned_strengths(
    subject: Subject,
    pushes: Sequence[Push],
    prompts: Sequence[Sequence[Context]],
    target_kl: float,
    positions: Positions = "all",
    **limits: float,
) -> list[Tuned]:
    """For each push the strength at which its mean KL divergence over its prompts is ``target_kl`` nats.

    All at once, in passes of many rows. ``prompts`` has the prompts of each push; equal ones are run untouched
    once. Keeps V numbers for each prompt of each push: bound how many are asked for together.
    """
    log_p = untouched(subject, [prompt for own in prompts for prompt in own], positions)

    def kl_at(which: Sequence[int], strengths: Sequence[float]) -> list[float]:
        turned = [pushes[i]._replace(strength=s) for i, s in zip(which, strengths, strict=True)]
        rows = [Row(prompt, (push,)) for i, push in zip(which, turned, strict=True) for prompt in prompts[i]]
        log_q_RV = subject.next_log_probs(rows, positions)
        found, start = [], 0
        for i in which:
            own = torch.stack([log_p[name_of(prompt)] for prompt in prompts[i]])
            found.append(float(kl(own, log_q_RV[start : start + len(own)]).mean()))
            start += len(own)
        return found

    return tuned(kl_at, len(pushes), target_kl, **limits)  # type: ignore[arg-type]


def untouched(subject: Subject, prompts: Sequence[Context], positions: Positions = "all") -> dict[bytes, Tensor]:
    """Log-probabilities_V after each different prompt, by ``name_of`` it."""
    different = {name_of(prompt): prompt for prompt in prompts}
    log_p_PV = subject.next_log_probs([Row(prompt) for prompt in different.values()], positions)
    return dict(zip(different, log_p_PV, strict=True))


def name_of(prompt: Context) -> bytes:
    """What prompts of the same tokens have in common."""
    return prompt.token_id.tobytes()
