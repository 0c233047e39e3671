"""The subject of an experiment: a language model, and an SAE at one of its hookpoints.

Rows of one call may differ in what is pushed, the untouched model among them, so that it and what is made of it are
seen side by side in one pass. Shapes: R rows as given, B rows of a batch, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.lazy import F, np, torch
from tasks.lm.contexts import Context, of_texts
from tasks.spec import Runtime, SpecError
from tasks.steering.push import Positions, Row, Steering
from tasks.steering.sampling import Draws

if TYPE_CHECKING:
    from torch import Tensor

    from artifacts.store import Opened
    from tasks.lm.language_model import LanguageModel
    from tasks.trained import TrainedSAE

_ROWS = 8
"""A CPU's batches are filled up to a multiple of it. The last few rows of a matrix product take another path, and round
otherwise; so filled up, a row comes out the same, bit for bit, however many others are beside it (seen with MKL on
GPT-2, GPT-NeoX and Llama with 1 to 4 threads; with more, some sizes differ in the last bit)."""

_MAX_LOGITS = 2**26
"""Numbers in one batch of logits."""


@dataclass
class Subject:
    """Both of them, opened, on one device."""

    lm: LanguageModel
    sae: TrainedSAE
    batch_tokens: int = 8192
    """Tokens of a batch at most, those to be generated among them."""

    @staticmethod
    def open(lm: Opened, sae: Opened, runtime: Runtime, dtype: str = "float32") -> Subject:
        """The subject of an ``lm`` and a ``train`` artifact, where the runtime says."""
        from tasks.lm.language_model import LanguageModel
        from tasks.lm.loading import device_of
        from tasks.trained import TrainedSAE

        opened = TrainedSAE.open(sae).to(device_of(runtime))
        return Subject(LanguageModel.open(lm, runtime, dtype), opened, runtime.lm_batch_tokens)

    def prompts(self, texts: Sequence[str], where: str = "prompts") -> list[Context]:
        """Texts as the corpus' were tokenised: BOS in front where the tokenizer has one, no end.

        Raises ``SpecError`` for a text of no token.
        """
        found = of_texts(texts, self.lm.tokenizer, self.lm.bos_token_id, self.lm.context_length)
        for text, context in zip(texts, found, strict=True):
            if not len(context.token_id):
                raise SpecError(
                    f"{where} has {text!r}, but it has no token, and {self.lm.name} has no BOS to begin with; write a word"
                )
        return found

    def next_log_probs(self, rows: Sequence[Row], positions: Positions = "all") -> Tensor:
        """Natural logarithms of the probabilities of the token after each row: float32 RV, on the model's device."""
        found: Tensor | None = None
        for members, token_BT, steering in self._batches(rows, positions, 0):
            log_p = F.log_softmax(self.lm.next_logits(token_BT, *steering.at(0)).float(), -1)[: len(members)]
            if found is None:
                found = log_p.new_empty(len(rows), log_p.shape[1])
            found[torch.tensor(members, device=log_p.device)] = log_p
        return torch.empty(0, 0) if found is None else found

    def continuations(
        self,
        rows: Sequence[Row],
        n_tokens: int,
        *,
        temperature: float = 1.0,
        seed: int = 0,
        positions: Positions = "all",
    ) -> list[str]:
        """The text that follows each row's prompt: ``n_tokens`` tokens, or up to the end of a text if that comes first.

        ``temperature`` 0 takes the likeliest token. Otherwise draws depend on the seed, the prompt and ``Row.sample``
        alone: two rows of one prompt that differ in what is pushed get equal draws, so that what differs between their
        texts is the push. On a CPU a row's text does not depend on what is beside it (see ``_ROWS``); on a GPU, kernels
        may round otherwise for other batches, and two tokens that are as likely to the last bit may change places.
        """
        texts = [""] * len(rows)
        for members, token_BT, steering in self._batches(rows, positions, n_tokens):
            ids: list[list[int]] = [[] for _ in members]
            for step in self._steps([rows[i] for i in members], token_BT, steering, n_tokens, temperature, seed):
                for held, token in zip(ids, step, strict=True):
                    if token is not None:
                        held.append(token)
            for i, held in zip(members, ids, strict=True):
                texts[i] = self.text_after(rows[i].prompt, held)
        return texts

    def stream(
        self,
        rows: Sequence[Row],
        n_tokens: int,
        *,
        temperature: float = 1.0,
        seed: int = 0,
        positions: Positions = "all",
    ) -> Iterator[tuple[int | None, ...]]:
        """The same token by token: one per row at each step, None for a row whose text has ended.

        Prompts are of one length. Between two steps the model is free for other threads. Raises ``SpecError``.
        """
        lengths = sorted({len(row.prompt.token_id) for row in rows})
        if len(lengths) > 1:
            raise SpecError(f"prompts of {lengths} tokens, but a stream's are of one length; stream each length by itself")
        for members, token_BT, steering in self._batches(rows, positions, n_tokens, whole=True):
            yield from self._steps([rows[i] for i in members], token_BT, steering, n_tokens, temperature, seed)

    def text_after(self, prompt: Context, token_ids: Sequence[int]) -> str:
        """Text of tokens that follow a prompt; spaces at the seam are kept."""
        decode = self.lm.tokenizer.decode
        options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        head = decode(prompt.token_id.tolist(), **options)
        whole = decode([*prompt.token_id.tolist(), *token_ids], **options)
        return whole[len(head) :] if whole.startswith(head) else decode(list(token_ids), **options)

    def _steps(
        self, rows: Sequence[Row], token_BT: Tensor, steering: Steering, n_tokens: int, temperature: float, seed: int
    ) -> Iterator[tuple[int | None, ...]]:
        draws = Draws([f"{seed}/{row.sample}/{row.prompt.token_id.tolist()}" for row in rows], len(token_BT), temperature)
        ends, over = self.lm.eos_token_ids, [False] * len(rows)
        room = self.lm.context_length
        n_tokens = n_tokens if room is None else min(n_tokens, room - token_BT.shape[1])
        for token_B in self.lm.generate(token_BT, n_tokens, draws.choose, steering.at):
            tokens = token_B[: len(rows)].tolist()
            over = [was or token in ends for was, token in zip(over, tokens, strict=True)]
            if all(over):
                return
            yield tuple(None if done else token for done, token in zip(over, tokens, strict=True))

    def _batches(
        self, rows: Sequence[Row], positions: Positions, n_more: int, whole: bool = False
    ) -> Iterator[tuple[list[int], Tensor, Steering]]:
        """Rows of one length: their places in ``rows``, their tokens (filled up with repeats), and their edits."""
        lengths: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            lengths.setdefault(len(row.prompt.token_id), []).append(i)
        vocab_size = self.lm.model.config.get_text_config().vocab_size
        for length, members in sorted(lengths.items()):
            size = max(1, min(self.batch_tokens // (length + n_more), _MAX_LOGITS // vocab_size))
            for start in range(0, len(members), len(members) if whole else size):
                part = members[start:] if whole else members[start : start + size]
                fill = -len(part) % _ROWS if self.lm.device == "cpu" else 0
                token = np.stack([rows[i].prompt.token_id for i in [*part, *part[:1] * fill]])
                yield part, torch.from_numpy(token), Steering(self.sae, [rows[i] for i in part], positions)
