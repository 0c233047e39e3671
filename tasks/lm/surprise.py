"""How surprised a language model is by texts after a prefix. Shapes: B texts, T tokens, P tokens of the prefix, V vocabulary.

The prefix is read once, and each batch of texts goes on from a copy of what the model remembers of it: never from
what another batch left there, so that a text's number depends on the prefix and the text alone.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.lazy import F, np, torch, transformers
from tasks.lm.buckets import Batch, batches
from tasks.lm.loading import device_of, quiet
from tasks.spec import Runtime, SpecError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_LOGITS = 1 << 28
"""Most logits of a batch: 1 GiB of float32, whatever the vocabulary."""

_PREFIXES = 2
"""Prefixes whose memory is held: one that all latents share, and one latent's own."""

_KNOWN = 8192
"""Texts whose number is remembered: windows are asked about again, under the same prefix, for a latent's control."""


class Text(NamedTuple):
    """The tokens of one text."""

    token_id: np.ndarray
    keep: np.ndarray


class Reader:
    """A causal language model of transformers that tells how likely texts are to it."""

    def __init__(self, model: Any, tokenizer: Any, device: str, batch_tokens: int) -> None:
        self.model, self.tokenizer, self.device, self.batch_tokens = model, tokenizer, device, batch_tokens
        self._prefixes: dict[str, tuple[int, Any, Tensor]] = {}
        self._known: dict[tuple[str, str], float | None] = {}

    @staticmethod
    def open(source: str, revision: str | None, dtype: str, runtime: Runtime, local: bool) -> Reader:
        """The model of a folder or of the hub, on the run's device."""
        device = device_of(runtime)
        options = {"revision": revision, "trust_remote_code": False, "local_files_only": local}
        with quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                source, dtype=getattr(torch, dtype), use_safetensors=True, **options
            )
        return Reader(model.to(device).eval().requires_grad_(False), tokenizer, device, runtime.lm_batch_tokens)

    def surprise(self, prefix: str, texts: Sequence[str]) -> list[float | None]:
        """Nats per token of each text after the prefix, its first token included; None for a text without tokens.

        Raises ``SpecError`` when prefix and text are longer than the model reads.
        """
        new = [text for text in dict.fromkeys(texts) if (prefix, text) not in self._known]
        found = dict(zip(new, self._measured(prefix, new), strict=True)) if new else {}
        values = [found[text] if text in found else self._known[prefix, text] for text in texts]
        self._known |= {(prefix, text): value for text, value in found.items()}
        for old in list(self._known)[: max(0, len(self._known) - _KNOWN)]:
            del self._known[old]
        return values

    def _measured(self, prefix: str, texts: Sequence[str]) -> list[float | None]:
        block = [Text(ids := self._tokens(text), np.ones(len(ids), bool)) for text in texts]
        longest = max((len(text.token_id) for text in block), default=0)
        if not longest:
            return [None] * len(texts)
        n_prefix, memory, first_V = self._read(prefix, longest)
        # The prefix takes room in every row of a batch.
        budget = min(self.batch_tokens * longest // (n_prefix + longest), _LOGITS // len(first_V))
        values: list[float | None] = [None] * len(texts)
        filled = [i for i, text in enumerate(block) if len(text.token_id)]
        with torch.inference_mode():
            for batch in batches([block[i] for i in filled], max(1, budget)):
                for member, value in zip(batch.members, self._losses(batch, n_prefix, memory, first_V), strict=True):
                    values[filled[member]] = value
        return values

    def _losses(self, batch: Batch, n_prefix: int, memory: Any, first_V: Tensor) -> list[float]:
        """Mean cross entropy of each text of a batch, in nats."""
        n_texts, n_tokens = batch.token_BT.shape
        memory = copy.deepcopy(memory)
        memory.batch_repeat_interleave(n_texts)
        mask = torch.cat([torch.ones(n_texts, n_prefix, dtype=torch.bool), batch.mask_BT], 1).long().to(self.device)
        token_BT = batch.token_BT.to(self.device)
        logits_BTV = self.model(input_ids=token_BT, attention_mask=mask, past_key_values=memory, use_cache=True).logits
        # What comes first is foretold by the prefix's last token, and what the last token foretells is not asked.
        first_BV = first_V.expand(n_texts, -1)
        loss_BT = torch.empty(n_texts, n_tokens, device=self.device)
        loss_BT[:, 0] = F.cross_entropy(first_BV.float(), token_BT[:, 0], reduction="none")
        for i in range(n_texts):  # one at a time, since float32 copies of all logits are the largest thing here
            loss_BT[i, 1:] = F.cross_entropy(logits_BTV[i, :-1].float(), token_BT[i, 1:], reduction="none")
        keep_BT = batch.mask_BT.to(self.device)
        return (loss_BT.masked_fill(~keep_BT, 0).sum(1) / keep_BT.sum(1)).tolist()

    def _read(self, prefix: str, longest: int) -> tuple[int, Any, Tensor]:
        """How many tokens a prefix has, what the model remembers of it, and what it expects next."""
        if prefix not in self._prefixes:
            bos = self.tokenizer.bos_token_id
            ids = np.concatenate([[] if bos is None else [bos], self._tokens(prefix)]).astype(np.int64)
            with torch.inference_mode():
                out = self.model(input_ids=torch.from_numpy(ids)[None].to(self.device), use_cache=True)
            memory = getattr(out, "past_key_values", None)
            if not hasattr(memory, "batch_repeat_interleave"):
                raise SpecError(
                    f"scorers.surprisal: the model is a {type(self.model).__name__}, but what it remembers of a prefix cannot "
                    "be copied for each text; use a model with attention throughout, such as openai-community/gpt2"
                )
            self._prefixes[prefix] = (len(ids), memory, out.logits[0, -1])
            for old in list(self._prefixes)[: max(0, len(self._prefixes) - _PREFIXES)]:
                del self._prefixes[old]
        else:
            self._prefixes[prefix] = self._prefixes.pop(prefix)  # the last to be dropped
        found = self._prefixes[prefix]
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if limit and found[0] + longest > limit:
            raise SpecError(
                f"scorers.surprisal: the prompt and a window are {found[0] + longest} tokens, but the model reads at most "
                f"{limit}; use a model that reads more, or fewer mine.window_tokens"
            )
        return found

    def _tokens(self, text: str) -> np.ndarray:
        """Ids of a text, in which nothing means a special token, whatever it spells."""
        found = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        return np.asarray(found["input_ids"], np.int64)
