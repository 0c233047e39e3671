"""A Llama as Meta publishes it: ``consolidated.00.pth`` (and ``.01`` and so on), ``params.json``, ``tokenizer.model``.

It is turned into a Hugging Face folder in the store, so that all that comes after sees a language model like any other.
Llama 1, 2, 3, 3.1 and the text models of 3.2 (1B, 3B) are known. The pickles are opened with ``weights_only=True``, always.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field

from tasks.fingerprint import fingerprint_files
from tasks.lms.base import Facts, LMSpec
from tasks.spec import SpecError
from tasks.stage import Job, Summary

_LLAMA_3_PIECES = 100_000
"""From so many tokens on a vocabulary is that of Llama 3."""


class LlamaCheckpoint(LMSpec):
    """A pretrained Llama in Meta's layout."""

    KEEPS_KEY: ClassVar[dict[str, Any]] = {}

    kind: Literal["llama_checkpoint"] = "llama_checkpoint"

    path: str | None = None
    """Local folder with consolidated.*.pth, params.json and tokenizer.model; often called ``original``."""

    rope_factor: float | None = Field(None, gt=0)
    """By how much slow rotations are slowed down where params.json says ``use_scaled_rope`` and not by how much; null: 32 where
    embedding and unembedding are one matrix (Llama 3.2), else 8 (Llama 3.1)."""

    context_length: int | None = Field(None, ge=2)
    """Tokens that it reads at most; null: 131,072 with ``use_scaled_rope``, 8,192 for Llama 3, else 4,096."""

    fingerprint: str | None = None
    """Of the files; filled in when a run is composed."""

    def payload(self) -> dict[str, Any]:
        """Contents count, not where they lie."""
        return {name: value for name, value in super().payload().items() if name != "path" or self.fingerprint is None}

    def pinned(self) -> Self:
        folder, files = self._files()
        self._params()
        return self.model_copy(update={"path": str(folder.absolute()), "fingerprint": fingerprint_files(files, folder)})

    def facts(self) -> Facts | None:
        params = self._params() if self.path else None
        return None if params is None else params.facts(Path(self.path or "").name, self.context_length)

    def provide(self, job: Job) -> Summary:
        from tasks.lms._llama_tokenizer import tokenizer_of
        from tasks.lms._llama_weights import converted

        folder, files = self._files()
        if self.fingerprint is not None and fingerprint_files(files, folder) != self.fingerprint:
            raise SpecError(
                f"lm.path = {self.path!r}, but its files are not those of when this run was planned; put the old ones back, or run "
                "again to use the new ones"
            )
        checkpoints = [file for file in files if file.suffix == ".pth"]
        params, out = self._params(), job.out / "model"
        config = converted(params, checkpoints, out, self.rope_factor, self.context_length, job.progress)
        tokenizer = tokenizer_of(folder / "tokenizer.model", config.vocab_size)
        config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
        config.save_pretrained(out)
        tokenizer.save_pretrained(out)
        facts = params._replace(vocab_size=config.vocab_size).facts(folder.absolute().name, self.context_length)
        return {
            **facts._asdict(),
            "kind": self.kind,
            "path": None,
            "hub_id": None,
            "revision": None,
            "fingerprint": None,
            "model_type": "llama",
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        }

    def _files(self) -> tuple[Path, list[Path]]:
        """The folder, and what of it is read: checkpoints in order, parameters, tokenizer. Raises ``SpecError``."""
        if not self.path:
            raise SpecError("lm.path is null, but a checkpoint lies in a folder; set lm.path to it")
        folder, typed = Path(self.path).expanduser(), f"lm.path = {self.path!r}"
        if not folder.is_dir():
            raise SpecError(f"{typed}, but there is no such folder; name the one with consolidated.00.pth in it")
        checkpoints = sorted(folder.glob("consolidated.*.pth"))
        for name in ["consolidated.00.pth"] * (not checkpoints) + ["params.json", "tokenizer.model"]:
            if not (folder / name).is_file():
                other = "; a folder in Hugging Face's layout is lm=hf" if (folder / "config.json").is_file() else ""
                raise SpecError(f"{typed}, but it has no {name}; put it there{other}")
        expected = [f"consolidated.{i:02}.pth" for i in range(len(checkpoints))]
        if absent := sorted(set(expected) - {file.name for file in checkpoints}):
            raise SpecError(f"{typed}, but of {len(checkpoints)} checkpoints {absent[0]} is not there; put all parts of the model there")
        return folder, [*checkpoints, folder / "params.json", folder / "tokenizer.model"]

    def _params(self) -> Params:
        folder, _ = self._files()
        return Params.read(folder / "params.json")


class Params(NamedTuple):
    """What ``params.json`` says. Source: llama-models, ``ModelArgs``."""

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    vocab_size: int
    """-1 where the tokenizer tells (Llama 1 and 2)."""

    multiple_of: int
    ffn_dim_multiplier: float
    norm_eps: float
    rope_theta: float
    use_scaled_rope: bool
    rope_scaling_factor: float | None
    """Newer checkpoints say it."""

    @staticmethod
    def read(file: Path) -> Params:
        """Raises ``SpecError`` for what is no parameters of a Llama."""
        try:
            body = json.loads(file.read_text())
            found = Params(
                dim=int(body["dim"]),
                n_layers=int(body["n_layers"]),
                n_heads=int(body["n_heads"]),
                n_kv_heads=int(body.get("n_kv_heads") or body["n_heads"]),
                vocab_size=int(body.get("vocab_size", -1)),
                multiple_of=int(body["multiple_of"]),
                ffn_dim_multiplier=float(body.get("ffn_dim_multiplier") or 1.0),
                norm_eps=float(body["norm_eps"]),
                rope_theta=float(body.get("rope_theta") or 10_000.0),
                use_scaled_rope=bool(body.get("use_scaled_rope", False)),
                rope_scaling_factor=body.get("rope_scaling_factor"),
            )
        except KeyError as error:
            raise SpecError(
                f"{file} has no {error.args[0]}, but a Llama's parameters name it; take the file that came with the weights"
            ) from None
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise SpecError(
                f"{file} cannot be read as a Llama's parameters ({error}); take the file that came with the weights"
            ) from None
        if found.dim % (2 * found.n_heads) or found.n_heads % found.n_kv_heads:
            raise SpecError(
                f"{file} says dim {found.dim}, n_heads {found.n_heads} and n_kv_heads {found.n_kv_heads}, but each is to divide the one "
                "before it, into heads of an even width; take the file that came with the weights"
            )
        return found

    @property
    def d_head(self) -> int:
        return self.dim // self.n_heads

    @property
    def d_mlp(self) -> int:
        """Two thirds of 4 x dim, times the multiplier, rounded up to a multiple."""
        wanted = int(self.ffn_dim_multiplier * int(8 * self.dim / 3))
        return -(-wanted // self.multiple_of) * self.multiple_of

    def length(self, given: int | None) -> int:
        """Tokens read at most."""
        return given or (131_072 if self.use_scaled_rope else 8192 if self.vocab_size > _LLAMA_3_PIECES else 4096)

    def facts(self, name: str, context_length: int | None) -> Facts:
        vocab_size = self.vocab_size if self.vocab_size > 0 else None
        return Facts(name, self.n_layers, self.dim, vocab_size, self.length(context_length), self.d_mlp, self.dim)
