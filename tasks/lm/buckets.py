"""Batches of contexts of similar length: little padding, whatever the texts are. Shapes: B contexts, T tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from tasks.lazy import np, torch

if TYPE_CHECKING:
    from torch import Tensor


class Text(Protocol):
    """Tokens that a language model reads together."""

    token_id: np.ndarray
    keep: np.ndarray
    """False for BOS and other special tokens."""


class Batch(NamedTuple):
    """Contexts of similar length, as places in the block that they came from."""

    members: list[int]
    token_BT: Tensor
    mask_BT: Tensor
    """False where padded."""

    keep_BT: Tensor
    """True where a row is wanted: neither padding nor special."""


def batches(block: Sequence[Text], batch_tokens: int) -> Iterator[Batch]:
    """A block's contexts, shortest first, padded on the right to at most ``batch_tokens`` tokens a batch."""
    order = sorted(range(len(block)), key=lambda i: (len(block[i].token_id), i))
    members: list[int] = []
    for i in order:
        if members and (len(members) + 1) * len(block[i].token_id) > batch_tokens:
            yield _padded(block, members)
            members = []
        members.append(i)
    if members:
        yield _padded(block, members)


def _padded(block: Sequence[Text], members: list[int]) -> Batch:
    longest = max(len(block[i].token_id) for i in members)
    token, mask, keep = (np.zeros((len(members), longest), kind) for kind in ("int64", "bool", "bool"))
    for row, i in enumerate(members):
        n = len(block[i].token_id)
        token[row, :n], mask[row, :n], keep[row, :n] = block[i].token_id, True, block[i].keep
    return Batch(members, torch.from_numpy(token), torch.from_numpy(mask), torch.from_numpy(keep))


def blocks(contexts: Iterable[Text], block_tokens: int) -> Iterator[list[Text]]:
    """Contexts in order, ``block_tokens`` tokens at a time."""
    block: list[Text] = []
    n = 0
    for context in contexts:
        block.append(context)
        n += len(context.token_id)
        if n >= block_tokens:
            yield block
            block, n = [], 0
    if block:
        yield block


def limited(contexts: Iterable[Text], max_tokens: int | None) -> Iterator[Text]:
    """Whole contexts until ``max_tokens`` rows are passed; never none."""
    n = 0
    for context in contexts:
        kept = int(context.keep.sum())
        if max_tokens is not None and n and n + kept > max_tokens:
            return
        n += kept
        yield context
