"""Texts of tokens: what a token id looks like to a person. Joined, they read as the text."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def _bytes_of_glyphs() -> dict[str, int]:
    """GPT-2's byte-level alphabet: printable bytes stand for themselves, the others for characters from U+0100 on."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}


def token_strings(tokenizer: Any, vocab_size: int) -> list[str]:
    """Text of every token id below ``vocab_size``.

    Bytes that are no whole UTF-8 character by themselves are shown as ``\\xe2``.
    """
    pieces = tokenizer.convert_ids_to_tokens(list(range(min(vocab_size, len(tokenizer)))))
    special = set(tokenizer.all_special_ids)
    byte_level = _is_byte_level(tokenizer)
    found = []
    for token_id, piece in enumerate(pieces):
        if piece is None:
            found.append("")
        elif token_id in special:
            found.append(piece)
        elif byte_level:
            found.append(_shown(bytes(_bytes_of_glyphs()[c] for c in piece)) if _glyphs(piece) else piece)
        elif len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):  # SentencePiece byte fallback
            found.append(_shown(bytes([int(piece[3:5], 16)])))
        else:
            found.append(piece.replace("\u2581", " "))
    return found + [f"[{i}]" for i in range(len(found), vocab_size)]  # rows of the embedding that no text reaches


def _glyphs(piece: str) -> bool:
    return all(c in _bytes_of_glyphs() for c in piece)


def _is_byte_level(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and "ByteLevel" in f"{backend.pre_tokenizer!r}{backend.decoder!r}"


def _shown(data: bytes) -> str:
    return data.decode("utf-8", errors="backslashreplace")
