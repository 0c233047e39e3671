"""The docstrings of Python's standard library: real English that lies on every machine. Read, never imported."""

from __future__ import annotations

import ast
import platform
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

from tasks.corpora.base import Corpus, Document

_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "lib-dynload"}
_ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|etc|cf|vs|approx|resp|incl|no|fig|sec|dr|mr|mrs|st|al)|\b[A-Za-z])\.$", re.I)
_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[`*]*[A-Z0-9])")
_BULLET = re.compile(r"^\s*(?:[-*+\u2022]|\d+[.)]|:\w[^:]*:|\.\.)\s*")


class Docstrings(Corpus):
    """English sentences out of the standard library's docstrings; a document is a module."""

    kind: Literal["docstrings"] = "docstrings"

    python: str | None = None
    """Version whose library is read; filled in when a run is composed."""

    min_characters: int = 20
    """Shorter sentences are left out."""

    max_characters: int = 600
    """Longer ones too: they are tables and grammars."""

    def pinned(self) -> Self:
        return self.model_copy(update={"python": platform.python_version()})

    def expected_chars(self) -> int:
        return 1_500_000

    def documents(self) -> Iterator[Document]:
        top = Path(sysconfig.get_path("stdlib"))
        seen: set[str] = set()
        for path in sorted(top.rglob("*.py")):
            parts = path.relative_to(top).parts
            if _LEFT_OUT.intersection(parts) or path.name.startswith("test_"):
                continue
            found = []
            for text in docstrings(path):
                for sentence in sentences(text):
                    plain = sentence.casefold()
                    if self.min_characters <= len(sentence) <= self.max_characters and plain not in seen:
                        seen.add(plain)
                        found.append(sentence)
            if found:
                yield Document(".".join(parts).removesuffix(".py"), found)


def docstrings(path: Path) -> Iterator[str]:
    """The docstrings of a module, its classes and functions, in source order. Nothing of it is executed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in somebody's docstring are not our news
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            return  # templates and deliberate nonsense that the library ships
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text:
                yield text


def sentences(text: str) -> Iterator[str]:
    """Sentences of a docstring: code, doctests, tables and headings dropped, white space made plain."""
    for paragraph in _paragraphs(text):
        start = 0
        for end in _END.finditer(paragraph):
            if _ABBREVIATION.search(paragraph[start : end.start()].rstrip("\"')]")):
                continue
            if _reads(sentence := paragraph[start : end.start()].strip()):
                yield sentence
            start = end.end()
        if _reads(sentence := paragraph[start:].strip()):
            yield sentence


def _paragraphs(text: str) -> Iterator[str]:
    lines: list[str] = []
    in_doctest = False
    for raw in [*text.expandtabs().splitlines(), ""]:
        line = raw.strip()
        in_doctest = line.startswith((">>>", "...", "$ ")) or (in_doctest and bool(line))
        bullet = _BULLET.match(raw)
        broken = not line or in_doctest or _is_code(raw)
        if (broken or bullet) and lines:
            yield " ".join(" ".join(lines).split())
            lines = []
        if not broken:
            lines.append(_BULLET.sub("", raw) if bullet else line)
    if lines:
        yield " ".join(" ".join(lines).split())


def _is_code(line: str) -> bool:
    text = line.strip()
    marks = sum(c in "=<>{}[]|\\_;#@^~+*/%$" for c in text)
    return bool(re.fullmatch(r"[-=~^*#+_\s|]+", text)) or marks > 0.08 * len(text) + 2 or bool(
        re.match(r"(?:import|from \w+ import|def|class|return|for \w+ in|while|with|if|try|print\()\b.*[:)]$", text)
    )


def _reads(sentence: str) -> bool:
    """Whether it looks like English: several words, mostly letters."""
    letters = sum(c.isalpha() or c == " " for c in sentence)
    return len(sentence.split()) >= 3 and letters >= 0.75 * len(sentence)
