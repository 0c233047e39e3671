"""Generation held to a JSON schema, and the log-probabilities of what it chose.

The grammar is llguidance's: the engine behind structured output in vLLM and llama.cpp, MIT, one small wheel without
dependencies. At each step it says which tokens keep the answer valid, and all others are ruled out before the model
chooses. A model that could never write JSON by itself answers in JSON, if not in wisdom.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.clients.base import ClientError
from tasks.lazy import np, torch

if TYPE_CHECKING:
    from torch import Tensor


MOST_NUMBER = 10**9
STEP = 0.001
MOST_ITEMS = 200


def bounded(schema: Any, most_characters: int) -> Any:
    """A schema of which everything ends: strings, digits, arrays. What may go on for ever, a small model lets go on until
    its tokens are used up."""
    if isinstance(schema, list):
        return [bounded(item, most_characters) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: bounded(value, most_characters) for name, value in schema.items()}
    kind = found.get("type")
    if found.keys() & {"enum", "const"}:
        return found
    if kind == "string" and not found.keys() & {"maxLength", "pattern", "format"}:
        found["maxLength"] = most_characters
    if kind in ("number", "integer"):
        ends = {"minimum": -MOST_NUMBER, "maximum": MOST_NUMBER}
        found |= {n: v for n, v in ends.items() if not found.keys() & {n, f"exclusive{n.capitalize()}"}}
    if kind == "number":
        found.setdefault("multipleOf", STEP)
    if kind == "array":
        found.setdefault("maxItems", max(MOST_ITEMS, found.get("minItems", 0)))
    return found


class Grammars:
    """What one tokenizer needs to follow schemas."""

    def __init__(self, tokenizer: Any, n_vocab: int, eos: Sequence[int]) -> None:
        from llguidance.hf import from_tokenizer

        try:
            self._tokenizer = from_tokenizer(tokenizer, n_vocab=n_vocab, eos_token=list(eos))
        except (ValueError, TypeError) as error:
            raise ClientError(
                f"client = 'transformers', but no grammar can be made over this model's tokenizer ({error}); "
                "use a model with a fast tokenizer (tokenizer.json)"
            ) from None
        self.n_vocab = n_vocab

    def matcher(self, schema: dict[str, Any]) -> Any:
        """A fresh follower of a schema. Raises ``ClientError`` for one that cannot be followed."""
        from llguidance import LLMatcher

        # No white space but what JSON needs: a small model could fill its answer with it.
        grammar = LLMatcher.grammar_from_json_schema(
            schema, defaults={"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
        )
        found = LLMatcher(self._tokenizer, grammar)
        if found.is_error():
            raise ClientError(f"an answer's schema cannot be followed ({found.get_error()}); mend the kind that asks so")
        return found


class Told(NamedTuple):
    """One token of an answer. Log-probabilities are over what the schema allows there, which it was chosen from."""

    token: int
    logprob: float
    top: list[tuple[int, float]]
    """The likeliest tokens there, likeliest first."""


class Guide:
    """A logits processor for one batch: each row follows its schema, keeps to its budget, and tells its alternatives.

    Shapes: B rows, T tokens so far, V vocabulary.
    """

    def __init__(self, matchers: Sequence[Any], budgets: Sequence[int], n_top: Sequence[int], eos: Sequence[int]) -> None:
        self._matchers, self._budgets, self._n_top, self._eos = matchers, budgets, n_top, list(eos)
        self._step = 0
        self._ended = [False] * len(matchers)
        self._last: Tensor | None = None
        self.told: list[list[Told]] = [[] for _ in matchers]
        """What each row chose, in order, where its alternatives are wanted."""

    def __call__(self, token_BT: Tensor, logit_BV: Tensor) -> Tensor:
        if self._step:
            self.chosen(token_BT[:, -1])
        allowed = np.ones((len(self._matchers), logit_BV.shape[1]), bool)
        for row, matcher in enumerate(self._matchers):
            if self._ended[row]:
                continue
            if self._step >= self._budgets[row] or (matcher is not None and matcher.is_stopped()):
                allowed[row] = False
                allowed[row, self._eos] = True
            elif matcher is not None:
                allowed[row] = self._allowed(matcher, logit_BV.shape[1])
        self._step += 1
        logit_BV = logit_BV.masked_fill(~torch.from_numpy(allowed).to(logit_BV.device), -torch.inf)
        if any(self._n_top):
            self._last = logit_BV.float().log_softmax(-1)
        return logit_BV

    def _allowed(self, matcher: Any, n_vocab: int) -> np.ndarray:
        mask = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        found = np.unpackbits(mask, count=min(n_vocab, 8 * len(mask)), bitorder="little").astype(bool)
        return np.pad(found, (0, n_vocab - len(found)))

    def chosen(self, token_B: Tensor) -> None:
        """Take note of the tokens that were chosen; the last ones too, after generation."""
        for row, token in enumerate(token_B.tolist()):
            if self._ended[row]:
                continue
            if token in self._eos:
                self._ended[row] = True
                continue
            matcher = self._matchers[row]
            if matcher is not None and not matcher.consume_token(token):
                raise ClientError(f"a schema was left at token {token} ({matcher.get_error()}); this should not happen")
            if self._n_top[row]:
                assert self._last is not None
                at = self._last[row]
                top = at.topk(min(self._n_top[row], at.numel()))
                likeliest = [(i, v) for v, i in zip(*map(torch.Tensor.tolist, top), strict=True) if v > -torch.inf]
                self.told[row].append(Told(token, at[token].item(), likeliest))
