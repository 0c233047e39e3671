"""A causal language model on this machine that answers batches of requests, greedily.

What a request says is text to the model's tokenizer, never markup: corpora hold ``</s>`` and ``<|im_start|>``, and none
of it may end a turn. So the two turns are encoded apart from the template around them, with special tokens off.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from tasks.clients._constrained import Grammars, Guide, Told, bounded
from tasks.clients.base import ClientError, Request
from tasks.lazy import torch, transformers
from tasks.lm.loading import free_memory, quiet

SYSTEM, USER = "\ue000system\ue001", "\ue000user\ue001"
"""Where the turns go; of a private-use area, so that no template looks at them."""

PLAIN = f"{SYSTEM}\n\nInput:\n{USER}\n\nAnswer:\n"
"""For models that were never taught to talk."""

FORMAT = "\n\nAnswer with one JSON object that follows this JSON schema, and with nothing else:\n"


class Prompt(NamedTuple):
    """A request, encoded."""

    request: Request
    token: list[int]
    budget: int
    """Most tokens of its answer: its own limit, or what the context has left."""


class Generated(NamedTuple):
    """An answer."""

    text: str
    n_tokens: int
    ended: bool
    """Whether the model came to an end by itself."""

    logprobs: list[list[Any]] | None


@lru_cache(maxsize=1)  # explaining and each scorer ask the same one
def opened(source: str, revision: str | None, local: bool, dtype: str, device: str, context_tokens: int | None) -> LocalLM:
    """A model, loaded once; kept until ``forget``."""
    options = {"revision": revision, "trust_remote_code": False, "local_files_only": local}
    try:
        with quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                source, dtype=dtype if dtype == "auto" else getattr(torch, dtype), use_safetensors=True, **options
            )
    except (OSError, ValueError) as error:
        raise ClientError(f"client = 'transformers', but {source} cannot be loaded ({error}); mend that") from None
    return LocalLM(tokenizer, model.to(device).eval(), device, context_tokens)


def forget() -> None:
    """Let go of the model and of the memory that it had on its device."""
    opened.cache_clear()
    free_memory()


class LocalLM:
    """A model with its tokenizer, on a device."""

    def __init__(self, tokenizer: Any, model: Any, device: str, context_tokens: int | None = None) -> None:
        self.tokenizer, self.model, self.device = tokenizer, model, device
        self.n_vocab = model.get_input_embeddings().num_embeddings
        config = model.config.get_text_config()
        own = getattr(config, "max_position_embeddings", None) or getattr(tokenizer, "model_max_length", None)
        if context_tokens and own and context_tokens > own and getattr(config, "rope_parameters", None) is None:
            raise ClientError(
                f"client.context_tokens = {context_tokens}, but this model has positions for {own} tokens; use {own}"
            )
        self.context_tokens: int = context_tokens or own or 2048
        tokenizer.model_max_length = sys.maxsize  # we count ourselves; it would warn of each long prompt
        self.eos = self._ends()

    def _ends(self) -> list[int]:
        told = self.model.generation_config.eos_token_id
        ends = [told] if isinstance(told, int) else list(told or [])
        ends += [] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]
        if not ends:
            raise ClientError("client = 'transformers', but the model has no end token; use another model")
        return sorted(set(ends))

    @cached_property
    def grammars(self) -> Grammars:
        return Grammars(self.tokenizer, self.n_vocab, self.eos)

    @cached_property
    def frame(self) -> list[list[int] | str]:
        """What stands around the turns, as tokens, with ``SYSTEM`` and ``USER`` for the turns."""
        template, special = PLAIN, True
        if getattr(self.tokenizer, "chat_template", None):
            template, special = self._chat([("system", SYSTEM), ("user", USER)]), False
            if SYSTEM not in template or USER not in template:  # a template without a system turn
                template = self._chat([("user", f"{SYSTEM}\n\n{USER}")])
        parts = [part for part in re.split(f"({SYSTEM}|{USER})", template) if part]
        framed: list[list[int] | str] = [
            part if part in (SYSTEM, USER) else self.tokenizer(part, add_special_tokens=False).input_ids for part in parts
        ]
        begins = self.tokenizer.bos_token_id
        return [[begins], *framed] if special and begins is not None else framed

    def _chat(self, turns: Sequence[tuple[str, str]]) -> str:
        from jinja2.exceptions import TemplateError

        messages = [{"role": role, "content": text} for role, text in turns]
        try:
            return self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
        except TemplateError:
            return ""  # so some templates say that they know no system turn

    def prompt(self, request: Request) -> Prompt:
        """A request as tokens. ``budget`` is below 1 when the context has no room."""
        asked = request.system
        if request.schema is not None:
            asked += FORMAT + json.dumps(request.schema, ensure_ascii=False, separators=(",", ":"))
        turns = {SYSTEM: asked, USER: request.user}
        token = [t for part in self.frame for t in (self._text(turns[part]) if isinstance(part, str) else part)]
        return Prompt(request, token, min(request.max_tokens, self.context_tokens - len(token)))

    def _text(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids

    def answers(self, prompts: Sequence[Prompt], most_characters: int) -> list[Generated]:
        """One answer each, in order, all in one pass; in two halves where memory does not do."""
        try:
            return self._answers(prompts, most_characters)
        except torch.cuda.OutOfMemoryError:
            if len(prompts) == 1:
                raise ClientError(
                    f"client = 'transformers', but {self.device} has no memory for a prompt of {len(prompts[0].token):,} "
                    "tokens; use a smaller model, or client.dtype=bfloat16"
                ) from None
            torch.cuda.empty_cache()
        half = len(prompts) // 2
        return self.answers(prompts[:half], most_characters) + self.answers(prompts[half:], most_characters)

    def _answers(self, prompts: Sequence[Prompt], most_characters: int) -> list[Generated]:
        matchers = [
            None if p.request.schema is None else self.grammars.matcher(bounded(p.request.schema, most_characters))
            for p in prompts
        ]
        guide = Guide(matchers, [p.budget for p in prompts], [p.request.logprobs for p in prompts], self.eos)
        longest = max(len(p.token) for p in prompts)
        padding = [longest - len(p.token) for p in prompts]
        token_BT = torch.tensor([[self.eos[0]] * n + p.token for n, p in zip(padding, prompts, strict=True)])
        mask_BT = torch.tensor([[0] * n + [1] * len(p.token) for n, p in zip(padding, prompts, strict=True)])
        # One more than the budget: the end itself is a token, and a row that has none left is made to end.
        plan = transformers.GenerationConfig(
            do_sample=False, num_beams=1, max_new_tokens=1 + max(p.budget for p in prompts), repetition_penalty=1.0,
            eos_token_id=self.eos, pad_token_id=self.eos[0], bos_token_id=self.tokenizer.bos_token_id, use_cache=True,
        )  # fmt: skip
        with quiet(), torch.inference_mode():  # it has a remark on each context that is longer than usual
            out_BT = self.model.generate(
                input_ids=token_BT.to(self.device), attention_mask=mask_BT.to(self.device), generation_config=plan,
                logits_processor=transformers.LogitsProcessorList([guide]),
            )  # fmt: skip
        guide.chosen(out_BT[:, -1])
        rows = zip(prompts, out_BT[:, longest:].tolist(), guide.told, strict=True)
        return [self._generated(prompt, token, told) for prompt, token, told in rows]

    def _generated(self, prompt: Prompt, token: list[int], told: list[Told]) -> Generated:
        end = next((i for i, t in enumerate(token) if t in self.eos), len(token))
        text = self.tokenizer.decode(token[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        logprobs = None
        if prompt.request.logprobs:
            logprobs = [[self._one(t), value, {self._one(i): v for i, v in reversed(top)}] for t, value, top in told]
        return Generated(text, end, end < prompt.budget, logprobs)

    def _one(self, token: int) -> str:
        return self.tokenizer.decode([token], clean_up_tokenization_spaces=False)
