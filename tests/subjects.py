"""A language model and an SAE whose latents are planted: each fires on one word, and makes the model say it.

The model is a real Llama with its attention and MLPs silenced: what stands at ``layers.0`` is the embedding of the token
that stands there, and what is said next is read from it. Latent i's encoder row looks for word i, its decoder row is the
direction in which the unembedding of word i grows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tasks.lm.contexts import Context
from tasks.spec import Runtime
from tasks.steering.effects import Change, changes, kl
from tasks.steering.push import Positions, Push, Row
from tasks.steering.subject import Subject
from tests.planted import FILLER, WORDS

HOOKPOINT = "layers.0"
D = 64


def _tokenizer():
    """Whole words as tokens, spaces in front as a part of them, BOS in front of texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<s>", "</s>", "<unk>", *(f"\u2581{word}" for word in [*WORDS, *FILLER, "The", "It", "I", "think", "that"])]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@cache
def world(norm: str = "rms"):
    """The subject, made once: its model on the CPU, latent i for ``WORDS[i]``."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tasks.kinds import decode
    from tasks.lm.language_model import LanguageModel
    from tasks.norms.base import FittedNorm, Statistics
    from tasks.saes.topk import TopK
    from tasks.steering.subject import Subject
    from tasks.trained import TrainedSAE

    tokenizer = _tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=D, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=64, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval().requires_grad_(False)
        model.model.embed_tokens.weight.normal_(0.5, 2)
        model.lm_head.weight.normal_(0, 0.3)
    for block in model.model.layers:
        block.self_attn.o_proj.weight.zero_()
        block.mlp.down_proj.weight.zero_()
    lm = LanguageModel(model, tokenizer, "cpu", 2, "planted")
    table = model.model.embed_tokens.weight
    ids = tokenizer.convert_tokens_to_ids([f"\u2581{word}" for word in WORDS])
    kind = decode("tasks.norms", {"kind": norm}, "norm")
    fitted = FittedNorm(kind, kind.fit(Statistics.of(table), [table]))
    sae = TopK(k=len(WORDS), n_latents=len(WORDS), expansion_factor=None).build(D)
    seen = fitted.apply(table)[0]
    mean = seen.mean(0)
    sae.b_dec_D = mean
    sae.W_enc_ND = torch.nn.functional.normalize(seen[ids] - mean, dim=-1)
    pre = (seen - mean) @ sae.W_enc_ND.T  # V words by N latents: each must be far above what others' words come to
    own = pre[ids, range(len(ids))]
    others = pre.clone()
    others[ids, range(len(ids))] = -1e9
    sae.b_enc_N = -(own + others.max(0).values) / 2
    sae.W_dec_ND = torch.nn.functional.normalize(model.lm_head.weight[ids] - model.lm_head.weight.mean(0), dim=-1)
    return Subject(lm, TrainedSAE(sae, fitted, HOOKPOINT))


def largest(norm: str = "rms") -> list[float]:
    """Each latent's activation on its own word."""
    from tasks.steering.firing import fired

    found = fired(world(norm), [f"the {word}" for word in WORDS], range(len(WORDS)))
    return [float(one.largest_L[i]) for i, one in enumerate(found)]


def bench():
    """What a scorer measures with, on the planted subject."""
    from tasks.scorers.base import Bench

    return Bench(Runtime(mode="inline", device="cpu"), world)


def write(folder: Path, norm: str = "rms") -> Path:
    """The planted model as a Hugging Face folder."""
    lm = world(norm).lm
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


class Effect(NamedTuple):
    """The next token of some prompts, with and without a push."""

    kl: float
    """Mean over prompts of the KL divergence in nats; see ``kl``."""

    raised: tuple[Change, ...]
    """Tokens whose probability rises, most first."""

    lowered: tuple[Change, ...]
    """Tokens whose probability falls, most first; the numbers are negative."""


def effect(
    subject: Subject, prompts: Sequence[Context], pushes: Sequence[Push], positions: Positions = "all", n: int = 10
) -> Effect:
    """What some pushes, together, do to the token after each prompt."""
    rows = [Row(prompt) for prompt in prompts] + [Row(prompt, tuple(pushes)) for prompt in prompts]
    log_p_PV, log_q_PV = subject.next_log_probs(rows, positions).chunk(2)
    mean = float(kl(log_p_PV, log_q_PV).mean())
    return Effect(mean, *changes(log_p_PV, log_q_PV, subject.lm.token_strings(), n))
