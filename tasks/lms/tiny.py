"""A small Llama, trained on the run's own corpus on the spot: a real language model on every machine, in a minute."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tasks.lazy import F, np, torch, transformers
from tasks.lms.base import Facts, LMSpec
from tasks.stage import Job, Summary

if TYPE_CHECKING:
    from torch import Tensor

_BOS = "<s>"
_CHECKPOINT = "tiny.pt"


class Tiny(LMSpec):
    """A Llama of about half a million parameters with a byte-level BPE tokenizer."""

    NEEDS_CORPUS: ClassVar[bool] = True
    kind: Literal["tiny"] = "tiny"

    d_model: int = Field(96, ge=8)
    """Width of the residual stream."""

    n_layers: int = Field(3, ge=1)
    n_heads: int = Field(4, ge=1)
    """d_model is a multiple of it."""

    vocab_size: int = Field(2048, ge=300)
    """Tokens, the 256 bytes and BOS among them."""

    context_tokens: int = Field(128, ge=8)
    """Longest text it reads, BOS included."""

    n_steps: int = Field(700, ge=1)
    """Optimiser steps."""

    batch_contexts: int = Field(16, ge=1)
    """Contexts in a step."""

    lr: float = Field(4e-3, gt=0)
    """Peak learning rate of AdamW."""

    seed: int = 0

    def facts(self) -> Facts:
        return Facts("tiny", self.n_layers, self.d_model, self.vocab_size, self.context_tokens, self.d_mlp, self.d_model)

    @property
    def d_mlp(self) -> int:
        """Width of an MLP's hidden activations."""
        return int(self.d_model * 8 / 3) // 8 * 8

    def provide(self, job: Job) -> Summary:
        from tasks.corpus import sentences

        table = sentences(job.one("corpus"), "train")
        tokenizer = self._tokenizer(table["text"].to_pylist())
        tokenizer.save_pretrained(job.out / "model")
        from tasks.lm.contexts import contexts
        from tasks.lm.loading import quiet

        joiner = job.one("corpus").summary["joiner"]
        rows = [c.token_id for c in contexts(table, tokenizer, tokenizer.bos_token_id, self.context_tokens, "document", joiner)]
        model, loss = self._trained(job, rows, tokenizer)
        with quiet():
            model.save_pretrained(job.out / "model")
        return {
            **self.facts()._asdict(),
            "vocab_size": len(tokenizer),
            "kind": self.kind,
            "path": None,
            "hub_id": None,
            "revision": None,
            "fingerprint": None,
            "model_type": "llama",
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "n_parameters": sum(p.numel() for p in model.parameters()),
            "loss": round(loss, 4),
        }

    def _tokenizer(self, texts: list[str]) -> Any:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            special_tokens=[_BOS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        bpe.train_from_iterator(texts, trainer)
        bpe.post_processor = processors.TemplateProcessing(single=f"{_BOS} $A", special_tokens=[(_BOS, 0)])
        return transformers.PreTrainedTokenizerFast(
            tokenizer_object=bpe, bos_token=_BOS, eos_token=_BOS, model_max_length=self.context_tokens
        )

    def _model(self, vocab_size: int) -> Any:
        config = transformers.LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=self.d_model,
            intermediate_size=self.d_mlp,
            num_hidden_layers=self.n_layers,
            num_attention_heads=self.n_heads,
            num_key_value_heads=self.n_heads,
            max_position_embeddings=self.context_tokens,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return transformers.LlamaForCausalLM(config)

    def _trained(self, job: Job, rows: list[np.ndarray], tokenizer: Any) -> tuple[Any, float]:
        """The model after all steps, going on from a dead attempt's checkpoint, and its loss over the last tenth."""
        from tasks.lm.loading import device_of

        device = device_of(job.runtime)
        model = self._model(len(tokenizer)).to(device).train()
        optimiser = torch.optim.AdamW(model.parameters(), lr=self.lr, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
        step, losses = 0, []
        found = job.attempt.recover(_CHECKPOINT)
        if found is not None:
            held = torch.load(found, map_location=device, weights_only=True)
            model.load_state_dict(held["model"])
            optimiser.load_state_dict(held["optimiser"])
            step, losses = held["step"], held["losses"]
        n_tokens = int(np.mean([len(r) for r in rows]) * self.batch_contexts)
        saved = time.monotonic()
        with job.progress.bar("language model", self.n_steps, "steps") as bar:
            bar.advance(step)
            for token_BT, mask_BT in self._batches(rows, step):
                for group in optimiser.param_groups:
                    group["lr"] = self.lr * self._schedule(step)
                token_BT, mask_BT = token_BT.to(device), mask_BT.to(device)
                # No attention mask: padding is on the right, and a causal model never looks there.
                with torch.autocast(device.split(":")[0], torch.bfloat16):
                    logits = model(input_ids=token_BT, use_cache=False).logits[:, :-1]
                target = token_BT[:, 1:].masked_fill(~mask_BT[:, 1:], -100)
                loss = F.cross_entropy(logits.flatten(0, 1).float(), target.flatten(), ignore_index=-100)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimiser.step()
                losses.append(loss.item())
                step += 1
                bar.advance(1, loss=round(losses[-1], 3), tokens_per_step=n_tokens)
                if step == self.n_steps:
                    break
                if time.monotonic() - saved > job.runtime.checkpoint_seconds:
                    state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step, "losses": losses}
                    _save(state, job.attempt.scratch / _CHECKPOINT)
                    job.attempt.check()
                    job.attempt.save(_CHECKPOINT)
                    saved = time.monotonic()
        last = losses[-max(1, len(losses) // 10) :]
        return model.eval().to("cpu"), sum(last) / len(last)

    def _schedule(self, step: int) -> float:
        """Warm-up over a twentieth of the steps, then half a cosine down to a tenth."""
        warm = max(1, self.n_steps // 20)
        if step < warm:
            return (step + 1) / warm
        return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.n_steps - warm)))

    def _batches(self, rows: list[np.ndarray], start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches from a step on; the order is a function of (seed, epoch)."""
        size = min(self.batch_contexts, len(rows))
        per_epoch = len(rows) // size
        step = start
        while True:
            order = np.random.Generator(np.random.Philox(key=[self.seed, step // per_epoch])).permutation(len(rows))
            for i in range(step % per_epoch, per_epoch):
                chosen = [rows[j] for j in order[i * size : (i + 1) * size]]
                token, mask = (np.zeros((size, max(map(len, chosen))), kind) for kind in ("int64", "bool"))
                for row, ids in enumerate(chosen):
                    token[row, : len(ids)], mask[row, : len(ids)] = ids, True
                yield torch.from_numpy(token), torch.from_numpy(mask)
                step += 1


def _save(state: dict[str, Any], path: Any) -> None:
    """Whole or not at all."""
    draft = path.with_suffix(".tmp")
    torch.save(state, draft)
    draft.replace(path)
