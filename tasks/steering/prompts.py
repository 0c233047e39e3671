"""What a model goes on from: texts, and conversations put as its tokenizer's chat template has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tasks.lazy import np
from tasks.lm.contexts import Context, of_texts
from tasks.spec import SpecError

if TYPE_CHECKING:
    from tasks.lm.language_model import LanguageModel

_SHOWN = 40
"""Characters of a prompt that an error repeats."""


def beginnings(lm: LanguageModel, prompts: Sequence[Any], where: str = "prompt") -> list[Context]:
    """Prompts as tokens: a text as a corpus' are (BOS in front where the tokenizer has one, no end), or messages, which are
    mappings or objects with ``role`` and ``content``.

    Raises ``SpecError`` for no prompt, one of no token, one that leaves no room for an answer, and messages that the tokenizer
    has no template for.
    """
    if not prompts:
        raise SpecError(f"{where}s = [], but a model goes on from something; give one")
    found = []
    for i, prompt in enumerate(prompts, 1):
        text = isinstance(prompt, str)
        shown = prompt if text else (_message(prompt[-1])["content"] if prompt else "")
        said = f"{where} {i} = {shown if len(shown) <= _SHOWN else shown[:_SHOWN] + '…'!r}"
        (context,) = of_texts([prompt], lm.tokenizer, lm.bos_token_id, None) if text else [_conversation(lm, prompt, said)]
        n = len(context.token_id)
        if not n:
            raise SpecError(f"{said}, but it has no token, and {lm.name} has no BOS to begin with; write a word")
        if lm.context_length is not None and n >= lm.context_length:
            raise SpecError(
                f"{said}, but it is {n:,} tokens and {lm.name} reads at most {lm.context_length:,}, what it writes included; shorten it"
            )
        found.append(context)
    return found


def _conversation(lm: LanguageModel, messages: Sequence[Any], said: str) -> Context:
    """Messages as the template puts them, and the beginning of the answer: a last message of the assistant's is gone on with."""
    import jinja2

    if getattr(lm.tokenizer, "chat_template", None) is None:
        raise SpecError(f"{said} is a conversation, but {lm.name} has no chat template; give a text to go on from")
    plain = [_message(message) for message in messages]
    begun = bool(plain) and plain[-1]["role"] == "assistant"
    try:
        ids = lm.tokenizer.apply_chat_template(
            plain, tokenize=True, return_dict=True, add_generation_prompt=not begun, continue_final_message=begun
        )["input_ids"]
    except (jinja2.TemplateError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SpecError(f"{said} is a conversation that the chat template of {lm.name} refuses ({reason}); change its roles") from None
    token_id = np.array(ids, np.int64)
    return Context(token_id, ~np.isin(token_id, sorted(lm.tokenizer.all_special_ids)), np.zeros_like(token_id), 0)


def _message(message: Any) -> dict[str, str]:
    held = message if isinstance(message, dict) else vars(message)
    return {"role": held["role"], "content": held["content"]}
