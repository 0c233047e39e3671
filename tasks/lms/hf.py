"""Any causal language model of transformers 5: a local folder, or the hub by id and commit. Safetensors only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, Self

from tasks.lm.pretrained import Pretrained
from tasks.lms.base import Facts, LMSpec
from tasks.spec import SpecError
from tasks.stage import Job, Summary


class HF(Pretrained, LMSpec):
    """A pretrained model, as it is."""

    kind: Literal["hf"] = "hf"

    def pinned(self) -> Self:
        if self.path and self.hub_id:
            raise SpecError(f"lm.path = {self.path!r}, but lm.hub_id is {self.hub_id!r} too; set one of them to null")
        return super().pinned()

    def facts(self) -> Facts | None:
        file = self._config_file()
        return None if file is None else facts_of(json.loads(file.read_text()), self.hub_id or Path(self.path or "").name)

    def _config_file(self) -> Path | None:
        if self.path:
            return Path(self.path) / "config.json"
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.hub_id or "", "config.json", revision=self.revision)
        return Path(found) if isinstance(found, str) else None

    def provide(self, job: Job) -> Summary:
        from tasks.lazy import transformers
        from tasks.lm.loading import quiet

        source = self.path or self.hub_id
        options = {"revision": self.revision, "trust_remote_code": False, "local_files_only": self.path is not None}
        with quiet():
            config = transformers.AutoConfig.from_pretrained(source, **options)
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
        facts = facts_of(config.to_dict(), str(self.hub_id or Path(self.path or "").name))
        return {
            **facts._asdict(),
            "kind": self.kind,
            "path": self.path,
            "hub_id": self.hub_id,
            "revision": self.revision,
            # The folder may have changed since the run was composed: what was planned is what must be read.
            "fingerprint": self.fingerprint,
            "model_type": config.model_type,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        }


_ADD_POSITIONS = {"gpt2", "gpt_neo", "gpt_bigcode", "openai-gpt", "opt", "biogpt", "xglm", "ctrl"}
"""Model types whose positions are vectors that are added to the embeddings, and no rotations in attention."""


def facts_of(config: dict[str, Any], name: str) -> Facts:
    """Shape of a model from its config.json, under the names that model families give it. Raises ``SpecError``."""
    inner = config.get("text_config") or config

    def first(*names: str) -> int | None:
        return next((int(inner[n]) for n in names if isinstance(inner.get(n), int)), None)

    n_layers, d_model = first("num_hidden_layers", "n_layer", "n_layers"), first("hidden_size", "n_embd", "d_model")
    if n_layers is None or d_model is None:
        raise SpecError(f"lm = {name!r}, but its config.json names no number of layers or width; use a causal language model")
    n_heads = first("num_attention_heads", "n_head", "num_heads")
    d_heads = None if n_heads is None else n_heads * (first("head_dim") or d_model // n_heads)
    d_mlp = first("intermediate_size", "n_inner", "ffn_dim") or (4 * d_model if inner.get("model_type") == "gpt2" else None)
    length = first("max_position_embeddings", "n_positions", "n_ctx")
    adds = inner.get("model_type") in _ADD_POSITIONS
    return Facts(name, n_layers, d_model, first("vocab_size"), length, d_mlp, d_heads, adds)
