"""A small world for whole runs in tests: a corpus from a little grammar, a random Llama, a tokenizer."""

from __future__ import annotations

import random
from pathlib import Path

SUBJECTS = ["the cat", "a dog", "the old man", "my sister", "the farmer", "a bird"]
VERBS = ["saw", "ate", "found", "painted", "carried", "dropped"]
OBJECTS = ["a red apple", "the blue ball", "some bread", "the green door", "a stone", "two letters"]
PLACES = ["in the garden", "at school", "near the river", "on monday", "before lunch", "under the table"]


def sentences(n: int, seed: int = 0) -> list[str]:
    """``n`` short sentences, many of them different."""
    draw = random.Random(seed)
    return [
        f"{draw.choice(SUBJECTS)} {draw.choice(VERBS)} {draw.choice(OBJECTS)} {draw.choice(PLACES)}.".capitalize()
        for _ in range(n)
    ]


def write_corpus(path: Path, n_documents: int = 60, per_document: int = 12, seed: int = 0) -> Path:
    """A Parquet file with columns text and doc."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = sentences(n_documents * per_document, seed)
    documents = [i // per_document for i in range(len(texts))]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": texts, "doc": documents}), path)
    return path


def write_model(folder: Path, d_model: int = 32, n_layers: int = 3, seed: int = 0) -> Path:
    """A random Llama and a byte-level tokenizer with BOS, as a Hugging Face folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(sentences(2000), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=d_model,
        intermediate_size=2 * d_model,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>").save_pretrained(folder)
    return folder


def overrides(folder: Path) -> list[str]:
    """What makes ``saint run`` a matter of seconds on the world in ``folder``, which is made if absent."""
    if not (folder / "model").exists():
        write_model(folder / "model")
        write_corpus(folder / "corpus.parquet")
    return [
        "corpus=parquet",
        f"corpus.path={folder / 'corpus.parquet'}",
        "corpus.document_column=doc",
        "lm=hf",
        f"lm.path={folder / 'model'}",
        "capture.hookpoints=[layers.1]",
        "capture.n_shards=3",
        "capture.context_tokens=64",
        "sae.k=4",
        "sae.expansion_factor=4",
        "train.n_tokens=40000",
    ]
