"""A Llama's ``tokenizer.model`` as a tokenizer of transformers: byte-pair ranks of Llama 3, SentencePiece of Llama 1 and 2."""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tasks.lazy import transformers
from tasks.spec import SpecError

_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Into what text is cut before pairs are merged. Source: llama-models, ``Tokenizer.pat_str``."""

_NAMED = {
    0: "<|begin_of_text|>", 1: "<|end_of_text|>", 4: "<|finetune_right_pad_id|>", 6: "<|start_header_id|>",
    7: "<|end_header_id|>", 8: "<|eom_id|>", 9: "<|eot_id|>", 10: "<|python_tag|>",
}  # fmt: skip
"""Special tokens of Llama 3.1 by their place after the ranks; all others are reserved."""

_BPE, _UNKNOWN, _CONTROL, _USER, _BYTE = 2, 2, 3, 4, 6
"""Numbers of sentencepiece_model.proto: a model type, and types of pieces."""


def tokenizer_of(file: Path, n_tokens: int) -> Any:
    """A fast tokenizer with BOS before every text. ``n_tokens``: rows of the embedding. Raises ``SpecError``."""
    body = file.read_bytes()
    if body[:1] == b"\n":  # the first field of a SentencePiece model
        found, bos, eos = _of_pieces(file, body)
    else:
        found, bos, eos = _of_ranks(file, body, n_tokens)
    if found.get_vocab_size() > n_tokens:
        raise SpecError(
            f"{file} has {found.get_vocab_size():,} tokens, but the model embeds {n_tokens:,}; take the tokenizer that came with "
            "the weights"
        )
    from tokenizers.processors import TemplateProcessing

    found.post_processor = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, found.token_to_id(bos))])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=found, bos_token=bos, eos_token=eos)


def _of_ranks(file: Path, body: bytes, n_tokens: int) -> tuple[Any, str, str]:
    """Lines of a token in base64 and its rank, and special tokens behind them up to the last row of the embedding."""
    from transformers.convert_slow_tokenizer import TikTokenConverter

    try:
        pairs = [line.split() for line in body.splitlines() if line]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
    except (ValueError, binascii.Error):
        raise SpecError(
            f"{file} is neither byte-pair ranks nor a SentencePiece model; take the tokenizer that came with the weights"
        ) from None
    if sorted(ranks.values()) != list(range(len(ranks))) or not ranks:
        raise SpecError(
            f"{file} has {len(ranks):,} tokens, but their ranks are not 0 to {len(ranks) - 1:,}; it may be truncated: take another copy"
        )
    n_special = n_tokens - len(ranks)
    if n_special < 2:
        raise SpecError(
            f"{file} has {len(ranks):,} tokens, but the model embeds {n_tokens:,}, which leaves no room for those that begin and end a "
            "text; take the tokenizer that came with the weights"
        )

    class Ranks(TikTokenConverter):
        """transformers' own converter, which would have the file read by a package of its own."""

        @staticmethod
        def load_tiktoken_bpe(tiktoken_url: str) -> dict[bytes, int]:
            return ranks

    special = _special(n_special)
    return Ranks(vocab_file=str(file), pattern=_PATTERN, extra_special_tokens=special).converted(), special[0], special[1]


def _special(n: int) -> list[str]:
    """The special tokens of Llama 3 in order; the reserved ones are numbered."""
    reserved = (f"<|reserved_special_token_{i}|>" for i in range(n))
    return [_NAMED[i] if i in _NAMED else next(reserved) for i in range(n)]


def _of_pieces(file: Path, body: bytes) -> tuple[Any, str, str]:
    """A SentencePiece model of merged pairs with bytes to fall back on."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
    from transformers.convert_slow_tokenizer import generate_merges

    try:
        pieces, model_type = _pieces(body)
    except (IndexError, struct.error, UnicodeDecodeError, ValueError):
        raise SpecError(f"{file} ({len(body):,} bytes) breaks off within a SentencePiece model; take another copy") from None
    control = [piece.text for piece in pieces if piece.type == _CONTROL]
    if model_type != _BPE or len(control) < 2:
        raise SpecError(f"{file} is a SentencePiece model of another sort than a Llama's; take the tokenizer that came with the weights")
    vocab = {piece.text: i for i, piece in enumerate(pieces)}
    unmerged = {piece.text for piece in pieces if piece.type in (_UNKNOWN, _CONTROL, _USER, _BYTE)}
    merges = generate_merges(vocab, [(piece.text, piece.score) for piece in pieces], skip_tokens=unmerged)
    unknown = next((piece.text for piece in pieces if piece.type == _UNKNOWN), None)
    found = Tokenizer(models.BPE(vocab, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    found.add_tokens([AddedToken(p.text, normalized=False, special=p.type == _CONTROL) for p in pieces if p.type in (_CONTROL, _USER)])
    found.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    found.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", left=1)
    ])  # fmt: skip
    return found, control[0], control[1]


class _Piece(NamedTuple):
    text: str
    score: float
    type: int


def _pieces(body: bytes) -> tuple[list[_Piece], int]:
    """Pieces and model type. Source: sentencepiece_model.proto: ModelProto (pieces 1, trainer_spec 2), SentencePiece (piece 1,
    score 2, type 3), TrainerSpec (model_type 3)."""
    pieces, model_type = [], 1
    for field, value in _fields(body):
        if field == 1:
            found = dict(_fields(value))
            pieces.append(_Piece(found[1].decode(), struct.unpack("<f", found.get(2, b"\0\0\0\0"))[0], found.get(3, 1)))
        elif field == 2:
            model_type = dict(_fields(value)).get(3, 1)
    return pieces, model_type


def _fields(body: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of a message in protobuf's wire format."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = body[at]
            value, at, shift = value | (byte & 127) << shift, at + 1, shift + 7
            if byte < 128:
                return value

    while at < len(body):
        tag = varint()
        if tag & 7 == 0:
            yield tag >> 3, varint()
            continue
        length = varint() if tag & 7 == 2 else {1: 8, 5: 4}.get(tag & 7)
        if length is None or at + length > len(body):
            raise ValueError(f"field {tag >> 3} reaches beyond the end")
        yield tag >> 3, body[at : at + length]
        at += length
