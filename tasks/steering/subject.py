"""The subject of an experiment: a language model, and SAEs at some of its hookpoints.

Rows of one call may differ in what is pushed, the untouched model among them, so that it and what is made of it are
seen side by side in one pass. Shapes: R rows as given, B rows of a batch, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tasks.lazy import F, np, torch
from tasks.lm.contexts import Context, of_texts
from tasks.spec import Runtime, SpecError
from tasks.steering.push import Positions, Row, Steering, Watched
from tasks.steering.sampling import MAX_TEMPERATURE, Draws
from tasks.steering.turning import ROWS

if TYPE_CHECKING:
    from torch import Tensor

    from artifacts.store import Opened
    from tasks.lm.language_model import LanguageModel
    from tasks.steering.writing import Writing
    from tasks.trained import TrainedSAE

_MAX_LOGITS = 2**26
"""Numbers in one batch of logits."""


@dataclass
class Subject:
    """All of them, opened, on one device."""

    lm: LanguageModel
    sae: TrainedSAE
    batch_tokens: int = 8192
    """Tokens of a batch at most, those to be generated among them."""

    others: Mapping[str, TrainedSAE] = field(default_factory=dict)
    """Further SAEs, wherever they stand in the model, by the name that ``Push.sae`` gives."""

    @property
    def saes(self) -> dict[str, TrainedSAE]:
        """All of them by name; the first one's is empty."""
        return {"": self.sae, **self.others}

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
        for members, token_BT, steering in self.batches(rows, positions, 0):
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
        top_p: float = 1.0,
        seed: int = 0,
        positions: Positions = "all",
    ) -> list[str]:
        """The text that follows each row's prompt: ``n_tokens`` tokens, or up to the end of a text if that comes first.

        ``temperature`` 0 takes the likeliest token, ``top_p`` below 1 leaves unlikely ones out. Otherwise draws depend on the
        seed, the prompt and ``Row.sample`` alone: two rows of one prompt that differ in what is pushed get equal draws, so that
        what differs between their texts is the push. On a CPU a row's text does not depend on what is beside it (see
        ``turning.ROWS``); on a GPU, kernels may round otherwise for other batches, and two tokens that are as likely to the
        last bit may change places.
        """
        texts = [""] * len(rows)
        check_sampling(temperature, top_p)
        for members, token_BT, steering in self.batches(rows, positions, n_tokens):
            ids: list[list[int]] = [[] for _ in members]
            keys = self.keys([rows[i] for i in members], seed)
            draws = Draws(keys, len(token_BT), temperature, top_p)
            for step in self.steps(len(members), token_BT, steering, n_tokens, draws):
                for held, token in zip(ids, step, strict=True):
                    if token is not None:
                        held.append(token)
            for i, held in zip(members, ids, strict=True):
                texts[i] = self.text_after(rows[i].prompt, held)
        return texts

    def stream(self, rows: Sequence[Row], n_tokens: int, **options: Any) -> Iterator[tuple[int | None, ...]]:
        """The same token by token: one per row at each step, None for a row whose text has ended. See ``write``."""
        yield from self.write(rows, n_tokens, **options)

    def write(
        self,
        rows: Sequence[Row],
        n_tokens: int,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
        positions: Positions = "all",
        watched: Sequence[Watched] | None = None,
    ) -> Writing:
        """The texts of ``continuations`` as they come to be: iterate for a token of each row, and look at ``Writing.rows``.

        All rows go on together, whatever the lengths of their prompts. Between two steps the model is free for other
        threads. ``watched`` also measures, on the way, how much the pushed activations grow and how active these latents
        are; it changes no text.
        """
        from tasks.steering.writing import Writing

        check_sampling(temperature, top_p)
        return Writing(self, rows, n_tokens, temperature, top_p, seed, positions, watched)

    def text_after(self, prompt: Context, token_ids: Sequence[int]) -> str:
        """Text of tokens that follow a prompt; spaces at the seam are kept."""
        decode = self.lm.tokenizer.decode
        options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        head = decode(prompt.token_id.tolist(), **options)
        whole = decode([*prompt.token_id.tolist(), *token_ids], **options)
        return whole[len(head) :] if whole.startswith(head) else decode(list(token_ids), **options)

    def keys(self, rows: Sequence[Row], seed: int) -> list[str]:
        """What names each row's draws."""
        return [f"{seed}/{row.sample}/{row.prompt.token_id.tolist()}" for row in rows]

    def steps(
        self, n_rows: int, token_BT: Tensor, steering: Steering, n_tokens: int, draws: Draws,
        passed: Callable[[], None] | None = None,
    ) -> Iterator[tuple[int | None, ...]]:  # fmt: skip
        """The next tokens of the first ``n_rows`` rows of a batch, until all have ended.

        ``passed`` is called after each pass of the model, and after one more, which reads the last token.
        """
        ends, over = self.lm.eos_token_ids, [False] * n_rows
        room = self.lm.context_length
        n_tokens = n_tokens if room is None else min(n_tokens, room - token_BT.shape[1])
        more = int(passed is not None and n_tokens > 0)
        for i, token_B in enumerate(self.lm.generate(token_BT, n_tokens + more, draws.choose, steering.at)):
            if passed is not None:
                passed()
            if i == n_tokens:
                return
            tokens = token_B[:n_rows].tolist()
            over = [was or token in ends for was, token in zip(over, tokens, strict=True)]
            if all(over):
                return
            yield tuple(None if done else token for done, token in zip(over, tokens, strict=True))

    def batches(
        self,
        rows: Sequence[Row],
        positions: Positions,
        n_more: int,
        whole: bool = False,
        watched: Sequence[Watched] | None = None,
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
                fill = -len(part) % ROWS if self.lm.device == "cpu" else 0
                token = np.stack([rows[i].prompt.token_id for i in [*part, *part[:1] * fill]])
                # those that fill are not pushed, but read
                own = [rows[i] for i in part] + [Row(rows[part[0]].prompt)] * fill
                yield part, torch.from_numpy(token), Steering(self.saes, own, positions, watched)


def check_sampling(temperature: float, top_p: float, names: tuple[str, str] = ("temperature", "top_p")) -> None:
    """Raise ``SpecError`` for what no token can be drawn with."""
    if not 0 <= temperature <= MAX_TEMPERATURE:
        raise SpecError(
            f"{names[0]} = {temperature:g}, but it is 0 to {MAX_TEMPERATURE}; use 0 for the likeliest token, 1 for the model's own odds"
        )
    if not 0 < top_p <= 1:
        raise SpecError(f"{names[1]} = {top_p:g}, but it is a share of the probability, above 0 and at most 1; use 1 to leave nothing out")
