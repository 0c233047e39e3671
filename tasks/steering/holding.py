"""A model of transformers that is steered for a while, whoever calls it and however. Shapes: B rows, T tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from tasks.lazy import np, torch
from tasks.lm.contexts import Context
from tasks.steering.push import Positions, Push, Row, Steering, check_pushes

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.steering.subject import Subject


@contextmanager
def holding(subject: Subject, pushes: Sequence[Push], positions: Positions = "all") -> Iterator[Any]:
    """The subject's model, with every row of every call pushed; what was there before comes back with the end of the block.

    Special tokens, padding among them, are left as they are; of a call with ``inputs_embeds``, what has a special token's embedding.
    ``last`` counts the tokens that come while the key-value cache is empty as the prompt. For the time of the block the model is
    this thread's: other threads wait. Raises ``SpecError``.
    """
    check_pushes(subject.saes, pushes)
    specials = torch.tensor(sorted(subject.lm.tokenizer.all_special_ids), dtype=torch.int64)
    none = np.zeros(0, np.int64)
    nothing = Context(none, none.astype(bool), none, 0)
    passing = ExitStack()
    embed = subject.lm.model.get_input_embeddings()

    def special(token_BT: Tensor | None, x_BTD: Tensor | None) -> Tensor:
        if token_BT is not None:
            return torch.isin(token_BT.cpu(), specials)
        found_BT = torch.zeros(x_BTD.shape[:2], dtype=torch.bool)
        for own_D in embed(specials.to(embed.weight.device)).to(x_BTD):
            found_BT |= (x_BTD == own_D).all(-1).cpu()
        return found_BT

    def began(_model: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        where_BT = ~special(arguments[0] if arguments else named.get("input_ids"), named.get("inputs_embeds"))
        past = named.get("past_key_values")
        if past is not None and past.get_seq_length() > 0:
            where_BT = torch.ones_like(where_BT)
        elif positions == "last":
            where_BT[:, :-1] = False
        steering = Steering(subject.saes, [Row(nothing, tuple(pushes))] * len(where_BT))
        passing.enter_context(subject.lm.edited(steering.over(lambda n_tokens: _of(where_BT, n_tokens))))

    def ended(*_: Any) -> None:
        passing.close()

    with subject.lm.edited(()), ExitStack() as hooks:
        hooks.callback(subject.lm.model.register_forward_pre_hook(began, with_kwargs=True).remove)
        hooks.callback(subject.lm.model.register_forward_hook(ended, always_call=True).remove)
        hooks.callback(passing.close)
        yield subject.lm.model


def _of(where_BT: Tensor, n_tokens: int) -> Tensor:
    return where_BT[:, -n_tokens:]
