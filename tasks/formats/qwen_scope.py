"""Qwen Scope: ``layer<n>.sae.pt`` in a repository ``SAE-Res-<model>-W<width>K-L0_<k>``.

Source: Qwen's repositories of that name, as sae-lens 6.54.12 reads them: TopK with k from the repository's name. Trap: W_enc is
(m, d) and W_dec (d, m) here, the other way round than these names mean elsewhere; b_dec is not subtracted first.
"""

from __future__ import annotations

import re
from typing import ClassVar, Literal

from tasks.formats._files import Files, Tensors
from tasks.formats.base import Format, Given, Portable, found_sae, portable

_REPOSITORY = r"SAE-Res-(.+?)-W\d+K-L0_(\d+)"


class QwenScope(Format):
    """A file of Qwen Scope's."""

    SAYS: ClassVar[str] = "layer<n>.sae.pt with W_enc, W_dec, b_enc, b_dec; a pickle"
    WEIGHTS: ClassVar[tuple[str, ...]] = ("layer*.sae.pt",)

    kind: Literal["qwen_scope"] = "qwen_scope"

    def matches(self, files: Files) -> bool:
        name = next((n for n in files.names if re.fullmatch(r"layer\d+\.sae\.pt", n)), None)
        return name is not None and {"W_enc", "W_dec", "b_enc", "b_dec"} <= files.keys(name)

    def hookpoint(self, files: Files) -> str | None:
        found = re.search(r"layer(\d+)\.sae\.pt", self.weights(files))
        return f"layers.{int(found[1])}" if found else None

    def read(self, files: Files, given: Given) -> Portable:
        name = self.weights(files)
        held = Tensors(files, name, "Qwen Scope")
        tensors = {
            "b_dec_D": held.take("b_dec", shape="D"),
            "b_enc_N": held.take("b_enc", shape="N"),
            "W_enc_ND": held.take("W_enc", shape="ND"),
            "W_dec_ND": held.take("W_dec", shape="DN", turn=True),
        }
        named = re.search(_REPOSITORY, files.origin)
        k = given.k or (int(named[2]) if named else None)
        if k is None:
            raise files.wrong(name, "says no k, which its repository's name ends with (L0_50)", "set sae.k=... to it")
        about = {"architecture": "topk", "model": named[1] if named else None}
        return portable(found_sae("topk", tensors, k=k, subtract_b_dec=False), self.hookpoint(files), about)
